"""The search driven from the host is the search inside jit."""

import jax
import numpy as np
import pytest

from zoo_jax.methods.weaknas import synthetic
from zoo_jax.methods.weaknas.ask_tell import AskTell
from zoo_jax.methods.weaknas.baselines import NO_MODEL
from zoo_jax.optim.predictors import gp_predictor
from zoo_jax.optim.weak_predictor import run_searches, weak_predictor_search

POOL = synthetic.build_pool(slots=2, choices=5)
LABELS = POOL.labels["search"].copy()
LABELS[::7] = np.nan
SIZE = dict(budget=10, first=5, batch=3)  # neither 5 nor 10 - 5 is a multiple of 3


@pytest.fixture(scope="module")
def search():
    gp = gp_predictor(lengthscales=(0.5, 1.0), noises=(0.01, 0.1))
    return weak_predictor_search(POOL.features, gp, **SIZE, policy="ei")


def play(searcher, rounds=99):
    asked, tops = [], []
    while len(asked) < SIZE["budget"] and rounds:
        index = searcher.ask(SIZE["budget"] - len(asked))
        searcher.tell(index, LABELS[index])
        asked += index.tolist()
        tops.append(searcher.predicted_top())
        rounds -= 1
    return asked, tops


def test_it_asks_what_the_search_inside_jit_asks(search):
    history = run_searches(search, LABELS, jax.random.key(3)[None])
    asked, tops = play(AskTell(search, 3))
    assert asked == history.asked[0].tolist()
    assert tops == [NO_MODEL, *history.predicted_top[0].tolist()]


def test_telling_what_was_told_before_brings_it_to_the_same_place(search):
    asked, tops = play(AskTell(search, 0))
    again = AskTell(search, 0)
    for part in (asked[:3], asked[3:5], asked[5:8]):  # without asking in between
        again.tell(np.array(part), LABELS[part])
    assert again.ask(9).tolist() == asked[8:]
    assert again.predicted_top() == tops[-2]


def test_it_asks_for_no_more_than_it_may(search):
    assert len(AskTell(search, 0).ask(2)) == 2
