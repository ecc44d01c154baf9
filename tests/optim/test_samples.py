"""Kernels as samples: against plain NumPy on the OIHW kernel."""

import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.samples import from_matrix, sample_shape, to_matrix

RNG = np.random.default_rng(0)
HWIO = RNG.normal(size=(3, 5, 2, 4)).astype(np.float32)
OIHW = HWIO.transpose(3, 2, 0, 1)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ("row", OIHW.reshape(-1, 5)),
        ("kernel2d", OIHW.reshape(-1, 15)),
        ("filter", OIHW.reshape(4, -1)),
        ("scalar", OIHW.reshape(-1, 1)),
    ],
)
def test_convolution_samples_equal_a_reshape_of_the_oihw_kernel(samples, expected):
    np.testing.assert_array_equal(to_matrix(jnp.asarray(HWIO), samples), expected)
    assert sample_shape(HWIO.shape, samples) == expected.shape


def test_dense_rows_are_consecutive_inputs_of_one_output():
    kernel = RNG.normal(size=(6, 4)).astype(np.float32)
    rows = to_matrix(jnp.asarray(kernel), "row", row_length=3)
    np.testing.assert_array_equal(rows, kernel.T.reshape(8, 3))
    np.testing.assert_array_equal(rows[3], kernel[3:6, 1])


def test_dense_filters_are_columns():
    kernel = RNG.normal(size=(6, 4)).astype(np.float32)
    np.testing.assert_array_equal(to_matrix(jnp.asarray(kernel), "filter"), kernel.T)


@pytest.mark.parametrize(
    ("shape", "samples", "row_length"),
    [
        ((7, 2, 4), "row", None),
        ((7, 2, 4), "filter", None),
        ((3, 5, 2, 4), "row", None),
        ((3, 5, 2, 4), "kernel2d", None),
        ((3, 5, 2, 4), "filter", None),
        ((3, 5, 2, 4), "scalar", None),
        ((2, 3, 5, 4, 6), "row", None),
        ((2, 3, 5, 4, 6), "kernel2d", None),
        ((1, 1, 4, 6), "row", None),
        ((6, 4), "row", 2),
        ((6, 4), "filter", None),
        ((6, 4), "scalar", None),
    ],
)
def test_from_matrix_undoes_to_matrix(shape, samples, row_length):
    kernel = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    matrix = to_matrix(kernel, samples, row_length)
    assert matrix.shape == sample_shape(shape, samples, row_length)
    back = from_matrix(matrix, shape, samples, row_length)
    np.testing.assert_array_equal(back, kernel)


def test_kernel2d_of_a_3d_window_keeps_frames_apart():
    kernel = RNG.normal(size=(2, 3, 5, 4, 6)).astype(np.float32)
    oithw = kernel.transpose(4, 3, 0, 1, 2)
    got = to_matrix(jnp.asarray(kernel), "kernel2d")
    np.testing.assert_array_equal(got, oithw.reshape(-1, 15))


@pytest.mark.parametrize(
    ("shape", "samples", "row_length", "message"),
    [
        ((3, 3, 2, 4), "rows", None, "did you mean 'row'"),
        ((8,), "scalar", None, r"2 to 5 axes.*\(8,\)"),
        ((6, 4), "row", None, "divides 6, got None"),
        ((6, 4), "row", 4, "divides 6, got 4"),
        ((6, 4), "row", 0, "divides 6, got 0"),
        ((6, 4), "kernel2d", None, r"2 or 3 axes.*\(6, 4\)"),
        ((7, 2, 4), "kernel2d", None, r"2 or 3 axes.*\(7, 2, 4\)"),
        ((3, 3, 2, 4), "row", 3, "row_length=3 fits dense kernels"),
        ((6, 4), "filter", 3, "row_length=3 fits dense kernels"),
    ],
)
def test_impossible_samples_raise_with_the_numbers(shape, samples, row_length, message):
    with pytest.raises(ConfigError, match=message):
        sample_shape(shape, samples, row_length)


def test_from_matrix_rejects_another_number_of_samples():
    with pytest.raises(ValueError, match=r"\(24, 5\), got \(23, 5\)"):
        from_matrix(jnp.zeros((23, 5)), (3, 5, 2, 4), "row")
