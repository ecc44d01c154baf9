"""The published rule on NAS-Bench-201 against curves of the published program."""

import jax
import numpy as np
import pytest

from zoo_jax.optim.predictors import mlp_predictor
from zoo_jax.optim.weak_predictor import run_searches, weak_predictor_search

DATA_SETS = ("cifar10", "cifar100", "ImageNet16-120")


def curves(table, column, runs, budget):
    """max(best test among those asked, test of the predicted first): [runs, fits]."""
    features = np.eye(5, dtype=np.float32)[table["arch"]].reshape(-1, 30)
    search = weak_predictor_search(features, mlp_predictor((200,) * 4), budget=budget)
    labels, test = table["search200"][:, column], table["test200"][:, column]
    keys = jax.random.split(jax.random.key(7 + column), runs)
    history = run_searches(search, labels, keys)
    best = np.maximum.accumulate(test[np.asarray(history.asked)], axis=1)
    best = best[:, history.sizes - 1]
    return history.sizes, np.maximum(best, test[np.asarray(history.predicted_top)])


def check(shared, column, runs, budget):
    table = np.load(shared("data", "nas_bench_201", "nas_bench_201.npz"))
    golden = np.load(shared("golden", "weaknas_curves.npz"))
    name = DATA_SETS[column]
    sizes, ours = curves(table, column, runs, budget)
    queries = golden[f"{name}/queries"].tolist()
    at = [queries.index(size) for size in sizes[1:]]  # theirs begin at 20
    mean, error = (golden[f"{name}/best_test_{s}"][at] for s in ("mean", "stderr"))
    ours = ours[:, 1:]
    combined = np.hypot(error, ours.std(axis=0, ddof=1) / np.sqrt(runs))
    assert (abs(ours.mean(axis=0) - mean) < 3 * combined).all()


@pytest.mark.slow  # twelve searches
def test_few_runs_follow_the_published_curve(shared):
    check(shared, DATA_SETS.index("cifar100"), runs=12, budget=50)


@pytest.mark.slow
@pytest.mark.parametrize("column", range(3), ids=DATA_SETS)
def test_a_hundred_runs_follow_the_published_curve(shared, column):
    check(shared, column, runs=100, budget=100)
