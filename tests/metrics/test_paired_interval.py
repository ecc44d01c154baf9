"""The paired bootstrap over seeds, groups and pictures."""

import numpy as np
import pytest

from zoo_jax.metrics.bootstrap import paired_interval


def interval(values, baseline, groups):
    return paired_interval(values, baseline, groups, resamples=2000)


def test_equal_values_differ_by_nothing():
    values = np.random.RandomState(0).normal(30, 5, (1, 40))
    assert interval(values, values + 0.0, range(40))[0] <= 0
    constant = interval(values + 1.5, values, ["a"] * 40)
    # One seed each, paired by picture: a constant gain is known without doubt.
    np.testing.assert_allclose(constant, [1.5, 1.5], atol=1e-12)


def test_the_interval_is_that_of_a_mean_over_independent_pictures():
    gains = np.random.RandomState(1).normal(0.5, 1.0, (1, 200))
    low, high = interval(gains, np.zeros((1, 200)), range(200))
    error = gains.std(ddof=1) / np.sqrt(200)
    assert (low + high) / 2 == pytest.approx(gains.mean(), abs=0.2 * error)
    # Every picture is a scene of its own, with one picture to draw from.
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_crops_of_one_photograph_do_not_count_as_photographs():
    rng = np.random.RandomState(2)
    of_scene = np.repeat(rng.normal(0, 1, 10), 20)  # 10 photographs, 20 crops of each
    gains = (of_scene + rng.normal(0, 0.1, 200))[None]
    zeros = np.zeros((1, 200))
    low, high = interval(gains, zeros, np.repeat(np.arange(10), 20))
    narrow = interval(gains, zeros, range(200))
    assert high - low > 3 * (narrow[1] - narrow[0])


def test_seeds_that_disagree_widen_the_interval():
    gains = np.array([[0.0] * 50, [2.0] * 50, [4.0] * 50])
    low, high = interval(gains, np.zeros((1, 50)), range(50))
    assert low < 1 < 3 < high
