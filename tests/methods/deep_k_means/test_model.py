import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.methods.deep_k_means.model import (
    build_digits_cnn,
    build_lenet_caffe_5,
    build_wide_resnet,
)
from zoo_jax.metrics.cost import count_macs


def shapes(module, *image):
    x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)


def macs(module, *image):
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return count_macs(module.apply, shapes(module, *image), x)


def test_wide_resnet_has_the_published_size():
    variables = shapes(build_wide_resnet(), 32, 32, 3)
    leaves = named_leaves(variables["params"])
    assert count_parameters(variables["params"]) == 2_751_146
    kernels = [v for k, v in leaves.items() if k.endswith("kernel") and v.ndim == 4]
    assert sum(int(np.prod(k.shape)) for k in kernels) == 2_742_704
    assert count_parameters(variables["batch_stats"]) == 3_616
    # Stem; nine equal 3x3 convolutions; the first of each group, at the input's resolution
    # because the stride is on the second one; shortcuts at the output's; linear.
    full = 9 * 32 * 32 * 64 * 64
    first = 32**2 * 16 * 64 + 32**2 * 64 * 128 + 16**2 * 128 * 256
    shortcuts = 32**2 * 16 * 64 + 16**2 * 64 * 128 + 8**2 * 128 * 256
    stem = 9 * 32**2 * 3 * 16
    expected = stem + 9 * full + 9 * first + shortcuts + 2560
    assert expected - 2560 == 505_856_000
    assert macs(build_wide_resnet(), 32, 32, 3) == expected


def test_strides_and_shortcut_are_where_the_published_network_has_them():
    module = build_wide_resnet(depth=10, widen=1)
    x = jnp.zeros((1, 8, 12, 3))
    variables = shapes(module, 8, 12, 3)
    _, state = jax.eval_shape(
        lambda v: module.apply(
            v, x, capture_intermediates=True, mutable=["intermediates"]
        ),
        variables,
    )
    out = {k: v.shape for k, v in named_leaves(state["intermediates"]).items()}
    assert out["layer2_0/conv1/__call__/0"] == (1, 8, 12, 32)
    assert out["layer2_0/conv2/__call__/0"] == (1, 4, 6, 32)
    assert out["layer2_0/shortcut/__call__/0"] == (1, 4, 6, 32)
    assert out["layer3_0/__call__/0"] == (1, 2, 3, 64)


def test_deeper_networks_have_no_second_shortcut():
    params = shapes(build_wide_resnet(depth=22, widen=1), 8, 8, 3)["params"]
    assert {k for k in params if k.startswith("layer1")} == {
        f"layer1_{i}" for i in range(3)
    }
    with_shortcut = [k for k, v in params.items() if "shortcut" in v]
    assert sorted(with_shortcut) == ["layer1_0", "layer2_0", "layer3_0"]


def test_convolutions_start_xavier_uniform_with_gain_root_two():
    module = build_wide_resnet(depth=10, widen=2)
    params = jax.jit(module.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 3)))["params"]
    kernel = np.asarray(params["layer3_0"]["conv2"]["kernel"])  # 3 3 128 128
    bound = np.sqrt(2) * np.sqrt(6 / (9 * 128 + 9 * 128))
    assert np.abs(kernel).max() <= bound
    assert np.abs(kernel).max() > 0.999 * bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert not np.any(params["layer3_0"]["conv2"]["bias"])
    linear = np.asarray(params["linear"]["kernel"])
    assert np.abs(linear).max() <= 128**-0.5
    assert np.abs(linear).max() > 0.98 * 128**-0.5


def test_dropout_acts_in_training_only():
    module = build_wide_resnet(depth=10, widen=1, dropout=0.5)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = module.init(jax.random.key(0), x)

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(
            variables, x, train=True, rngs=rngs, mutable=["batch_stats"]
        )[0]

    assert not np.array_equal(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))
    np.testing.assert_array_equal(
        module.apply(variables, x), module.apply(variables, x)
    )


def test_lenet_has_the_known_size_and_takes_28_pixels():
    module = build_lenet_caffe_5()
    variables = shapes(module, 28, 28, 1)
    assert count_parameters(variables["params"]) == 431_080
    assert set(variables) == {"params"}
    # 24x24 maps of 20, 8x8 maps of 50, 800 and 500 inputs to the dense layers.
    expected = 576 * 20 * 25 + 64 * 50 * 500 + 800 * 500 + 500 * 10
    assert macs(module, 28, 28, 1) == expected


@pytest.mark.parametrize(
    ("module", "image"),
    [
        (build_digits_cnn(), (28, 28, 1)),
        (build_digits_cnn(widths=(8, 16), strides=(1, 2)), (8, 8, 1)),
        (build_wide_resnet(depth=10, widen=1, num_classes=7), (16, 16, 3)),
    ],
)
def test_bfloat16_compute_keeps_float32_parameters_and_logits(module, image):
    half = module.clone(dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (3, *image))
    variables = jax.jit(half.init)(jax.random.key(1), x)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits, exact = (jax.jit(m.apply)(variables, x) for m in (half, module))
    assert logits.dtype == jnp.float32
    assert logits.shape == (3, module.num_classes)
    # bfloat16 has 8 bits; a few layers of it lose a few percent of the spread.
    assert jnp.max(jnp.abs(logits - exact)) < 0.1 * jnp.std(exact) + 0.05


def test_convolutions_dominate_the_digits_network():
    params = shapes(build_digits_cnn(), 28, 28, 1)["params"]
    kernels = sum(
        int(np.prod(v.shape))
        for k, v in named_leaves(params).items()
        if k.startswith("conv")
    )
    assert kernels > 0.97 * count_parameters(params)


@pytest.mark.parametrize(
    ("build", "options", "match"),
    [
        (build_wide_resnet, {"depth": 17}, "depth=17"),
        (build_wide_resnet, {"depth": 4}, "depth=4"),
        (build_wide_resnet, {"widen": 0}, "widen=0"),
        (build_wide_resnet, {"dropout": 1.0}, "dropout=1.0"),
        (build_lenet_caffe_5, {"num_classes": 0}, "num_classes=0"),
        (build_digits_cnn, {"widths": (4, 5)}, "one entry per convolution"),
        (build_digits_cnn, {"widths": (4,), "strides": (0,)}, r"strides\[0\]=0"),
    ],
)
def test_impossible_sizes_are_one_clear_error(build, options, match):
    with pytest.raises(ConfigError, match=match):
        build(**options)
