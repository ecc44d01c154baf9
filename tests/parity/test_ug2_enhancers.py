"""The enhancing networks of UG^2 against a released network's outputs, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from zoo_jax.convert import apply, invert
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.methods.ug2.model import (
    build_arcnn,
    build_srcnn,
    build_srnet,
    build_vdsr,
    dirac,
)
from zoo_jax.methods.ug2.tables import (
    arcnn_table,
    srcnn_table,
    srnet_table,
    vdsr_table,
)


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


def template(module, channels=3):
    x = jax.ShapeDtypeStruct((1, 16, 16, channels), jnp.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), x))


@pytest.fixture(scope="module")
def golden():
    file = Golden("ug2_srnet.npz")
    return file, apply(srnet_table(), file.weights, template(build_srnet()))


def test_srnet_agrees_in_both_modes_and_in_its_running_statistics(golden):
    file, variables = golden
    module = build_srnet()

    @jax.jit
    def run(variables, x):
        capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
        y, state = module.apply(variables, x, **capture)
        return y, state, module.apply(variables, x, train=True, mutable=["batch_stats"])

    y, state, (train, after) = run(variables, file.inputs["x"])
    inner = named_leaves(state["intermediates"])
    running = invert(srnet_table(), {"params": variables["params"], **after})
    file.compare(
        {
            "y": y,
            "train/y": train,
            "conv3": jax.nn.relu(inner["conv3/__call__/0"]),
            "res_block1": inner["res_block1/__call__/0"],
            "res_block4": inner["res_block4/__call__/0"],
            "updated/bn4.running_var": running["bn4.running_var"],
        }
    )
    assert count_parameters(variables["params"]) == file.meta["parameters"] == 364_166


def test_missing_and_foreign_keys_of_srnet_are_named(golden):
    file, _ = golden
    arrays = dict(file.weights)
    arrays["res_block5.conv1.weight"] = arrays.pop("res_block4.conv1.weight")
    with pytest.raises(WeightsError, match=r"res_block5\.conv1\.weight") as error:
        apply(srnet_table(), arrays, template(build_srnet()))
    assert "res_block4.conv1.weight" in str(error.value)


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (build_srcnn(), 8_129),
        (build_vdsr(), 664_704),
        (build_arcnn(), 106_564),
        (build_arcnn(form="fast"), 64_837),
    ],
)
def test_networks_have_the_number_of_parameters_that_they_state(module, parameters):
    assert count_parameters(template(module, 1)["params"]) == parameters


def test_an_identity_kernel_hands_channels_on():
    x = jnp.asarray(np.random.default_rng(0).random((1, 6, 7, 3), np.float32))
    kernel = dirac(None, (3, 3, 3, 5))
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_array_equal(out[..., :3], x)
    np.testing.assert_array_equal(out[..., 3:], 0)


@pytest.mark.torch
def test_the_identity_start_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    for inputs, outputs, size in ((3, 8, 9), (8, 8, 3), (8, 3, 9)):
        theirs = torch.nn.init.dirac_(torch.empty(outputs, inputs, size, size))
        ours = dirac(None, (size, size, inputs, outputs))
        np.testing.assert_array_equal(ours, theirs.numpy().transpose(2, 3, 1, 0))


def torch_network(name, torch):
    """The published layout, out of plain layers."""
    nn = torch.nn
    if name == "srcnn":
        sizes = ((1, 64, 9), (64, 32, 1), (32, 1, 5))
        convs = [nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in sizes]
        stack = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        renamed = {"0": "conv1", "2": "conv2", "4": "conv3"}
        return stack, lambda key: f"{renamed[key[0]]}{key[1:]}"
    if name == "vdsr":
        layers = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU()]
        layers += [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU()]
        layers += [nn.Conv2d(4, 1, 3, padding=1, bias=False)]
        renamed = {"0": "input", "2": "residual_layer.0.conv", "4": "output"}
        return nn.Sequential(*layers), lambda key: f"{renamed[key[0]]}{key[1:]}"
    if name == "arcnn":
        sizes = ((1, 64, 9, 1), (64, 32, 7, 1), (32, 16, 1, 1))
        last = nn.Conv2d(16, 1, 5, padding=2)
    else:
        sizes = ((1, 64, 9, 2), (64, 32, 1, 1), (32, 32, 7, 1), (32, 64, 1, 1))
        last = nn.ConvTranspose2d(64, 1, 9, stride=2, padding=4, output_padding=1)
    layers = []
    for a, b, k, stride in sizes:
        conv = nn.Conv2d(a, b, k, stride=stride, padding=k // 2)
        layers += [conv, nn.PReLU()]
    stack = nn.Sequential(nn.Sequential(*layers), last)
    renamed = {"0": "base", "1": "last"}
    return stack, lambda key: f"{renamed[key[0]]}{key[1:]}"


@pytest.mark.torch
@pytest.mark.parametrize("name", ["srcnn", "vdsr", "arcnn", "fast"])
def test_a_network_agrees_with_pytorch_on_even_and_odd_sizes(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network, rename = torch_network(name, torch)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    arrays = {rename(k): v.detach().numpy() for k, v in network.state_dict().items()}
    module, table = {
        "srcnn": (build_srcnn(), srcnn_table()),
        "vdsr": (build_vdsr(depth=3, features=4), vdsr_table(3)),
        "arcnn": (build_arcnn(), arcnn_table()),
        "fast": (build_arcnn(form="fast"), arcnn_table("fast")),
    }[name]
    variables = apply(table, arrays, template(module, 1))
    for height, width in ((12, 14),) if name == "fast" else ((11, 14),):
        x = np.random.default_rng(1).random((2, height, width, 1), np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
        if name == "vdsr":
            expected = expected + x.transpose(0, 3, 1, 2)
        found = jax.jit(module.apply)(variables, x)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            found, expected.transpose(0, 2, 3, 1), atol=2e-5 * scale
        )
    if name == "fast":
        x = jnp.asarray(x)[:, :11, :13]
        even = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
        run = jax.jit(module.apply)
        np.testing.assert_array_equal(
            run(variables, x), run(variables, even)[:, :11, :13]
        )
