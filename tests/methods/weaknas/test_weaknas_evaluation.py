"""Rules of choice, spread over runs, and rank agreement, each against another computation."""

import numpy as np
import pytest
import scipy.stats

from zoo_jax.methods.weaknas import evaluation
from zoo_jax.methods.weaknas.baselines import NO_MODEL, RandomSearch
from zoo_jax.methods.weaknas.evaluation import Record, curves

LABEL = np.array([50.0, 80.0, 70.0, np.nan, 80.0, 60.0])
TEST = np.array([55.0, 71.0, 90.0, 99.0, 95.0, 10.0])


def record(asked, queries, tops):
    return Record(np.array(asked), np.array(queries), np.array(tops))


def test_the_rules_differ_where_the_label_misleads():
    # Item 1 has the best label, item 2 the better test value, item 5 is predicted.
    run = record([[0, 1, 2]], [1, 2, 3], [[5, 4, 5]])
    found = curves(run, LABEL, TEST)
    np.testing.assert_array_equal(found["honest"], [[55, 71, 71]])
    # As published the predicted best counts when it is predicted, and not afterwards.
    np.testing.assert_array_equal(found["reference"], [[55, 95, 90]])
    np.testing.assert_array_equal(found["predicted"], [[10, 95, 10]])


def test_the_first_of_equal_labels_stays_and_a_failed_one_never_leads():
    run = record([[3, 1, 4], [3, 4, 1]], [1, 2, 3], [[NO_MODEL] * 3] * 2)
    honest = curves(run, LABEL, TEST)["honest"]
    np.testing.assert_array_equal(honest[:, 1:], [[71, 71], [95, 95]])


def test_without_a_predictor_nothing_is_predicted_and_the_queried_count():
    run = record([[0, 2, 1]], [1, 3], [[NO_MODEL, NO_MODEL]])
    found = curves(run, LABEL, TEST)
    assert np.isnan(found["predicted"]).all()
    np.testing.assert_array_equal(found["reference"], [[55, 90]])


def test_a_predicted_best_that_was_queried_already_has_its_own_value():
    run = record([[0, 2, 1]], [1, 2, 3], [[2, 2, 0]])
    np.testing.assert_array_equal(curves(run, LABEL, TEST)["predicted"], [[90, 90, 55]])


def test_curves_agree_with_a_loop():
    rng = np.random.default_rng(0)
    label = np.round(rng.normal(size=60), 1)  # with ties
    label[::7] = np.nan
    test = rng.normal(size=60)
    asked = np.stack([rng.permutation(60)[:25] for _ in range(9)])
    queries = np.array([3, 10, 25])
    tops = rng.integers(0, 60, (9, 3))
    found = curves(Record(asked, queries, tops), label, test)
    for run in range(9):
        for column, count in enumerate(queries):
            best, honest = -np.inf, None
            for item in asked[run, :count]:
                best = max(best, test[item])
                if honest is None or not label[item] <= np.nan_to_num(
                    label[honest], nan=-np.inf
                ):
                    if honest is None or not np.isnan(label[item]):
                        honest = item
            assert found["honest"][run, column] == test[honest]
            expected = max(best, test[tops[run, column]])
            assert found["reference"][run, column] == expected


def test_what_was_queried_is_never_lost():
    rng = np.random.default_rng(1)
    test = rng.normal(size=80)
    asked = np.stack([rng.permutation(80)[:40] for _ in range(6)])
    none = np.full((6, 40), NO_MODEL)
    found = curves(Record(asked, np.arange(1, 41), none), test, test)
    for rule in ("reference", "honest"):
        assert (np.diff(found[rule], axis=1) >= 0).all()
    # With the judge itself as label both rules choose alike.
    np.testing.assert_array_equal(found["reference"], found["honest"])


def test_the_reference_rule_is_that_of_the_published_program(shared):
    golden = np.load(shared("golden", "weaknas_curves.npz"))
    for dataset in ("cifar10", "cifar100", "ImageNet16-120"):
        best, queried, top = (
            golden[f"{dataset}/{name}_each"]
            for name in (
                "best_test",
                "best_test_queried_only",
                "test_of_predicted_top1",
            )
        )
        np.testing.assert_array_equal(best, np.fmax(queried, top))


@pytest.mark.parametrize("runs", [2, 3, 4, 6, 13, 30, 100])
def test_the_interval_is_that_of_student(runs):
    values = np.random.default_rng(runs).normal(70, 3, (runs, 4))
    summary = evaluation.summarise(values)
    expected = scipy.stats.t.interval(
        0.95, runs - 1, loc=values.mean(0), scale=scipy.stats.sem(values)
    )
    half = (summary.high - summary.low) / 2
    np.testing.assert_allclose(half, (expected[1] - expected[0]) / 2, rtol=0.005)
    np.testing.assert_allclose(summary.sd, values.std(0, ddof=1))
    np.testing.assert_allclose(summary.stderr, scipy.stats.sem(values))


def test_one_run_has_no_spread():
    summary = evaluation.summarise(np.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(summary.mean, [3, 4])
    assert np.isnan(summary.stderr).all()


def test_the_difference_of_two_means_carries_both_errors():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.0, 5.0])
    gap, error = evaluation.difference(a, b)
    welch = scipy.stats.ttest_ind(a, b, equal_var=False)
    np.testing.assert_allclose(gap / error, welch.statistic)


def test_queries_to_a_value_count_by_value_and_know_failure():
    test = np.array([1.0, 5.0, 5.0, 2.0])
    run = record([[0, 2, 1], [3, 0, 3], [1, 0, 2]], [3], [[0], [0], [0]])
    np.testing.assert_array_equal(evaluation.queries_to(run, test, 5.0), [2, np.inf, 1])


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.01, 2), (0.5, 95)])
def test_the_top_share_is_of_what_was_measured_and_holds_one_at_least(share, count):
    test = np.random.default_rng(0).permutation(200).astype(float)
    test[:10] = np.nan
    assert np.sum(test >= evaluation.top_threshold(test, share)) == count


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_kendall_agrees_with_scipy_with_and_without_ties(digits):
    rng = np.random.default_rng(digits)
    x = rng.normal(size=70)
    y = np.round(x + rng.normal(size=70), digits)
    expected = scipy.stats.kendalltau(x, y).statistic
    np.testing.assert_allclose(evaluation.kendall_tau(x, y), expected, rtol=1e-12)


def test_kendall_of_a_constant_is_unknown():
    assert np.isnan(evaluation.kendall_tau(np.ones(5), np.arange(5.0)))


def test_tau_in_the_top_sees_the_top_alone():
    test = np.arange(50.0)
    scores = np.where(
        test >= 40, 90 - test, test
    )  # right everywhere but among the best 10
    assert evaluation.tau_in_top(scores, test, 10) == -1
    assert evaluation.tau_in_top(scores, test, 50) > 0.5


def test_principal_axes_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(40, 5)) * [1, 5, 2, 0.5, 3]
    flat = evaluation.principal_axes(x)
    covariance = np.cov(flat.T, bias=True)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    np.testing.assert_allclose(covariance, np.diag(values[[4, 3]]), atol=1e-10)


def test_a_searcher_that_repeats_itself_is_caught():
    class Stuck(RandomSearch):
        def ask(self, count):
            return np.array([1])

    stuck = Stuck(6, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match=r"Stuck was asked for 1 new .* gave \[1\]"):
        evaluation.run_searcher(stuck, LABEL, budget=3, batch=1, queries=[3])


def test_batches_end_where_something_is_recorded():
    class Counts(RandomSearch):
        def predicted_top(self):
            return len(self.order)

    counts = Counts(6, np.random.default_rng(0))
    asked, tops = evaluation.run_searcher(
        counts, LABEL, budget=6, batch=4, queries=[1, 3, 6]
    )
    assert sorted(asked) == list(range(6))
    assert tops.tolist() == [1, 3, 6]
