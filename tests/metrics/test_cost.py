import jax
import jax.numpy as jnp
import pytest

from zoo_jax.metrics.cost import count_macs


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, k, **options):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, k, options.pop("strides", (1, 1)), "SAME", dimension_numbers=dims, **options
    )


def test_matrix_products_by_hand():
    assert count_macs(jnp.matmul, spec(7, 2, 3), spec(7, 3, 5)) == 7 * 2 * 3 * 5


def test_convolutions_by_hand():
    x, k = spec(2, 8, 6, 3), spec(3, 5, 3, 7)
    assert count_macs(conv, x, k) == 2 * 8 * 6 * 7 * (3 * 5 * 3)
    strided = count_macs(lambda x, k: conv(x, k, strides=(2, 2)), x, k)
    assert strided == 2 * 4 * 3 * 7 * (3 * 5 * 3)


def test_grouped_convolutions_count_their_own_inputs_only():
    depthwise = count_macs(
        lambda x, k: conv(x, k, feature_group_count=6),
        spec(1, 4, 4, 6),
        spec(3, 3, 1, 6),
    )
    assert depthwise == 4 * 4 * 6 * 9


def test_transposed_convolutions_count_each_input_once_per_kernel_entry():
    def transposed(x, k):
        return jax.lax.conv_transpose(x, k, (2, 3), "SAME")

    x, k = spec(2, 4, 6, 5), spec(3, 3, 5, 7)
    assert jax.eval_shape(transposed, x, k).shape == (2, 8, 18, 7)
    assert count_macs(transposed, x, k) == 2 * 4 * 6 * 5 * (3 * 3 * 7)


def test_calls_and_loops_are_followed():
    def f(x):
        x = jax.jit(lambda x: x @ x)(x)
        x, _ = jax.lax.scan(lambda c, _: (c @ c, None), x, length=5)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x)

    assert count_macs(f, spec(4, 4)) == 7 * 64


def test_loops_of_unknown_length_are_refused_only_with_products_inside():
    def f(body):
        return lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, body, x)

    with pytest.raises(ValueError, match="unknown length"):
        count_macs(f(lambda x: x @ x), spec(4, 4))
    assert count_macs(f(lambda x: x + 1), spec(4, 4)) == 0
