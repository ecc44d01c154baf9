"""Invariants of the search, on a pool of 60 and predictors that compile fast."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chisquare

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.predictors import Predictor, ensemble, gp_predictor, mlp_predictor
from zoo_jax.optim.predictors.protocol import hide_masked
from zoo_jax.optim.weak_predictor import run_searches, weak_predictor_search
from zoo_jax.train.checkpoint import Checkpointer

M, D = 60, 7
_rng = np.random.default_rng(0)
POOL = _rng.normal(size=(M, D)).astype(np.float32)
LABELS = (POOL @ _rng.normal(size=D) + 0.3 * _rng.normal(size=M)).astype(np.float32)
CLASSES = np.arange(M) // 3 * 10  # 20 classes of three
SIZES = dict(budget=13, first=6, batch=4, top_n=9)  # short batches: 4, 2, 4, 3
ASKS = (4, 2, 4, 3)


def _solve(key, inputs, values, mask, params):
    """Ridge regression around random weights, so that members of an ensemble differ."""
    del params
    x = hide_masked(inputs, mask)
    prior = 0.3 * jax.random.normal(key, (D,))
    gram = x.T @ x + jnp.eye(D)
    return {"kernel": prior + jnp.linalg.solve(gram, x.T @ (values * mask - x @ prior))}


RIDGE = Predictor(
    lambda key, inputs: {"kernel": jax.random.normal(key, (D,))},
    _solve,
    lambda params, inputs: inputs @ params["kernel"],
)
SEARCHES = {
    "uniform": {},
    "greedy": dict(policy="greedy"),
    "ei": dict(policy="ei"),
    "published_ei": dict(policy="ei", reference_ei=True),
    "ucb": dict(policy="ucb"),
    "thompson": dict(policy="thompson"),
    "top": dict(keep="top"),
    "none": dict(keep="none"),
    "classes": dict(classes=CLASSES),
    "classes_thompson": dict(classes=CLASSES, policy="thompson"),
    "few": dict(top_n=3),  # always fewer than a batch
    "schedule": dict(top_n=lambda fit: 20 - 4 * fit, ties="random", warm_start=True),
    "small_first": dict(first=3),
}
every_search = pytest.mark.parametrize("name", SEARCHES)


@functools.cache
def make_search(name):
    options = {**SIZES, **SEARCHES[name]}
    wide = options.get("policy") in ("ei", "ucb", "thompson")
    return weak_predictor_search(POOL, ensemble(RIDGE, 3) if wide else RIDGE, **options)


@functools.cache
def jitted(name):
    return jax.jit(make_search(name).update)


def keys(n=3, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.cache
def history(name):
    return run_searches(make_search(name), LABELS, keys())


@functools.cache
def starts(name):
    search = make_search(name)

    def start(key):
        params = search.initial_params(key)
        return params, search.init(params, key)

    return jax.jit(start)


def states(name, labels=LABELS, key=None):
    """(index asked, state after) of every ask, and the params that follow."""
    params, state = starts(name)(keys()[0] if key is None else key)
    out = []
    for _ in range(make_search(name).num_asks):
        value = jnp.asarray(labels)[params["index"]]
        updates, state = jitted(name)(None, state, params, value=value)
        out.append((params["index"], state))
        params = optax.apply_updates(params, updates)
    return out, params


def asked_by(out):
    index = np.concatenate([np.asarray(index) for index, _ in out])
    return index[index >= 0]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@every_search
def test_spends_the_budget_on_distinct_items(name):
    one, other = (asked_by(states(name, key=key)[0]) for key in keys(2))
    for run in (one, other):
        assert len(set(run)) == len(run) == 13
        assert run.max() < M
        if "classes" in name:
            assert len(set(CLASSES[run])) == 13
    assert tuple(one) != tuple(other)  # the keys decide


@pytest.mark.parametrize("name", ["uniform", "classes_thompson"])
def test_a_search_among_many_equals_the_same_search_alone(name):
    many = history(name)
    for run, key in enumerate(keys()):
        alone = asked_by(states(name, key=key)[0])
        np.testing.assert_array_equal(many.asked[run], alone)
    together = run_searches(make_search(name), LABELS, keys(), together=3)  # vmap
    np.testing.assert_array_equal(together.asked, many.asked)
    np.testing.assert_array_equal(together.predicted_top, many.predicted_top)


def test_eight_devices_equal_one():
    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = np.stack([LABELS, -LABELS, LABELS])  # labels of its own for each run
    many = run_searches(make_search("uniform"), rows, keys(), mesh=mesh)
    assert many.asked.shape == (3, 13)
    for run, key in enumerate(keys()):
        out, _ = states("uniform", labels=rows[run], key=key)
        np.testing.assert_array_equal(many.asked[run], asked_by(out))
        np.testing.assert_array_equal(many.values[run], rows[run][asked_by(out)])


def test_jit_equals_no_jit():
    search, key = make_search("uniform"), keys()[0]
    with jax.disable_jit():
        params = search.initial_params(key)
        state = search.init(params, key)
        for index, jitted_state in states("uniform")[0]:
            np.testing.assert_array_equal(params["index"], index)
            value = jnp.asarray(LABELS)[params["index"]]
            updates, state = search.update(None, state, params, value=value)
            params = optax.apply_updates(params, updates)
            np.testing.assert_array_equal(state.ranking, jitted_state.ranking)


def test_counts_records_and_the_best_so_far():
    out, _ = states("uniform")
    assert tuple(int((np.asarray(i) >= 0).sum()) for i, _ in out) == ASKS
    for (_, state), count in zip(out, np.cumsum(ASKS), strict=True):
        buffer, seen = state.buffer, asked_by(out)[:count]
        assert int(state.count) == int(buffer.mask.sum()) == count
        np.testing.assert_array_equal(buffer.items[:count], seen)
        np.testing.assert_array_equal(buffer.values[:count], LABELS[seen])
        assert int(state.best_index) == seen[np.argmax(LABELS[seen])]
        assert float(state.best_value) == LABELS[seen].max()
        assert set(np.flatnonzero(state.queried)) == set(seen)
    assert (np.asarray(out[0][1].ranking) == -1).all()  # no fit before `first`


def test_history_holds_what_the_loop_saw():
    out, _ = states("uniform")
    got = history("uniform")
    np.testing.assert_array_equal(got.values[0], LABELS[got.asked[0]])
    assert got.sizes.tolist() == [6, 10, 13]
    tops = [int(state.ranking[0]) for _, state in out[1:]]
    assert got.predicted_top[0].tolist() == tops


@pytest.mark.parametrize("name", ["uniform", "schedule", "few"])
def test_new_items_come_from_the_top_of_the_ranking(name):
    search = make_search(name)
    out, _ = states(name)
    for fit, ((_, state), (index, _)) in enumerate(itertools.pairwise(out[1:])):
        weights = np.asarray(state.predictor_params["kernel"])
        order = np.argsort(-(POOL @ weights), kind="stable")
        np.testing.assert_array_equal(order[: len(state.ranking)], state.ranking)
        asked = [i for i in np.asarray(index) if i >= 0]
        unseen = [i for i in order if not state.queried[i]]
        inside = [i for i in order[: search.top_n[fit]] if i in unseen]
        if len(inside) >= len(asked):
            assert set(asked) <= set(inside)
        else:  # the fallback: the whole ranking, in its order
            assert asked == unseen[: len(asked)]
        if name == "few":
            assert len(inside) < len(asked)


def test_greedy_asks_the_top_of_the_ranking():
    out, _ = states("greedy")
    for (_, state), (index, _) in itertools.pairwise(out[1:]):
        order = np.argsort(-(POOL @ np.asarray(state.predictor_params["kernel"])))
        unseen = [i for i in order if not state.queried[i]]
        asked = [i for i in np.asarray(index) if i >= 0]
        assert asked == unseen[: len(asked)]


def test_the_whole_pool_as_top_list_samples_uniformly():
    small = POOL[:12]
    options = dict(budget=4, first=2, batch=2, top_n=12)
    search = weak_predictor_search(small, RIDGE, **options)
    asked = run_searches(search, LABELS[:12], keys(600, seed=1), together=600).asked
    for part in (asked[:, :2], asked[:, 2:]):
        counts = np.bincount(np.asarray(part).ravel(), minlength=12)
        # Draws of a run exclude each other: less spread than chi-square expects, never more.
        assert chisquare(counts).pvalue > 1e-3
    pairs = np.asarray(asked[:, 2:])
    assert (pairs[:, 0] < pairs[:, 1]).mean() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("predictor", ["gp", "mlp"])
def test_an_affine_change_of_labels_changes_no_query(predictor):
    build = {"gp": gp_predictor(), "mlp": mlp_predictor((9,), max_epochs=15)}
    search = weak_predictor_search(POOL, build[predictor], **SIZES)
    # Labels on a grid, so that scaling and shifting them is exact.
    labels = np.round(LABELS * 64) / 64
    rows = np.stack([labels, 4 * labels + 32])
    twice = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(keys()[0])] * 2))
    got = run_searches(search, rows, twice)
    np.testing.assert_array_equal(got.asked[0], got.asked[1])


def test_a_monotone_change_of_labels_changes_no_query_by_ranks():
    search = weak_predictor_search(POOL, RIDGE, **SIZES, normalise="ranks")
    rows = np.stack([LABELS, np.exp(LABELS)])
    twice = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(keys()[0])] * 2))
    got = run_searches(search, rows, twice)
    np.testing.assert_array_equal(got.asked[0], got.asked[1])


def test_failures_are_counted_never_fitted_never_best():
    labels = LABELS.copy()
    failed = np.argsort(-LABELS)[:24]  # the best cannot be measured
    labels[failed] = [np.nan, np.inf, -np.inf] * 8
    out, _ = states("uniform", labels=labels)
    state, asked = out[-1][1], asked_by(out)
    assert np.isin(asked, failed).any()
    assert int(state.count) == 13
    np.testing.assert_array_equal(state.buffer.mask, ~np.isin(asked, failed))
    good = asked[~np.isin(asked, failed)]
    assert int(state.best_index) == good[np.argmax(LABELS[good])]
    assert np.isfinite(state.predictor_params["kernel"]).all()


def test_keep_decides_what_a_fit_sees():
    for name in ("top", "none"):
        out, _ = states(name)
        for (_, before), (index, after) in itertools.pairwise(out[1:]):
            old = set(np.asarray(before.buffer.items)[np.asarray(before.buffer.mask)])
            new = {int(i) for i in np.asarray(index) if i >= 0}
            top = set(np.asarray(after.ranking).tolist())
            now = set(np.asarray(after.buffer.items)[np.asarray(after.buffer.mask)])
            assert now == (new if name == "none" else (old | new) & top)


def test_a_saved_search_goes_on_as_if_nothing_had_happened(tmp_path):
    search, key = make_search("ei"), keys()[0]
    out, last = states("ei")  # four asks; saved after two
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        tree = {"state": out[1][1], "params": {"index": out[2][0]}}
        checkpointer.save(2, tree, iterator={}, meta={})
        params = search.initial_params(key)
        template = {"state": search.init(params, key), "params": params}
        restored = checkpointer.restore(template).state
    state, params = restored["state"], restored["params"]
    same(state, out[1][1])
    for _ in range(2):
        value = jnp.asarray(LABELS)[params["index"]]
        updates, state = jitted("ei")(None, state, params, value=value)
        params = optax.apply_updates(params, updates)
    same((state, params), (out[-1][1], last))


def test_after_the_budget_nothing_moves():
    out, params = states("uniform")
    state = out[-1][1]
    updates, after = jitted("uniform")(None, state, params, value=jnp.full(4, 9.0))
    assert updates["index"].dtype == jnp.int32
    assert not updates["index"].any()
    same(after, state)


def test_reads_as_an_optax_transformation():
    search, key = make_search("uniform"), keys()[0]
    params = search.initial_params(key)
    state, value = search.init(params, key), jnp.asarray(LABELS)[params["index"]]
    updates, after = jitted("uniform")(None, state, params, value=value)
    again, _ = jitted("uniform")(
        params, state, params, value=value, loss=jnp.ones(()), step=3
    )
    same(updates, again)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    chained = optax.chain(search)
    updates, _ = chained.update(None, chained.init(params), params, value=value)
    assert updates["index"].dtype == jnp.int32


def test_init_has_a_key_of_its_own_where_it_gets_none():
    search = make_search("uniform")
    params = search.initial_params(keys()[0])
    same(search.init(params), search.init(params, jax.random.key(0)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(budget=5), "budget"),
        (dict(batch=0), "batch=0"),
        (dict(budget=61), "budget=61 exceeds the 60 distinct items"),
        (dict(budget=21, classes=CLASSES), "exceeds the 20 distinct items"),
        (dict(classes=CLASSES[:5]), "classes needs one number per item"),
        (dict(policy="uniforn"), "did you mean 'uniform'"),
        (dict(keep="some"), "unknown keep 'some'"),
        (dict(ties="coin"), "unknown ties"),
        (dict(top_n=0), "top_n must be 1 or more"),
        (dict(policy="ei"), "policy 'ei' needs an ensemble or gp_predictor"),
        (dict(policy="thompson"), "policy 'thompson' needs an ensemble"),
        (dict(normalise="rank"), "did you mean 'ranks'"),
        (dict(normalise=(90.0, 0.0)), "deviation above 0"),
    ],
)
def test_says_what_does_not_fit(options, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        weak_predictor_search(POOL, RIDGE, **{**SIZES, **options})


def test_a_wrong_ask_or_tell_is_refused():
    search = make_search("uniform")
    params = search.initial_params(keys()[0])
    state = search.init(params)
    with pytest.raises(ValueError, match=r"params must be .*search.initial_params"):
        search.init({"index": jnp.zeros(3, jnp.int32)})
    with pytest.raises(ValueError, match="needs params and value"):
        search.update(None, state, params)
    with pytest.raises(ValueError, match=r"value needs shape \(4,\), got \(3,\)"):
        search.update(None, state, params, value=jnp.zeros(3))
    with pytest.raises(ConfigError, match="2 rows of labels do not fit 3 keys"):
        run_searches(search, np.stack([LABELS] * 2), keys())
