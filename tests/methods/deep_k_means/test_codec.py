import numpy as np
import pytest

from zoo_jax.core.errors import WeightsError
from zoo_jax.methods.deep_k_means import codec
from zoo_jax.methods.deep_k_means.accounting import index_entropy


@pytest.mark.parametrize(
    ("k", "n", "concentration"), [(7, 196_608, 0.3), (90, 3_072, 1.0), (2, 1_000, 5.0)]
)
def test_streams_are_within_two_words_of_the_entropy(k, n, concentration):
    rng = np.random.default_rng(k)
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, concentration)))
    labels = np.unique(labels, return_inverse=True)[1]
    table = codec.frequency_table(np.bincount(labels))
    words = codec.encode(labels, table)
    entropy_bytes = n * index_entropy(labels) / 8
    # Rounding frequencies to 1 / 65536 costs less than a thousandth of a bit per index.
    assert entropy_bytes - 8 <= words.nbytes <= entropy_bytes + 8 + n / 8_000
    np.testing.assert_array_equal(codec.decode(words, table, n), labels)


@pytest.mark.parametrize(
    "counts", [[1, 10**9], [5, 5, 5], [1] * 1000 + [10**6], [3, 1, 4, 1, 5, 9, 2, 6]]
)
def test_frequency_tables_are_positive_and_add_up(counts):
    table = codec.frequency_table(np.array(counts))
    assert table.min() >= 1
    assert table.sum(dtype=np.int64) == codec.TOTAL
    # One each, and the rest in proportion: rounded, never off by a whole unit.
    spare = codec.TOTAL - len(counts)
    share = 1 + np.array(counts) / sum(counts) * spare
    assert np.abs(table - share).max() < 1


def test_the_models_float_operations_are_exact():
    # The library scales the running sum by (2^24 - k) / 2^16 in floating point.
    table = codec.frequency_table(np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]))
    scale = (2**24 - table.size) / codec.TOTAL
    for total in np.cumsum(table.astype(np.int64)):
        exact = int(total) * (2**24 - table.size)
        assert float(total) * scale * codec.TOTAL == exact


def test_tables_that_do_not_add_up_are_refused():
    with pytest.raises(WeightsError, match="adds up to 11"):
        codec.decode(np.zeros(3, np.uint32), np.array([5, 6], np.uint16), 4)


@pytest.mark.parametrize("count", [3_000, 0])
def test_streams_of_another_length_are_refused(count):
    labels = np.random.default_rng(0).integers(0, 5, 200)
    table = codec.frequency_table(np.bincount(labels))
    words = codec.encode(labels, table)
    with pytest.raises(WeightsError, match="index stream"):
        codec.decode(words, table, count)
