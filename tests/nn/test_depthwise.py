import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.nn.depthwise import DepthwiseConv, depthwise_conv

CASES = [(3, 1, 1), (5, 2, 2), (7, 2, 3), (3, 2, 0)]


def data(size):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 11, 14, 5))
    return x, jax.random.normal(keys[1], (size, size, 1, 5))


@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_both_forms_and_their_gradients_agree(size, stride, padding):
    x, kernel = data(size)

    @functools.partial(jax.jit, static_argnames="form")
    def run(x, kernel, form):
        def loss(x, kernel):
            y = depthwise_conv(x, kernel, stride=stride, padding=padding, form=form)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

    shifted, grouped = run(x, kernel, "shifted"), run(x, kernel, "grouped")
    # Sums of up to 49 products in float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), shifted, grouped
    )


def test_channels_do_not_mix():
    x, kernel = data(3)
    conv = jax.jit(functools.partial(depthwise_conv, padding=1))
    y, alone = conv(x, kernel), conv(x[..., 2:3], kernel[..., 2:3])
    np.testing.assert_allclose(y[..., 2:3], alone, atol=1e-6)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2)])
def test_the_layer_is_linens_grouped_convolution(size, stride):
    x, _ = data(size)
    ours = DepthwiseConv(size, stride)
    theirs = nn.Conv(
        *(5, (size, size)),
        strides=stride,
        padding=size // 2,
        feature_group_count=5,
        use_bias=False,
    )
    variables = jax.jit(ours.init)(jax.random.key(1), x)
    np.testing.assert_allclose(
        *(jax.jit(layer.apply)(variables, x) for layer in (ours, theirs)), atol=1e-5
    )


def test_the_dtype_of_the_layer_is_that_of_its_output():
    x, _ = data(3)
    layer = DepthwiseConv(3, dtype=jnp.bfloat16)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32
