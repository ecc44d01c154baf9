"""The networks of U-SAID against outputs of the published code, and against PyTorch.

The golden files hold outputs only: weights and inputs follow from ``rule.py``.
"""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

import zoo_jax
from zoo_jax.convert import apply, invert, read_weights
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.data.media import decode_image
from zoo_jax.methods.u_said.convert import (
    dncnn_table,
    fpn_segmentation_table,
    multiscale_denoiser_table,
)
from zoo_jax.methods.u_said.losses import focal_argmax_loss
from zoo_jax.methods.u_said.model import (
    RGB_MEAN,
    build_dncnn,
    build_fpn_segmentation,
    build_multiscale_denoiser,
)
from zoo_jax.methods.u_said.task import restore
from zoo_jax.metrics.image import psnr, ssim_uniform

PUBLISHED = {"dncnn": "DnCNN", "ssaid": "SSAID", "usaid": "USAID"}


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


def template(module, side=48):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), x))


def run(module, variables, x):
    """Output and inner outputs in eval mode."""
    capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
    y, state = jax.jit(lambda v, x: module.apply(v, x, **capture))(variables, x)
    inner = named_leaves(state["intermediates"])
    return y, {n.removesuffix("/__call__/0"): value for n, value in inner.items()}


def run_train(module, variables, x):
    """Output in training mode, and variables with the running statistics after it."""
    y, state = jax.jit(
        lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, x)
    return y, {"params": variables["params"], **state}


def test_denoiser_agrees_in_both_modes_and_in_its_running_statistics():
    file, module = Golden("u_said_dncnn.npz"), build_dncnn()
    variables = apply(dncnn_table(), file.weights, template(module))
    noisy = file.inputs["clean"] + file.inputs["noise"]
    residual, inner = run(module, variables, noisy)
    train, after = run_train(module, variables, noisy)
    running = invert(dncnn_table(), after)
    file.compare(
        {
            "residual": residual,
            "denoised": jnp.clip(noisy - residual, 0, 1),
            "mid": jax.nn.relu(inner["bn10"]),  # the published stack up to dncnn.28
            "train/residual": train,
            **{
                f"updated/dncnn.3.running_{s}": running[f"dncnn.3.running_{s}"]
                for s in ("mean", "var")
            },
        }
    )
    assert count_parameters(variables["params"]) == file.meta["parameters"] == 669_312


def test_ancestor_agrees_layer_by_layer():
    file, module = Golden("u_said_ancestor_denoiser.npz"), build_multiscale_denoiser()
    variables = apply(multiscale_denoiser_table(), file.weights, template(module, 44))
    y, inner = run(module, variables, file.inputs["x"])
    same = ("conv0", "upsample_r2", "upsample", "concat_reduction")
    relu = {f"conv{i}_ReLU": jax.nn.relu(inner[f"conv{i}_bn"]) for i in (1, 2)}
    blocks = {f"residual_{i}_ReLU": inner[f"residual_{i}"] for i in (1, 2, 3)}
    file.compare({"sum": y, **{name: inner[name] for name in same}, **relu, **blocks})
    assert count_parameters(variables["params"]) == file.meta["parameters"] == 1_033_443


def test_segmentation_network_has_the_published_number_of_parameters():
    variables = template(build_fpn_segmentation())
    assert count_parameters(variables["params"]) == 47_121_493
    assert count_parameters(variables["params"]["resnet"]) == 42_500_160
    small = template(build_fpn_segmentation(num_classes=5))
    assert count_parameters(small["params"]) == 42_500_160 + 4_524_544 + 5 * 4_609


@pytest.mark.slow  # compiles a ResNet-101 forwards and backwards
def test_segmentation_network_and_its_uncertainty_agree_with_the_published_code():
    file, module = Golden("u_said_fpn_seg.npz"), build_fpn_segmentation()
    variables = apply(fpn_segmentation_table(), file.weights, template(module))
    x = file.inputs["x"] - jnp.array(RGB_MEAN).reshape(1, 1, 1, 3)
    capture = {"capture_intermediates": True, "mutable": ["intermediates"]}

    def loss(x, variables):
        logits, state = module.apply(variables, x, **capture)
        return jnp.mean(focal_argmax_loss(logits)), (logits, state)

    (value, (logits, state)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        x, variables
    )
    inner = named_leaves(state["intermediates"])
    head = ("toplayer", "smooth1_2", "smooth4_2")
    trunk = {f"resnet.layer{i}": f"resnet/layer{i}_2" for i in (1, 4)}
    places = trunk | {f"fpn.{name}": name for name in head}
    file.compare(
        {
            "logits": logits,
            "usa_loss": value,
            "usa_grad_logits": jax.grad(lambda z: jnp.mean(focal_argmax_loss(z)))(
                logits
            ),
            "usa_grad_input": grad,
            "train/logits": run_train(module, variables, x)[0],
            **{name: inner[f"{ours}/__call__/0"] for name, ours in places.items()},
        }
    )


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("suffix", ["npz", "pth"])
def test_published_denoisers_agree(shared, name, suffix):
    if suffix == "pth":
        pytest.importorskip("torch")
    file = Golden(shared("golden", f"u_said_published_{name}.npz"))
    path = shared("weights", "u_said", f"{PUBLISHED[name]}.{suffix}")
    noisy = file.inputs["clean"] + file.inputs["noise"]
    residual = zoo_jax.create_model("u_said/dncnn", weights=path)(noisy)
    file.compare({"residual": residual, "denoised": jnp.clip(noisy - residual, 0, 1)})


def test_missing_and_foreign_keys_are_named_together():
    weights = {f"module.{k}": v for k, v in Golden("u_said_dncnn.npz").weights.items()}
    zoo_jax.create_model("u_said/dncnn", weights=weights)
    weights["module.dncnn.59.weight"] = weights.pop("module.dncnn.56.weight")
    with pytest.raises(WeightsError, match=r"dncnn\.59\.weight.*dncnn\.56\.weight"):
        zoo_jax.create_model("u_said/dncnn", weights=weights)


def torch_segmentation(torch, blocks, width, pyramid, smooth, classes):
    """The segmentation network once more, in PyTorch and from its description."""
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, inputs, features, stride, project):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, features, 1, bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(features, 4 * features, 1, bias=False)
            for i, size in enumerate((features, features, 4 * features), 1):
                setattr(self, f"bn{i}", nn.BatchNorm2d(size))
            self.downsample = None
            if project:
                skip = nn.Conv2d(inputs, 4 * features, 1, stride, bias=False)
                self.downsample = nn.Sequential(skip, nn.BatchNorm2d(4 * features))

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
            return F.relu(y + (self.downsample(x) if self.downsample else x))

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            inputs = width
            for group, count in enumerate(blocks):
                layers = []
                for i in range(count):
                    stride = 2 if group and not i else 1
                    features = width * 2**group
                    layers.append(Block(inputs, features, stride, not i))
                    inputs = 4 * features
                setattr(self, f"layer{group + 1}", nn.Sequential(*layers))

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            maps = []
            for i in (1, 2, 3, 4):
                x = getattr(self, f"layer{i}")(x)
                maps.append(x)
            return maps

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.toplayer = nn.Conv2d(32 * width, pyramid, 1)
            for i, c in enumerate((16, 8, 4), 1):
                setattr(self, f"latlayer{i}", nn.Conv2d(c * width, pyramid, 1))
            for i in (1, 2, 3, 4):
                setattr(self, f"smooth{i}_1", nn.Conv2d(pyramid, pyramid, 3, 1, 1))
                setattr(self, f"smooth{i}_2", nn.Conv2d(pyramid, smooth, 3, 1, 1))
            self.classify = nn.Conv2d(4 * smooth, classes, 3, 1, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.resnet, self.fpn = Trunk(), Head()

        def forward(self, x):
            def up(x, like):
                size = like.shape[2:]
                return F.interpolate(x, size, mode="bilinear", align_corners=False)

            c2, c3, c4, c5 = self.resnet(x)
            levels = [self.fpn.toplayer(c5)]
            for i, c in enumerate((c4, c3, c2), 1):
                lateral = getattr(self.fpn, f"latlayer{i}")(c)
                levels.append(up(levels[-1], lateral) + lateral)
            levels = [
                getattr(self.fpn, f"smooth{i}_2")(getattr(self.fpn, f"smooth{i}_1")(p))
                for i, p in enumerate(levels, 1)
            ]
            return self.fpn.classify(torch.cat([up(p, levels[-1]) for p in levels], 1))

    return Net().eval()


@pytest.mark.torch
@pytest.mark.parametrize("size", [(47, 65), (50, 33)])
def test_small_segmentation_network_agrees_with_pytorch_at_odd_sizes(size):
    torch = pytest.importorskip("torch")
    sizes = dict(blocks=(1, 2, 1, 1), width=4, pyramid=12, smooth=6)
    network = torch_segmentation(torch, *sizes.values(), classes=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in network.state_dict().items():
            noise = torch.empty(p.shape).normal_(generator=generator)
            if name.endswith("running_var"):
                p.copy_(0.5 + noise.abs())
            elif p.ndim > 1:
                p.copy_(noise * (2 / p[0].numel()) ** 0.5)
            elif p.ndim == 1:
                p.copy_(0.1 * noise + (".bn" in name and name.endswith("weight")))
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    weights = {f"module.{k}": v.numpy() for k, v in network.state_dict().items()}
    module = build_fpn_segmentation(num_classes=5, **sizes)
    variables = apply(fpn_segmentation_table((1, 2, 1, 1)), weights, template(module))
    got = np.asarray(jax.jit(module.apply)(variables, x)).transpose(0, 3, 1, 2)
    assert got.shape == expected.shape == (2, 5, *(-(-n // 4) for n in size))
    assert expected.std() > 0.05
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_published_denoisers_reach_their_known_psnr_on_a_whole_photograph(shared):
    """kodim24, sigma 25, with the noise of the numbers that are compared."""
    archive = zipfile.ZipFile(shared("data", "kodak24", "kodak24.zip"))
    clean = decode_image(archive.read("24.png")).astype(np.float32)[None] / 255
    assert clean.shape == (1, 512, 768, 3)
    noise = np.random.RandomState(24).normal(size=clean.shape[1:]) * (25 / 255)
    noisy = clean + noise.astype(np.float32)[None]
    expected = {
        "DnCNN": (30.715, 0.8883),
        "SSAID": (30.485, 0.8820),
        "USAID": (30.598, 0.8854),
    }
    for name, (decibel, likeness) in expected.items():
        path = shared("weights", "u_said", f"{name}.npz")
        estimate = zoo_jax.create_model("u_said/dncnn", weights=path)(noisy)
        denoised = restore(noisy, estimate)
        # The numbers are rounded at their last digit.
        assert float(psnr(denoised, clean)[0]) == pytest.approx(decibel, abs=1e-3)
        got = float(ssim_uniform(denoised, clean)[0])
        assert got == pytest.approx(likeness, abs=1e-4)


def test_published_arrays_are_the_same_in_both_formats(shared):
    pytest.importorskip("torch")
    for name in PUBLISHED.values():
        a, b = (
            read_weights(shared("weights", "u_said", f"{name}.{suffix}"))
            for suffix in ("npz", "pth")
        )
        assert len(a) == 92
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[k], b[k]) for k in a)
