"""Searches built from sections: all of them play by the same rules and refuse what is wrong."""

import importlib
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas import searchers, trees
from zoo_jax.methods.weaknas.baselines import NO_MODEL, PredictorSearch
from zoo_jax.methods.weaknas.searchers import make_predictor, make_runner
from zoo_jax.methods.weaknas.spaces import open_pool
from zoo_jax.optim.predictors import gp_predictor
from zoo_jax.optim.weak_predictor import weak_predictor_search

POOL = open_pool("synthetic", slots=3, choices=6)  # 216 architectures
BUDGET = dict(budget=22, first=6, batch=4)
MLP = dict(name="mlp", hidden=[8], max_epochs=10)
SECTIONS = {
    "weak": dict(method="weak_predictor", predictor=MLP, top_n=30),
    "uniform": dict(method="weak_predictor", predictor=MLP, top_n="all"),
    "ei": dict(method="weak_predictor", predictor=dict(name="gp"), policy="ei"),
    "trees": dict(method="weak_predictor", predictor=dict(name="gradient_boosting")),
    "forest": dict(
        method="mutations", predictor=dict(name="random_forest", trees=5, depth=3)
    ),
    "mutations": dict(method="mutations", predictor=dict(**MLP, members=2)),
    "evolution": dict(method="evolution", population=6),
    "local_search": dict(method="local_search"),
    "random": dict(method="random"),
}


def keys(count, seed=0):
    return [jax.random.fold_in(jax.random.key(seed), i) for i in range(count)]


@pytest.fixture(scope="module")
def records():
    """Two runs of everything, with every seventh training failed."""
    labels = np.where(np.arange(len(POOL)) % 7 == 0, np.nan, POOL.labels["search"])
    pool = open_pool("synthetic", slots=3, choices=6)
    pool.labels["search"] = labels.astype(np.float32)
    return {
        name: make_runner({**BUDGET, **section}, pool, "search")(keys(2))
        for name, section in SECTIONS.items()
    }


@pytest.mark.parametrize("name", SECTIONS)
def test_budgets_are_equal_and_nothing_is_asked_twice(records, name):
    record = records[name]
    assert record.asked.shape == (2, 22)
    for asked in record.asked:
        assert len(set(asked.tolist())) == 22
        assert asked.min() >= 0
        assert asked.max() < len(POOL)
    np.testing.assert_array_equal(record.queries, [6, 10, 14, 18, 22])
    assert record.predicted_top.shape == (2, 5)


@pytest.mark.parametrize("name", SECTIONS)
def test_only_searches_with_a_predictor_predict(records, name):
    has_model = name not in ("evolution", "local_search", "random")
    assert ((records[name].predicted_top != NO_MODEL) == has_model).all()


@pytest.mark.parametrize("name", SECTIONS)
def test_runs_differ(records, name):
    first, second = records[name].asked
    assert set(first) != set(second)


@pytest.mark.parametrize("name", ["weak", "evolution", "mutations"])
def test_a_key_gives_the_same_search_alone_or_among_others(name):
    run = make_runner({**BUDGET, **SECTIONS[name]}, POOL, "search")
    both, alone = run(keys(2)), run(keys(2)[1:])
    np.testing.assert_array_equal(both.asked[1:], alone.asked)
    np.testing.assert_array_equal(both.predicted_top[1:], alone.predicted_top)


def test_searches_inside_jit_with_one_key_begin_alike(records):
    for name in ("uniform", "ei"):
        np.testing.assert_array_equal(
            records[name].asked[:, :6], records["weak"].asked[:, :6]
        )


def test_the_search_on_the_host_asks_what_the_one_inside_jit_asks():
    # With N equal to the batch the draw is of all candidates there are: no chance is left
    # but that of the first draws, which are handed over.
    label = jnp.asarray(POOL.labels["search"])
    options = dict(budget=30, first=10, batch=5, top_n=5)
    search = weak_predictor_search(POOL.features, gp_predictor(), **options)
    key = jax.random.key(3)
    params = search.initial_params(key)
    state = search.init(params, key)
    update = jax.jit(search.update)
    asked = []
    for _ in range(search.num_asks):
        asked.append(np.asarray(params["index"]))
        change, state = update(None, state, params, value=label[params["index"]])
        params = {"index": params["index"] + change["index"]}

    gp = gp_predictor()
    gp = gp._replace(fit=jax.jit(gp.fit), predict=jax.jit(gp.predict))
    host = PredictorSearch(
        *(POOL.features, gp, np.random.default_rng(0)),
        budget=30,
        first=10,
        top_n=5,
    )
    host.tell(
        np.concatenate(asked[:2]), POOL.labels["search"][np.concatenate(asked[:2])]
    )
    for expected in asked[2:]:
        index = host.ask(5)
        assert set(index.tolist()) == set(expected.tolist())
        host.tell(index, POOL.labels["search"][index])


@pytest.mark.parametrize("build", [trees.gradient_boosting, trees.random_forest])
def test_trees_see_the_rows_of_mask_one_alone(build):
    predictor = build()
    rows = np.concatenate([POOL.features[:40], np.full((9, 18), np.nan, np.float32)])
    values = np.concatenate([POOL.labels["test"][:40], np.full(9, np.nan)])
    mask = np.r_[np.ones(40), np.zeros(9)]
    key = jax.random.key(0)
    fitted = predictor.fit(key, rows, values, mask, None)
    alone = predictor.fit(key, rows[:40], values[:40], mask[:40], None)
    expected = predictor.predict(alone, POOL.features)
    np.testing.assert_array_equal(predictor.predict(fitted, POOL.features), expected)
    # And they have learned something of the rows that they did not see.
    assert np.corrcoef(expected[40:], POOL.labels["test"][40:])[0, 1] > 0.3


def test_the_members_of_a_forest_are_its_trees():
    forest = trees.random_forest(trees=7, depth=4)
    fitted = forest.fit(
        jax.random.key(1), POOL.features, POOL.labels["test"], np.ones(216), None
    )
    members = forest.predict_members(fitted, POOL.features)
    assert members.shape == (7, 216)
    mean, deviation = forest.predict_moments(fitted, POOL.features)
    np.testing.assert_allclose(mean, fitted.predict(POOL.features), rtol=1e-6)
    np.testing.assert_allclose(deviation, members.std(0))


def test_trees_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ConfigError, match=r"pip install 'zoo-jax\[samples\]'"):
        make_predictor(dict(name="random_forest"))


def test_every_predictor_has_a_builder_with_its_own_arguments():
    for name in searchers.PREDICTORS:
        predictor = make_predictor(dict(name=name))
        assert callable(predictor.fit)
    members = make_predictor(dict(**MLP, members=3))
    assert members.predict_members is not None


@pytest.mark.parametrize("file", ["nas_bench_201", "nas_bench_graph"])
def test_every_searcher_of_the_configs_can_be_built(root, file):
    path = root / f"experiments/configs/weaknas/{file}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    pool = open_pool("synthetic")
    common = {n: config.search[n] for n in ("budget", "first", "batch")}
    for section in config.searchers.values():
        make_runner({**common, **section.to_dict()}, pool, "search")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method="evolutoin"), "unknown search method 'evolutoin': did you mean"),
        (dict(method="random", top_n=3), "method 'random' has no argument 'top_n'"),
        (
            dict(predictor=dict(name="mpl")),
            "unknown predictor 'mpl': did you mean 'mlp'",
        ),
        (dict(predictor=dict(name="mlp", width=3)), "'mlp' has no argument 'width'"),
        (dict(budget=21), "budget=21 less first=6 must be a multiple of batch=4"),
        (
            dict(budget=2002),
            "budget=2002 exceeds the 216 architectures",
        ),
        (dict(first=0), "a search needs first of 1 or more, got 0"),
        (dict(policy="gredy"), "unknown policy 'gredy': did you mean 'greedy'"),
        (dict(policy="ei"), "policy 'ei' needs an ensemble or gp_predictor"),
        (dict(topn=9), "method 'weak_predictor' has no argument 'topn'"),
        (
            dict(predictor=dict(name="gcn")),
            "predictor 'gcn' needs graphs, which synthetic has not",
        ),
        (
            dict(predictor=dict(name="random_forest", members=2)),
            "'random_forest' has no members: it is an ensemble itself",
        ),
        (
            dict(predictor=dict(name="random_forest"), policy="ei"),
            "method 'weak_predictor' has no argument 'policy'",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(changes, message):
    section = {**BUDGET, "method": "weak_predictor", "predictor": MLP, **changes}
    if changes.get("method"):
        del section["predictor"]
    with pytest.raises(ConfigError) as error:
        make_runner(section, POOL, "search")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_label_names_those_there_are():
    with pytest.raises(ConfigError, match="synthetic has no label 'valid': choose"):
        make_runner({**BUDGET, **SECTIONS["random"]}, POOL, "valid")


def test_a_sample_of_a_space_has_no_neighbours():
    import dataclasses

    sample = dataclasses.replace(POOL, neighbours=None)
    with pytest.raises(ConfigError, match="edits lead out of synthetic"):
        make_runner({**BUDGET, **SECTIONS["evolution"]}, sample, "search")
    make_runner({**BUDGET, **SECTIONS["weak"]}, sample, "search")
