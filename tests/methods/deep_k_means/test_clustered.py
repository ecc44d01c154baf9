import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.deep_k_means.clustered import Clustered


def test_samples_are_rows_of_the_published_layout():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 5, 2, 4)).astype(np.float32)  # h w i o
    found = Clustered.of(kernel)
    # The published code reshapes an OIHW kernel; all rows are distinct here.
    rows = kernel.transpose(3, 2, 0, 1).reshape(-1, 5)
    np.testing.assert_array_equal(found.codebook[found.labels], rows)
    np.testing.assert_array_equal(found.restore(kernel.shape), kernel)


@pytest.mark.parametrize(
    ("shape", "samples", "row_length"),
    [
        ((3, 2, 4, 5), "row", None),
        ((3, 2, 4, 5), "kernel2d", None),
        ((3, 2, 4, 5), "filter", None),
        ((3, 2, 4, 5), "scalar", None),
        ((12, 5), "row", 4),
        ((12, 5), "filter", None),
    ],
)
def test_shared_samples_are_found_again(shape, samples, row_length):
    kernel = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
    found = Clustered.of(kernel, samples, row_length)
    assert len(np.unique(found.codebook, axis=0)) == len(found.codebook)
    np.testing.assert_array_equal(found.restore(shape), kernel)


def test_bits_decide_what_is_equal():
    kernel = np.array([[0.0, -0.0, np.nan, np.nan, 1.0]], np.float32)
    found = Clustered.of(kernel, "scalar")
    assert len(found.codebook) == 4
    assert found.restore(kernel.shape).tobytes() == kernel.tobytes()


def test_compacting_drops_what_nobody_has():
    clusters = Clustered(np.arange(8.0).reshape(4, 2), np.array([3, 1, 3]))
    small = clusters.compact()
    np.testing.assert_array_equal(small.codebook, [[2, 3], [6, 7]])
    np.testing.assert_array_equal(small.labels, [1, 0, 1])


def test_rounding_is_that_of_the_file_and_refuses_overflow():
    clusters = Clustered(np.array([[1.0001], [3.0]], np.float32), np.array([0, 1]))
    rounded = clusters.rounded("float16").codebook
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, [[1.0], [3.0]])
    large = clusters._replace(codebook=np.array([[1e6], [3.0]], np.float32))
    with pytest.raises(ConfigError, match="1e\\+06 does not fit into float16"):
        large.rounded("float16")
