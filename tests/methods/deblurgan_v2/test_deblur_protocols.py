"""Padding rules of the published programs, and what a network and its output see of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.methods.deblurgan_v2.cost import generator_macs
from zoo_jax.methods.deblurgan_v2.model import make_generator
from zoo_jax.methods.deblurgan_v2.protocols import (
    PROTOCOLS,
    padded_size,
    padding,
    restore,
)
from zoo_jax.models import create_model
from zoo_jax.restorer import Restorer


class Network:
    """Adds a constant, and remembers what it was given."""

    multiple, minimum = 32, 64

    def __init__(self, change=0.0):
        self.change = change

    def apply(self, variables, x, *, train):
        assert not train
        self.seen = np.asarray(x)
        return jnp.clip(x + self.change, -1, 1)


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("protocol", "size", "padded"),
    [
        ("predict", (720, 1280), (736, 1312)),
        ("predict", (256, 255), (288, 256)),
        ("test_metrics", (720, 1280), (736, 1280)),
        ("test_metrics", (256, 100), (256, 128)),
        ("reflect", (720, 1280), (736, 1280)),
        ("reflect", (3, 65), (64, 96)),
        ("predict", (3, 65), (64, 96)),
    ],
)
def test_sizes(protocol, size, padded):
    assert padded_size(Network(), protocol, *size) == padded


def test_only_ours_uses_a_finer_multiple():
    network = Network()
    network.multiple, network.minimum = 4, 8
    assert padded_size(network, "reflect", 6, 41) == (8, 44)
    assert padded_size(network, "predict", 6, 41) == (32, 64)
    assert padded_size(network, "test_metrics", 6, 41) == (32, 64)


def test_where_the_padding_lies():
    assert padding("test_metrics", 720, 1280) == ((8, 8), (0, 0))
    assert padding("test_metrics", 95, 90) == ((0, 1), (3, 3))
    assert padding("predict", 720, 1280) == ((0, 16), (0, 32))
    assert padding("reflect", 95, 90) == ((0, 1), (0, 6))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_network_sees_the_padded_image_between_minus_one_and_one(protocol):
    network, image = Network(), picture(70, 91)
    out = restore(network, protocol, {}, jnp.asarray(image))
    rows, columns = padding(protocol, 70, 91, multiple=32, minimum=64)
    x = image.astype(np.float64) / 255 * 2 - 1
    mode = {"constant_values": 0.0} if protocol == "predict" else {"mode": "reflect"}
    expected = np.pad(x, ((0, 0), rows, columns, (0, 0)), **mode)
    np.testing.assert_allclose(network.seen, expected, atol=1e-6)
    assert out.shape == image.shape
    assert out.dtype == jnp.uint8


def test_ours_gives_back_an_image_that_the_network_leaves_alone():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    out = restore(Network(), "reflect", {}, jnp.asarray(image))
    np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_released_programs_truncate_and_ours_rounds(protocol):
    # 0.7 grey levels more: one more by rounding, none by truncation.
    image = np.full((1, 33, 40, 3), 100, np.uint8)
    out = restore(Network(0.7 / 127.5), protocol, {}, jnp.asarray(image))
    np.testing.assert_array_equal(out, 101 if protocol == "reflect" else 100)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_image_is_cut_out_where_it_was_put(protocol):
    class Ramp(Network):
        def apply(self, variables, x, *, train):
            return x + jnp.arange(x.shape[1]).reshape(1, -1, 1, 1) / 127.5

    image = np.full((1, 70, 91, 3), 10, np.uint8)
    out = np.asarray(restore(Ramp(), protocol, {}, jnp.asarray(image)))
    above = padding(protocol, 70, 91, multiple=32, minimum=64)[0][0]
    expected = 10 + above + np.arange(70)
    assert np.abs(out[0, :, 0, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("protocol", "pad"), [("predict", "reference"), ("reflect", "reflect")]
)
def test_what_is_measured_is_what_users_get(protocol, pad):
    model = create_model("deblurgan_v2/plain_residual", width=4, blocks=1, seed=3)
    image = picture(37, 64)
    measured = restore(model.module, protocol, model.variables, jnp.asarray(image))
    used = 255 * Restorer(model, pad=pad)(image)
    used = np.floor(used) if protocol == "predict" else np.round(used)
    difference = np.abs(np.asarray(measured, float) - used)
    assert difference.max() <= 1  # float32 beside a rounding border
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(
    ("name", "size", "gmacs"),
    # Measured with PyTorch on the released networks.
    [
        ("fpn_mobilenet", (256, 256), 2.709),
        ("fpn_mobilenet", (736, 1312), 39.91),
        ("fpn_mobilenet_dsc", (736, 1280), 9.59),
        ("resnet9", (256, 256), 49.55),
        ("resnet9", (736, 1312), 730.11),
    ],
)
def test_multiply_adds_are_the_published_ones(name, size, gmacs):
    module = make_generator(dict(name=name))
    x = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(
        lambda key: module.init(key, x, train=False), jax.random.key(0)
    )
    got = generator_macs(module, variables, *size) / 1e9
    assert got == pytest.approx(gmacs, abs=0.0051)
