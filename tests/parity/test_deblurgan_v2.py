"""The networks of DeblurGAN-v2 against outputs of the published code, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from zoo_jax.convert import apply, invert
from zoo_jax.convert.vgg import vgg19_features_table
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deblurgan_v2.convert import discriminator_table, resnet9_table
from zoo_jax.methods.deblurgan_v2.model import build_resnet9
from zoo_jax.models import create_model, model_table
from zoo_jax.nn.vgg import Vgg19Features

# Outputs of inner modules: published name -> ours.
INNER = {
    **{f"fpn.td{i}": f"decoder/top_down{4 - i}" for i in (1, 2, 3)},
    **{name: f"decoder/{name}" for name in ("smooth", "smooth2", "final")},
    **{f"head{i}": f"decoder/head{i}" for i in (1, 4)},
    "fpn.lateral4": "decoder/lateral4",
}


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


class Network:
    """A published generator with its golden file."""

    def __init__(self, name):
        self.file = Golden(f"deblurgan_v2_{name}.npz")
        # As it is published: nested, and from data-parallel training.
        nested = {"model": {f"module.{k}": v for k, v in self.file.weights.items()}}
        self.model = create_model(f"deblurgan_v2/{name}", weights=nested)
        self.table = model_table(self.model.name, self.model.module)

    def run(self, x, *, mode, train=False):
        """The output, inner outputs by their published names, and the state left behind."""
        module = self.model.module.clone(norm_mode=mode)
        y, state = jax.jit(
            lambda v, x: module.apply(
                v,
                x,
                train=train,
                capture_intermediates=True,
                mutable=["intermediates", *(["batch_stats"] if train else [])],
            )
        )(self.model.variables, x)
        leaves = named_leaves(state["intermediates"])
        inner = {
            name: leaves[f"{ours}/__call__/0"]
            for name, ours in INNER.items()
            if f"{ours}/__call__/0" in leaves
        }
        taps = state["intermediates"]["backbone"]["__call__"][0]
        return y, inner | {f"fpn.enc{i}": tap for i, tap in enumerate(taps)}, state

    def check(self, prefix, y, outputs, name):
        """Compares what the file holds for one mode; it must be all of that mode."""
        found = {f"{prefix}/{k}": v for k, v in outputs.items()} | {name: y}
        wanted = [
            k for k in self.file.meta["outputs"] if k.startswith(prefix) or k == name
        ]
        self.file.compare({k: found[k] for k in wanted}, of=wanted)

    def check_training(self):
        """Statistics of one image, everywhere; running ones after it."""
        y, inner, state = self.run(self.file.inputs["x"], mode="per_image", train=True)
        self.check("train", y, inner, "y_train")
        params = self.model.variables["params"]
        after = {"params": params, "batch_stats": state["batch_stats"]}
        running = invert(self.table, after)
        wanted = [k for k in self.file.meta["outputs"] if k.startswith("updated/")]
        assert len(wanted) == 4
        self.file.compare(
            {k: running[k.removeprefix("updated/")] for k in wanted}, of=wanted
        )

    def check_running(self):
        y, inner, _ = self.run(self.file.inputs["x"], mode="running")
        self.check("eval", y, inner, "y_eval")

    def check_batch(self):
        both = jnp.concatenate([self.file.inputs["x"], self.file.inputs["x2"]])
        y, *_ = self.run(both, mode="batch")
        self.file.compare({"y_train_batch2": y}, of=["y_train_batch2"])


def test_mobilenet_generator_agrees_in_every_mode_and_inside():
    network = Network("fpn_mobilenet")
    network.check_training()
    network.check_running()
    network.check_batch()


def test_inception_generator_agrees_image_by_image_and_inside():
    Network("fpn_inception").check_training()


@pytest.mark.slow  # compiles the largest network twice more
def test_inception_generator_agrees_by_running_statistics_and_on_batches():
    network = Network("fpn_inception")
    network.check_running()
    network.check_batch()


@pytest.mark.slow  # it differs from the other Inception generator by what it leaves out
def test_simple_inception_generator_agrees_in_every_mode_and_inside():
    network = Network("fpn_inception_simple")
    network.check_training()
    network.check_running()
    network.check_batch()


def test_discriminators_agree_in_both_modes():
    file, outputs = Golden("deblurgan_v2_discriminators.npz"), {}
    for name in ("patch", "full"):
        prefix = f"{name}.model."
        weights = {
            f"model.{k.removeprefix(prefix)}": v
            for k, v in file.weights.items()
            if k.startswith(prefix)
        }
        model = create_model(f"deblurgan_v2/{name}_discriminator", weights=weights)
        x = file.inputs["x"]
        outputs[f"{name}/train"] = model(x)
        running = model.module.clone(norm_mode="running")
        outputs[f"{name}/eval"] = model._replace(module=running)(x)
    file.compare(outputs)


def test_vgg_features_agree_before_the_relu():
    file, module = Golden("deblurgan_v2_perceptual.npz"), Vgg19Features()
    x = (file.inputs["fake"] + 1) / 2
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = (x - np.reshape(mean, (1, 1, 1, 3))) / np.reshape(std, (1, 1, 1, 3))
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = apply(vgg19_features_table(), file.weights, dict(template))
    features = jax.jit(module.apply)(variables, x.astype(jnp.float32))
    assert float(features.min()) < -0.1
    file.compare({"features_fake": features}, of=["features_fake"])


def torch_resnet9(torch, width, blocks, dropout):
    """The first generator once more, in PyTorch and from its description."""
    nn = torch.nn

    def norm(channels):
        return nn.InstanceNorm2d(channels, affine=False, track_running_stats=True)

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            layers = []
            for i in (0, 1):
                layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)]
                layers += [norm(channels)] + ([nn.ReLU()] if i == 0 else [])
                layers += [nn.Dropout(dropout)] if i == 0 and dropout else []
            self.conv_block = nn.Sequential(*layers)

        def forward(self, x):
            return x + self.conv_block(x)

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7)]
            layers += [norm(width), nn.ReLU()]
            for i in (1, 2):
                wide = width * 2**i
                layers += [nn.Conv2d(wide // 2, wide, 3, 2, 1), norm(wide), nn.ReLU()]
            layers += [Block(4 * width) for _ in range(blocks)]
            for i in (2, 1):
                wide = width * 2 ** (i - 1)
                up = nn.ConvTranspose2d(2 * wide, wide, 3, 2, 1, output_padding=1)
                layers += [up, norm(wide), nn.ReLU()]
            layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
            self.model = nn.Sequential(*layers)

        def forward(self, x):
            return torch.clamp(x + self.model(x), -1, 1)

    return Generator()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_first_generator_agrees_with_pytorch(dropout):
    torch = pytest.importorskip("torch")
    sizes = dict(width=6, blocks=2)
    network = torch_resnet9(torch, dropout=dropout, **sizes).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in network.state_dict().items():
            noise = torch.empty(p.shape).normal_(generator=generator)
            if name.endswith("running_var"):
                p.copy_(0.5 + noise.abs())
            elif p.ndim > 1:
                p.copy_(noise * (2 / p[0].numel()) ** 0.5)
            elif p.ndim == 1:
                p.copy_(0.1 * noise)
    weights = {f"module.{k}": v.numpy().copy() for k, v in network.state_dict().items()}
    x = np.random.default_rng(0).uniform(-0.6, 0.6, (2, 20, 28, 3)).astype(np.float32)
    module = build_resnet9(dropout=dropout, **sizes)
    template = jax.eval_shape(
        lambda key, x: module.init(key, x, train=False), jax.random.key(0), x
    )
    variables = apply(resnet9_table(2, dropout), weights, dict(template))
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for mode in ("running", "per_image"):
        if mode == "per_image":
            for layer in network.modules():
                layer.training = isinstance(layer, torch.nn.InstanceNorm2d)
        with torch.no_grad():
            expected = network(nchw).numpy().transpose(0, 2, 3, 1)
        run = jax.jit(module.clone(norm_mode=mode).apply, static_argnames="train")
        got = np.asarray(run(variables, x, train=False))
        assert expected.std() > 0.2
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_a_discriminator_of_any_depth_has_a_table():
    keys = [entry.source for entry in discriminator_table(1).entries]
    assert keys == [
        *("model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"),
        *("model.3.running_mean", "model.3.running_var"),
        *("model.5.weight", "model.5.bias"),
    ]
