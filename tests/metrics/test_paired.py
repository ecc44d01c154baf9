"""Paired differences."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from zoo_jax.metrics.paired import paired_difference


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_is_that_of_the_paired_t_test(confidence):
    rng = np.random.default_rng(0)
    base = 5 * rng.standard_normal(5)  # what a seed does to both
    values = base + rng.standard_normal(5)
    got = paired_difference(values, base, confidence=confidence)
    expected = ttest_rel(values, base).confidence_interval(confidence)
    assert got.mean == pytest.approx(np.mean(values - base))
    assert got[1:] == pytest.approx((expected.low, expected.high))


def test_equal_values_differ_by_exactly_nothing_and_one_pair_has_no_interval():
    x = np.array([0.1, 0.7, 0.3])
    assert tuple(paired_difference(x, x)) == (0, 0, 0)
    one = paired_difference(x[:1], x[1:2])
    assert one.mean == pytest.approx(-0.6)
    assert np.isnan(one.low)


def test_values_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="cannot pair"):
        paired_difference(np.ones(3), np.ones(2))
