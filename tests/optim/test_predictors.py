"""One battery for every predictor, then what is special about each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.predictors import (
    ensemble,
    gcn_predictor,
    gp_predictor,
    mlp_predictor,
)
from zoo_jax.optim.predictors.gcn import apply_gcn, propagation
from zoo_jax.optim.predictors.training import glorot, pairwise_loss

MLP = dict(hidden=(17, 13), max_epochs=60, learning_rate=0.02)
PREDICTORS = {
    "mlp": mlp_predictor(**MLP),
    # Its scores have no scale to settle at: small steps keep rounding from growing.
    "mlp_pairwise": mlp_predictor(**{**MLP, "learning_rate": 2e-3}, loss="pairwise"),
    "mlp_minibatch": mlp_predictor(**MLP, batch_size=5),
    "gp": gp_predictor(),
    "gp_matern52": gp_predictor("matern52"),
    "gp_exponential": gp_predictor("exponential"),
    "gcn": gcn_predictor((19, 11), max_epochs=60, learning_rate=0.02),
    "ensemble": ensemble(mlp_predictor(**MLP), 3),
}
every_predictor = pytest.mark.parametrize("name", PREDICTORS)
ROWS, PADDED, D = 14, 40, 6  # D: one-hot of two choices of three


def problem(name, rows, seed=0):
    """Inputs, and values that are linear in them."""
    rng = np.random.default_rng(seed)
    choice = rng.integers(0, 3, (rows, 2))
    onehot = np.eye(3, dtype=np.float32)[choice]  # rows, 2, 3
    values = (onehot @ np.float32([-1.0, 0.1, 1.0])) @ np.float32([1.0, 0.5])
    if name != "gcn":
        return jnp.array(onehot.reshape(rows, D)), jnp.array(values)
    # input -> first op -> second op, with the op of the input a fourth kind
    ops = np.zeros((rows, 3, 4), np.float32)
    ops[:, 0, 3] = 1
    ops[:, 1:, :3] = onehot
    adjacency = np.zeros((rows, 3, 3), np.float32)
    adjacency[:, 0, 1] = adjacency[:, 1, 2] = 1
    values = onehot.sum(axis=1) @ np.float32(
        [-1.0, 0.1, 1.0]
    )  # nodes are alike to a mean
    return (jnp.array(adjacency), jnp.array(ops)), jnp.array(values)


def padded(name, fill):
    inputs, values = problem(name, ROWS)
    extra = PADDED - ROWS

    def pad(leaf):
        rows = jnp.full((extra, *leaf.shape[1:]), fill, leaf.dtype)
        return jnp.concatenate([leaf, rows])

    mask = jnp.concatenate([jnp.ones(ROWS), jnp.zeros(extra)])
    return jax.tree.map(pad, inputs), pad(values), mask


@functools.cache
def fit_function(name, jit=True):
    predictor = PREDICTORS[name]

    def run(key, inputs, values, mask):
        init, fit = jax.random.split(key)
        params = predictor.init(init, inputs)
        return predictor.fit(fit, inputs, values, mask, params)

    return jax.jit(run) if jit else run


def fitted(name, inputs, values, mask=None, seed=0, jit=True):
    mask = jnp.ones(len(values)) if mask is None else mask
    return fit_function(name, jit)(jax.random.key(seed), inputs, values, mask)


def predictions(name, params):
    got = np.asarray(PREDICTORS[name].predict(params, problem(name, 30, seed=1)[0]))
    # A pairwise loss leaves the constant open: its gradient is rounding, which Adam scales up.
    return got - got.mean() if name == "mlp_pairwise" else got


@every_predictor
def test_learns_the_order_of_unseen_items(name):
    params = fitted(name, *problem(name, PADDED))
    got = predictions(name, params)
    assert spearmanr(got, problem(name, 30, seed=1)[1]).statistic > 0.9


@every_predictor
def test_what_stands_behind_the_mask_never_matters(name):
    one = predictions(name, fitted(name, *padded(name, jnp.nan)))
    other = predictions(name, fitted(name, *padded(name, 7.0)))
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, other)


# With mini-batches padding draws other shuffles: the test of its steps covers that.
full_batch_predictors = pytest.mark.parametrize(
    "name", [name for name in PREDICTORS if name != "mlp_minibatch"]
)


@full_batch_predictors
def test_padding_changes_no_prediction(name):
    plain = predictions(name, fitted(name, *problem(name, ROWS)))
    got = predictions(name, fitted(name, *padded(name, jnp.nan)))
    np.testing.assert_allclose(
        got, plain, atol=1e-4
    )  # sums in another order, 60 epochs


@full_batch_predictors
def test_order_of_rows_does_not_matter_to_a_full_batch_fit(name):
    inputs, values = problem(name, ROWS)
    order = np.random.default_rng(3).permutation(ROWS)
    plain = predictions(name, fitted(name, inputs, values))
    turned = jax.tree.map(lambda leaf: leaf[order], inputs)
    got = predictions(name, fitted(name, turned, values[order]))
    np.testing.assert_allclose(got, plain, atol=1e-4)


@every_predictor
def test_zeros_behind_smaller_params_change_no_prediction(name):
    predictor = PREDICTORS[name]
    params = fitted(name, *problem(name, ROWS))
    like = predictor.init(jax.random.key(0), problem(name, PADDED)[0])

    def pad(leaf, like):
        return jnp.pad(
            leaf, [(0, b - a) for a, b in zip(leaf.shape, like.shape, strict=True)]
        )

    grown = {
        k: pad(v, like[k]) if hasattr(v, "shape") and v.ndim else v
        for k, v in params.items()
    }
    for f in (predictor.predict, predictor.predict_moments):
        if f is not None:
            for a, b in zip(
                jax.tree.leaves(f(params, problem(name, 30, seed=1)[0])),
                jax.tree.leaves(f(grown, problem(name, 30, seed=1)[0])),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, atol=1e-5)


@every_predictor
def test_params_of_init_have_the_structure_of_a_fit(name):
    inputs, values = problem(name, ROWS)
    start = PREDICTORS[name].init(jax.random.key(0), inputs)
    end = fitted(name, inputs, values)
    assert jax.tree.structure(start) == jax.tree.structure(end)
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("name", ["mlp_minibatch", "gp", "gcn"])
def test_jit_equals_no_jit(name):
    data = padded(name, jnp.nan)
    plain = predictions(name, fitted(name, *data, jit=False))
    np.testing.assert_allclose(predictions(name, fitted(name, *data)), plain, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "gp", "ensemble"])
def test_one_label_and_equal_labels_stay_finite(name):
    inputs, values, mask = padded(name, jnp.nan)
    alone = mask.at[1:].set(0)
    equal = jnp.full_like(values, 0.7)
    for labels, seen in ((values, alone), (equal, mask)):
        params = fitted(name, inputs, labels, seen)
        assert np.isfinite(predictions(name, params)).all()
        if PREDICTORS[name].predict_moments:
            moments = PREDICTORS[name].predict_moments(params, problem(name, 5)[0])
            assert all(np.isfinite(m).all() for m in moments)


@pytest.mark.parametrize("name", ["mlp", "mlp_minibatch", "gcn", "ensemble"])
def test_the_key_decides(name):
    data = problem(name, ROWS)
    one, again, other = (
        predictions(name, fitted(name, *data, seed=seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_members_differ_and_their_moments_are_the_predictions():
    name = "ensemble"
    params = fitted(name, *problem(name, ROWS))
    inputs = problem(name, 9, seed=4)[0]
    members = np.asarray(PREDICTORS[name].predict_members(params, inputs))
    mean, deviation = PREDICTORS[name].predict_moments(params, inputs)
    assert members.shape == (3, 9)
    assert not np.allclose(members[0], members[1])
    np.testing.assert_allclose(mean, members.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(deviation, members.std(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        PREDICTORS[name].predict(params, inputs), mean, atol=1e-6
    )


def test_a_pairwise_fit_sees_the_order_alone():
    inputs, values = problem("mlp_pairwise", ROWS)
    plain = predictions("mlp_pairwise", fitted("mlp_pairwise", inputs, values))
    warped = fitted("mlp_pairwise", inputs, jnp.exp(3 * values) + 5)
    np.testing.assert_array_equal(predictions("mlp_pairwise", warped), plain)


def test_pairwise_loss_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    p, v = rng.normal(size=(2, 7))
    v[3] = v[5]  # a tie is no pair
    mask = np.array([1, 1, 0, 1, 1, 1, 1.0])
    pairs = [(i, j) for i in range(7) for j in range(7) if v[i] > v[j]]
    pairs = [(i, j) for i, j in pairs if mask[i] and mask[j]]
    expected = np.mean([np.log1p(np.exp(-(p[i] - p[j]))) for i, j in pairs])
    got = pairwise_loss(*(jnp.float32(x) for x in (p, v, mask)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_layers_start_in_the_bounds_of_glorot():
    layer = glorot(jax.random.key(0), 300, 200)
    bound = np.sqrt(6 / 500)
    for leaf in layer.values():
        assert float(abs(leaf).max()) <= bound
        np.testing.assert_allclose(leaf.std(), bound / np.sqrt(3), rtol=0.1)
        assert abs(float(leaf.mean())) < 0.1 * bound


def test_graphs_mix_neighbours_both_ways_and_ignore_padding():
    rng = np.random.default_rng(0)
    b, n, k = 3, 5, 4
    adjacency = np.triu(rng.integers(0, 2, (b, n, n)), 1).astype(np.float32)
    ops = np.eye(k, dtype=np.float32)[rng.integers(0, k, (b, n))]
    ops[1, 3:] = 0  # the second cell has three nodes
    adjacency[1, :, 3:] = adjacency[1, 3:] = 0
    params = gcn_predictor((7, 6)).init(jax.random.key(0), (adjacency, ops))
    got = apply_gcn(params, (jnp.array(adjacency), jnp.array(ops)))
    for item, nodes in enumerate((5, 3, 5)):
        x = ops[item, :nodes].astype(np.float64)
        for i in range(2):
            w, bias = (np.float64(params[f"layer_{i}"][s]) for s in ("kernel", "bias"))
            mixed = np.zeros_like(x)
            for v in range(nodes):
                near = [
                    u
                    for u in range(nodes)
                    if u == v or adjacency[item, u, v] or adjacency[item, v, u]
                ]
                mixed[v] = np.mean([x[u] for u in near], axis=0)
            x = np.maximum(mixed @ w + bias, 0)
        out = x.mean(axis=0) @ np.float64(params["output"]["kernel"])
        expected = out + np.float64(params["output"]["bias"])
        np.testing.assert_allclose(got[item], expected[0], atol=1e-5)
    sums = propagation((jnp.array(adjacency), jnp.array(ops))).sum(axis=2)
    np.testing.assert_allclose(sums[1], [1, 1, 1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: mlp_predictor(()), "hidden"),
        (lambda: mlp_predictor(max_epochs=0), "max_epochs must be above 0, got 0"),
        (lambda: mlp_predictor(l2=-1.0), "l2 must be 0 or more, got -1"),
        (lambda: mlp_predictor(loss="mae"), "unknown loss 'mae'"),
        (lambda: gcn_predictor((0,)), "hidden"),
        (lambda: gp_predictor("rfb"), "did you mean 'rbf'"),
        (lambda: gp_predictor(noises=()), "noises"),
        (lambda: ensemble(gp_predictor(), 1), "got 1"),
    ],
)
def test_says_what_does_not_fit(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
