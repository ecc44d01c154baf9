"""The searches that are compared with: protocol, and what defines each of them."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas.baselines import (
    NO_MODEL,
    LocalSearch,
    MutationSearch,
    PredictorSearch,
    RandomSearch,
    RegularisedEvolution,
)
from zoo_jax.methods.weaknas.spaces import open_pool
from zoo_jax.optim.predictors import Predictor

POOL = open_pool("synthetic", slots=3, choices=5)  # 125 architectures
LABEL, TEST = POOL.labels["search"], POOL.labels["test"]


def known(noise=0.0):
    """A predictor that knows the true values, and how often it was fitted."""
    fits = []

    def fit(key, inputs, values, mask, params):
        fits.append((np.asarray(inputs), np.asarray(values), np.asarray(mask)))
        return len(fits)

    def predict(params, inputs):
        return TEST + noise * np.random.default_rng(params).normal(size=len(inputs))

    def predict_moments(params, inputs):
        return predict(params, inputs), np.full(len(inputs), noise)

    return Predictor(lambda key, inputs: None, fit, predict, predict_moments), fits


def predictor_search(rng):
    predictor, _ = known(noise=5.0)
    return PredictorSearch(POOL.features, predictor, rng, budget=200, first=7, top_n=20)


def mutation_search(rng, budget=200, first=7, parents=3):
    predictor, _ = known(noise=5.0)
    return MutationSearch(
        *(POOL.features, predictor, POOL.neighbours, rng),
        budget=budget,
        first=first,
        parents=parents,
    )


MAKE = {
    "random": lambda rng: RandomSearch(len(POOL), rng),
    "evolution": lambda rng: RegularisedEvolution(
        len(POOL), POOL.neighbours, rng, population=8, tournament=3
    ),
    "local": lambda rng: LocalSearch(len(POOL), POOL.neighbours, rng),
    "predictor": predictor_search,
    "mutations": mutation_search,
}


def play(searcher, labels, budget, batch):
    """Asks and tells, as any harness would; returns what was asked."""
    asked = []
    while len(asked) < budget:
        index = searcher.ask(min(batch, budget - len(asked)))
        assert 1 <= len(index) <= batch
        searcher.tell(index, labels[index])
        asked += np.asarray(index).tolist()
    return asked


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("batch", [1, 6])
def test_the_whole_pool_is_asked_once_each(name, batch):
    asked = play(MAKE[name](np.random.default_rng(0)), LABEL, len(POOL), batch)
    assert sorted(asked) == list(range(len(POOL)))


@pytest.mark.parametrize("name", MAKE)
def test_the_same_seed_and_labels_ask_the_same(name):
    runs = [play(MAKE[name](np.random.default_rng(s)), LABEL, 40, 4) for s in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", MAKE)
def test_failed_trainings_are_paid_for_and_never_stop_a_search(name):
    labels = np.where(np.arange(len(POOL)) % 3 == 0, np.nan, LABEL)
    asked = play(MAKE[name](np.random.default_rng(1)), labels, len(POOL), 5)
    assert sorted(asked) == list(range(len(POOL)))
    nothing = np.full(len(POOL), np.nan)
    assert len(set(play(MAKE[name](np.random.default_rng(1)), nothing, 40, 5))) == 40


@pytest.mark.parametrize("name", ["random", "evolution", "local"])
def test_searches_without_a_model_predict_nothing(name):
    searcher = MAKE[name](np.random.default_rng(0))
    play(searcher, LABEL, 12, 1)
    assert searcher.predicted_top() == NO_MODEL


def test_random_search_is_uniform():
    counts = np.zeros(len(POOL))
    for seed in range(2000):
        counts[RandomSearch(len(POOL), np.random.default_rng(seed)).ask(10)] += 1
    expected = 2000 * 10 / len(POOL)
    statistic = np.sum((counts - expected) ** 2 / expected)
    # Chi-square with 124 degrees of freedom, less variable here: no repeats within a run.
    assert 70 < statistic < 190


def test_children_are_one_edit_from_somebody_alive():
    evolution = MAKE["evolution"](np.random.default_rng(2))
    play(evolution, LABEL, 8, 8)
    for _ in range(30):
        alive = evolution.population
        child = evolution.ask(1)
        assert any(child[0] in POOL.neighbours(i) for i in alive)
        evolution.tell(child, LABEL[child])


def test_evolution_ages_out_even_the_best():
    evolution = MAKE["evolution"](np.random.default_rng(0))
    first = evolution.ask(8)
    best, rest = first[0], first[1:]
    evolution.tell(np.array([best]), np.array([1e6]))
    evolution.tell(rest, LABEL[rest])
    assert best in evolution.population
    for _ in range(8):
        child = evolution.ask(1)
        evolution.tell(child, LABEL[child])
    assert best not in evolution.population
    assert len(evolution.population) == 8


def test_the_fittest_of_a_tournament_becomes_the_parent():
    evolution = RegularisedEvolution(
        len(POOL),
        POOL.neighbours,
        np.random.default_rng(0),
        population=4,
        tournament=50,
    )
    first = evolution.ask(4)
    evolution.tell(first, np.array([1.0, 9.0, 2.0, 3.0]))
    assert set(evolution.ask(5)) <= set(POOL.neighbours(int(first[1])))


def test_local_search_walks_over_neighbours_to_a_local_optimum():
    local = MAKE["local"](np.random.default_rng(5))
    start = local.ask(1)
    local.tell(start, LABEL[start])
    centres = [int(start[0])]
    for _ in range(60):
        asked = local.ask(1)
        if local.centre is None:
            break  # about to start anew
        assert asked[0] in POOL.neighbours(local.centre)
        local.tell(asked, LABEL[asked])
        if local.centre != centres[-1]:
            assert LABEL[local.centre] > LABEL[centres[-1]]
            centres.append(local.centre)
    assert len(centres) > 1
    assert LABEL[centres[-1]] >= LABEL[POOL.neighbours(centres[-1])].max()


def test_local_search_moves_over_what_is_known_without_paying():
    # 0 - 1 - 2 - 3 in a row; 3 is best and 1 was the first start.
    around = {0: [1], 1: [0, 2], 2: [1, 3], 3: [2]}
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    local = LocalSearch(4, lambda i: np.array(around[i]), np.random.default_rng(0))
    assert sorted(play(local, labels, 4, 1)) == [0, 1, 2, 3]


def test_queries_come_from_the_top_of_the_ranking():
    predictor, _ = known()
    ranking = np.argsort(-TEST, kind="stable")
    search = PredictorSearch(
        *(POOL.features, predictor, np.random.default_rng(0)),
        budget=60,
        first=5,
        top_n=20,
    )
    first = search.ask(9)
    assert len(first) == 5  # no more than the draws before the first fit
    search.tell(first, LABEL[first])
    assert search.predicted_top() == ranking[0]
    new = search.ask(6)
    assert set(new) <= set(ranking[:20]) - set(first)
    search.tell(new, LABEL[new])
    # Few are left of the top 20: the best of the whole ranking, in order.
    asked = {*first.tolist(), *new.tolist()}
    more = search.ask(17)
    assert more.tolist() == [i for i in ranking if i not in asked][:17]


def test_a_search_fits_once_per_tell_on_normalised_labels_of_the_asked_alone():
    predictor, fits = known()
    search = PredictorSearch(
        *(POOL.features, predictor, np.random.default_rng(0)), budget=12, first=4
    )
    index = search.ask(4)
    search.tell(index, np.array([1.0, np.nan, 3.0, 5.0]))
    search.predicted_top(), search.ask(2), search.predicted_top()
    assert len(fits) == 1
    inputs, values, mask = fits[0]
    assert inputs.shape == (12, 15)  # always the same, or every fit would compile anew
    np.testing.assert_array_equal(mask, [1, 0, 1, 1] + [0] * 8)
    np.testing.assert_array_equal(inputs[:4], POOL.features[index])
    np.testing.assert_allclose(values[[0, 2, 3]].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(values[[0, 2, 3]].std(), 1, rtol=1e-6)


def test_mutations_are_one_edit_from_the_best_asked():
    search = mutation_search(np.random.default_rng(0), first=6, parents=2)
    first = search.ask(6)
    search.tell(first, LABEL[first])
    best = first[np.argsort(-LABEL[first])[:2]]
    allowed = {int(n) for i in best for n in POOL.neighbours(int(i))}
    assert set(search.ask(5)) <= allowed - set(first.tolist())


def test_mutations_need_a_predictor_that_knows_its_doubt():
    predictor = known()[0]._replace(predict_moments=None)
    with pytest.raises(ConfigError, match="members=5 makes an ensemble"):
        MutationSearch(
            *(POOL.features, predictor, POOL.neighbours, np.random.default_rng(0)),
            budget=20,
        )
