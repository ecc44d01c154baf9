"""Intervals over groups: against SciPy, and what they must not do."""

import numpy as np
import pytest
from scipy import stats

from zoo_jax.metrics.bootstrap import cluster_bootstrap


def test_single_values_give_the_percentile_interval_of_scipy():
    values = np.random.default_rng(0).random(30)
    found = cluster_bootstrap(values, np.arange(30), resamples=20_000)
    other = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)
    # The standard error is 0.05; that of a quantile over 20,000 draws is below 0.001.
    assert found.low == pytest.approx(other.low, abs=0.004)
    assert found.high == pytest.approx(other.high, abs=0.004)


def test_copies_of_a_frame_do_not_narrow_the_interval():
    values = np.random.default_rng(1).random(12)
    once = cluster_bootstrap(values, np.arange(12))
    often = cluster_bootstrap(np.repeat(values, 9), np.repeat(np.arange(12), 9))
    naive = cluster_bootstrap(np.repeat(values, 9), np.arange(108))
    np.testing.assert_allclose(often, once, rtol=1e-12)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_groups_count_by_their_size():
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "a", "b"])
    found = cluster_bootstrap(values, groups)
    assert found == (0.75, 0.0, 1.0)


def test_equal_values_give_exactly_zero():
    assert cluster_bootstrap(np.zeros(7), np.arange(7) // 2) == (0, 0, 0)


def test_weights_are_those_of_a_weighted_mean():
    rng = np.random.default_rng(2)
    values, weights = rng.random(9), rng.random(9)
    found = cluster_bootstrap(values, np.arange(9) // 3, weights=weights)
    assert found.mean == pytest.approx(np.average(values, weights=weights), rel=1e-14)
    repeated = cluster_bootstrap(np.repeat(values, 2), np.repeat(np.arange(9) // 3, 2))
    doubled = cluster_bootstrap(values, np.arange(9) // 3, weights=np.full(9, 2.0))
    np.testing.assert_allclose(doubled, repeated, rtol=1e-12)


def test_draws_follow_the_seed_and_do_not_depend_on_chunks(monkeypatch):
    from zoo_jax.metrics import bootstrap

    values, groups = np.random.default_rng(3).random(20), np.arange(20)
    one = cluster_bootstrap(values, groups, seed=4)
    assert one == cluster_bootstrap(values, groups, seed=4)
    assert one != cluster_bootstrap(values, groups, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK", 70)
    assert one == cluster_bootstrap(values, groups, seed=4)


def test_one_group_has_a_mean_but_no_interval():
    found = cluster_bootstrap(np.array([0.0, 1.0]), np.array(["a", "a"]))
    assert found.mean == 0.5
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(values=np.zeros(0), groups=np.zeros(0)), "0 values, 0 groups"),
        (dict(groups=np.arange(2)), "3 values, 2 groups"),
        (dict(weights=np.zeros(3)), "not all zero"),
        (dict(weights=np.array([1.0, -1.0, 1.0])), "not be negative"),
        (dict(confidence=1.0), "confidence inside"),
        (dict(resamples=0), "resamples must be at least 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(**{"values": np.zeros(3), "groups": np.arange(3), **change})
