"""Item-response curves: invariants of their areas, and Wilson's interval against SciPy."""

import numpy as np
import pytest
from scipy import stats

from zoo_jax.metrics.item_response import item_response, wilson

RNG = np.random.default_rng(0)
LEVELS = [0.5, 1.0, 2.0, 5.0]
OUTCOMES = (RNG.random((4, 25)) < np.array([[0.9], [0.7], [0.4], [0.1]])).astype(int)


@pytest.mark.parametrize("successes", [0, 1, 5, 11, 12])
def test_wilson_agrees_with_scipy_and_stays_inside(successes):
    low, high = wilson(successes, 12, confidence=0.9)
    other = stats.binomtest(successes, 12).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose([low, high], [other.low, other.high], atol=1e-12)
    assert 0 <= low < high <= 1


def test_rates_and_areas_agree_with_a_loop():
    curve = item_response(LEVELS, OUTCOMES)
    rates = [sum(row) / 25 for row in OUTCOMES.tolist()]
    np.testing.assert_allclose(curve.rates, rates)
    parts = [
        (LEVELS[i + 1] - LEVELS[i]) * (rates[i] + rates[i + 1]) / 2 for i in range(3)
    ]
    assert curve.area == pytest.approx(sum(parts) / 4.5)
    ranks = [(rates[i] + rates[i + 1]) / 2 / 3 for i in range(3)]
    assert curve.rank_area == pytest.approx(sum(ranks))
    assert curve.area != pytest.approx(curve.rank_area, abs=0.05)
    assert np.all((curve.low < curve.rates) & (curve.rates < curve.high))


@pytest.mark.parametrize("share", [0, 10, 25])
def test_a_constant_curve_has_its_rate_as_area(share):
    outcomes = np.tile(np.arange(25) < share, (4, 1))
    curve = item_response(LEVELS, outcomes)
    assert curve.area == pytest.approx(share / 25)
    assert curve.rank_area == pytest.approx(share / 25)
    assert 0 <= curve.area <= 1


def test_relabelling_levels_leaves_the_rank_area():
    one = item_response(LEVELS, OUTCOMES)
    other = item_response(np.exp(LEVELS), OUTCOMES)
    assert one.rank_area == other.rank_area
    assert one.area != pytest.approx(other.area, abs=0.01)


def test_levels_may_fall():
    falling = item_response([90, 40, 20, 10], OUTCOMES)
    rising = item_response([-90, -40, -20, -10], OUTCOMES)
    assert falling.area == pytest.approx(rising.area)
    assert 0 < falling.area < 1


def test_only_known_pictures_count():
    known = np.arange(25) < 6
    curve = item_response(LEVELS, OUTCOMES, known=known)
    np.testing.assert_allclose(curve.rates, OUTCOMES[:, :6].mean(axis=1))
    with pytest.raises(ValueError, match="no picture counts"):
        item_response(LEVELS, OUTCOMES, known=np.zeros(25, bool))


@pytest.mark.parametrize("levels", [[1], [1, 1, 2, 3], [1, 2, 1, 3]])
def test_levels_that_give_no_curve_are_refused(levels):
    with pytest.raises(ValueError, match="rise or fall throughout"):
        item_response(levels, OUTCOMES[: len(levels)])


def test_outcomes_must_fit():
    with pytest.raises(ValueError, match="must be 0 or 1"):
        item_response(LEVELS, OUTCOMES / 2)
    with pytest.raises(ValueError, match=r"4 levels, but outcomes of shape \(3, 25\)"):
        item_response(LEVELS, OUTCOMES[:3])
    with pytest.raises(ValueError, match="count must be at least 1"):
        wilson(0, 0)
