import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from zoo_jax.core.errors import ConfigError
from zoo_jax.nn.matmul_conv import conv_by_matmul

CASES = [
    ((1, 1), ((1, 1), (1, 1))),
    ((2, 1), ((0, 1), (2, 0))),
    ((3, 2), ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(("strides", "padding"), CASES)
def test_values_and_gradients_are_those_of_the_direct_convolution(strides, padding):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 2, 3, 5))

    def direct(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=numbers, precision="highest"
        )

    def ours(x, kernel):
        return conv_by_matmul(x, kernel, strides, padding, precision="highest")

    direct, ours = jax.jit(direct), jax.jit(ours)
    np.testing.assert_allclose(ours(x, kernel), direct(x, kernel), atol=1e-5)
    # A weight per output: every term of the gradient has a part of its own.
    weight = jax.random.normal(jax.random.key(2), direct(x, kernel).shape)
    left, right = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(weight * f(*a)), argnums=(0, 1)))(
            x, kernel
        )
        for f in (ours, direct)
    )
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_groups_and_dilation_are_refused():
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2))
    for options in ({"feature_group_count": 2}, {"rhs_dilation": (2, 1)}):
        with pytest.raises(ConfigError, match="no dilation and no groups"):
            conv_by_matmul(x, kernel, (1, 1), ((0, 0), (0, 0)), **options)
    with pytest.raises(ValueError, match="2 input channels in the kernel, 3 given"):
        conv_by_matmul(jnp.zeros((1, 4, 4, 3)), kernel, (1, 1), ((0, 0), (0, 0)))
