import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.nn.resize import Pad, reflect_pad, upsample_nearest

X = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_nearest_upsampling_repeats_rows_and_columns(factor):
    expected = X.repeat(factor, 1).repeat(factor, 2)
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(X), factor), expected)


def test_each_side_is_mirrored_without_its_border():
    got = reflect_pad(jnp.asarray(X), Pad(top=1, bottom=2, left=0, right=3))
    expected = np.pad(X, ((0, 0), (1, 2), (0, 3), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(got, expected)
