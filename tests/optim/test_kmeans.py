"""The k-means regulariser: golden numbers, finite differences, and its properties."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim import clustering, kmeans
from zoo_jax.optim.kmeans import (
    LayerSpec,
    kmeans_regularization,
    project,
    resolve_spec,
)

# Compiled once per shape and kept in the compilation cache.
kmeans_cost = jax.jit(
    lambda x, k, key: clustering.kmeans(x, k, key, num_init=5).sse, static_argnums=1
)
labels_penalty = jax.jit(kmeans.labels_penalty, static_argnums=2)
spectral_factor = jax.jit(kmeans.spectral_factor, static_argnums=1)
spectral_penalty = jax.jit(kmeans.spectral_penalty, static_argnums=1)

SPECTRAL_CASES = ("wide", "tall", "row", "low_rank")
FILTERS = {"conv/kernel": LayerSpec(4, "filter")}
ROWS = {"conv/kernel": LayerSpec(8, "row")}


@pytest.fixture(scope="module")
def golden(root):
    with np.load(root / "tests/fixtures/golden/deep_k_means.npz") as file:
        return dict(file)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(seed=0, dtype=jnp.float32):
    return {
        "conv": {
            "kernel": normal(3, 3, 2, 10, seed=seed).astype(dtype),
            "bias": normal(10, seed=seed + 1).astype(dtype),
        },
        "steps": jnp.arange(3),
    }


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def pull(tx, params, state=None):
    """What the transformation adds to a zero gradient of the convolution kernel."""
    state = tx.init(params) if state is None else state
    updates, state = jax.jit(tx.update)(zeros(params), state, params)
    return updates["conv"]["kernel"], state


# --- the penalty ---


@pytest.mark.parametrize("case", SPECTRAL_CASES)
@pytest.mark.parametrize("kind", ["", "stale_"])
def test_spectral_penalty_and_gradient_equal_float64_algebra(golden, case, kind):
    def get(name):
        return golden[f"spectral/{case}/{name}"]

    w, k = jnp.asarray(get("W").T, jnp.float32), int(get("K"))
    source = jnp.asarray(get("stale_source").T, jnp.float32) if kind else w
    factor = spectral_factor(source, k)
    scale = np.abs(get("W")).max()
    expected = float(get(f"{kind}penalty"))
    got = float(spectral_penalty(w, k, factor))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    gradient = w - project(factor, w)
    np.testing.assert_allclose(gradient.T, get(f"{kind}gradient"), atol=1e-5 * scale)


@pytest.mark.parametrize("case", SPECTRAL_CASES)
def test_labels_penalty_and_gradient_equal_float64_algebra(golden, case):
    def get(name):
        return golden[f"spectral/{case}/{name}"]

    w, k = jnp.asarray(get("W").T, jnp.float32), int(get("K"))
    labels = jnp.asarray(get("labels"))
    penalty, gradient = jax.value_and_grad(labels_penalty)(w, labels, k)
    np.testing.assert_allclose(penalty, get("indicator_penalty"), rtol=1e-5)
    scale = np.abs(get("W")).max()
    expected = get("indicator_gradient").T
    np.testing.assert_allclose(gradient / 2, expected, atol=1e-5 * scale)


@pytest.mark.parametrize(("n", "d"), [(30, 7), (9, 20)])
def test_factor_is_orthonormal_and_its_projector_idempotent(n, d):
    factor = spectral_factor(normal(n, d), 5)
    np.testing.assert_allclose(factor.T @ factor, np.eye(5), atol=1e-5)
    projector = factor @ factor.T
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-5)


def test_factor_stays_orthonormal_when_singular_values_differ_by_hundreds():
    scales = jnp.array([[1000.0, 300, 100, 30, 10, 5]])
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    x = normal(200, 6) * scales @ jnp.asarray(rotation, jnp.float32)
    factor = spectral_factor(x, 5)
    np.testing.assert_allclose(factor.T @ factor, np.eye(5), atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(30, 7), (9, 20)])
def test_projector_permutes_with_the_samples(n, d):
    x, order = normal(n, d), np.random.default_rng(1).permutation(n)
    one, other = spectral_factor(x, 4), spectral_factor(x[order], 4)
    expected = np.asarray(one @ one.T)[order][:, order]
    np.testing.assert_allclose(other @ other.T, expected, atol=1e-4)


def test_projector_is_blind_to_rotations_of_the_features():
    x = normal(30, 7)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
    one = spectral_factor(x, 4)
    other = spectral_factor(x @ jnp.asarray(rotation, jnp.float32), 4)
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(30, 7), (9, 20)])
def test_spectral_penalty_is_the_energy_beyond_the_leading_directions(n, d):
    x = normal(n, d)
    squares = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False) ** 2
    for k in (1, 2, 6):
        np.testing.assert_allclose(spectral_penalty(x, k), squares[k:].sum(), rtol=1e-4)
    for k in (min(n, d), 25):
        assert float(spectral_penalty(x, k)) < 1e-8 * squares.sum()


def test_spectral_penalty_is_zero_at_a_perfect_clustering():
    x = normal(4, 9)[np.arange(40) % 4]
    assert float(spectral_penalty(x, 4)) < 1e-8 * float(jnp.sum(x**2))
    assert float(spectral_penalty(x, 3)) > 1


def test_spectral_penalty_never_exceeds_the_cost_of_any_clustering():
    x = normal(40, 9)
    for seed in range(20):
        labels = jnp.asarray(np.random.default_rng(seed).integers(0, 5, 40))
        cost = float(labels_penalty(x, labels, 5))
        assert 0 <= float(spectral_penalty(x, 5)) <= cost
    best = kmeans_cost(x, 5, jax.random.key(0))
    assert float(spectral_penalty(x, 5)) <= float(best)


@pytest.mark.parametrize(("n", "d"), [(30, 7), (9, 20), (5, 5)])
def test_weights_of_zero_give_zero_and_no_nan(n, d):
    x = jnp.zeros((n, d))
    factor = spectral_factor(x, 3)
    assert not factor.any()
    assert float(spectral_penalty(x, 3)) == 0


def test_rank_deficient_weights_keep_only_their_directions():
    x = normal(50, 2) @ normal(2, 8, seed=1)
    factor = spectral_factor(x, 5)
    np.testing.assert_allclose(factor.T @ factor, np.diag([1, 1, 0, 0, 0]), atol=1e-5)


# --- the transformation ---


def test_gradient_equals_autodiff_of_the_trace_form_with_constant_factor():
    x, factor = normal(30, 7), spectral_factor(normal(30, 7, seed=3), 4)

    def half_trace_form(x):
        return 0.5 * (jnp.trace(x @ x.T) - jnp.trace(factor.T @ x @ x.T @ factor))

    expected = jax.grad(half_trace_form)(x)
    np.testing.assert_allclose(x - project(factor, x), expected, atol=1e-5)
    half_penalty = jax.grad(lambda x: 0.5 * spectral_penalty(x, 4, factor))(x)
    np.testing.assert_allclose(half_penalty, expected, atol=1e-5)


@pytest.mark.parametrize("spec", [FILTERS, {"conv/kernel": LayerSpec(4, "kernel2d")}])
def test_fresh_gradient_equals_finite_differences_of_the_tail_energy(spec):
    params = network()
    got, _ = pull(kmeans_regularization(1.0, spec, refresh_every=1), params)
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    layer = spec["conv/kernel"]

    def energy(kernel):  # independent: NumPy, float64, full SVD
        _, d = clustering.sample_shape(kernel.shape, layer.samples)
        rows = kernel.transpose(3, 2, 0, 1).reshape(-1, d)
        squares = np.linalg.svd(rows, compute_uv=False) ** 2
        return 0.5 * squares[4:].sum()

    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = rng.normal(size=kernel.shape)
        h = 1e-5
        slope = energy(kernel + h * direction) - energy(kernel - h * direction)
        slope /= 2 * h
        np.testing.assert_allclose(np.sum(got * direction), slope, rtol=1e-3, atol=1e-3)


def test_rows_of_small_kernels_make_the_spectral_form_a_no_op_and_say_so():
    params = network()
    tx = kmeans_regularization(1.0, ROWS, refresh_every=1)
    message = r"conv/kernel \(8 clusters, 60 row samples of length 3\)"
    with pytest.warns(UserWarning, match=message):
        got, _ = pull(tx, params)
    np.testing.assert_allclose(got, 0, atol=1e-5)


def test_the_warning_comes_under_eval_shape_and_only_where_it_is_true():
    tx = kmeans_regularization(1.0, ROWS, refresh_every=1)
    with pytest.warns(UserWarning, match="identically zero"):
        jax.eval_shape(tx.init, network())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kmeans_regularization(1.0, FILTERS, refresh_every=1).init(network())
        kmeans_regularization(1.0, ROWS, refresh_every=1, relaxation="labels").init(
            network()
        )


def test_labels_form_pulls_every_sample_toward_the_mean_of_its_cluster():
    params = network()
    tx = kmeans_regularization(0.3, ROWS, refresh_every=1, relaxation="labels")
    got, state = pull(tx, params)
    labels = np.asarray(state.factors["conv"]["kernel"])
    rows = np.asarray(params["conv"]["kernel"]).transpose(3, 2, 0, 1).reshape(-1, 3)
    means = np.stack([rows[labels == i].mean(0) for i in range(8)])
    got = np.asarray(got).transpose(3, 2, 0, 1).reshape(-1, 3)
    np.testing.assert_allclose(got, 0.3 * (rows - means[labels]), atol=1e-6)
    best = kmeans_cost(jnp.asarray(rows), 8, jax.random.key(1))
    assert np.sum((rows - means[labels]) ** 2) < 1.3 * float(best)


def test_labels_form_knows_the_core():
    params = network()
    spec = {"conv/kernel": LayerSpec(5, "row", core=0.5)}
    tx = kmeans_regularization(1.0, spec, refresh_every=1, relaxation="labels")
    _, state = pull(tx, params)
    assert np.sum(np.asarray(state.factors["conv"]["kernel"]) == 0) == 30


@pytest.mark.parametrize("relaxation", ["spectral", "labels"])
def test_factors_are_refreshed_every_third_update_only(relaxation):
    spec = FILTERS if relaxation == "spectral" else ROWS
    tx = kmeans_regularization(1.0, spec, refresh_every=3, relaxation=relaxation)
    update = jax.jit(tx.update)
    state, factors = tx.init(network()), []
    for seed in range(7):
        params = network(seed=10 * seed)
        _, state = update(zeros(params), state, params)
        factors.append(np.asarray(state.factors["conv"]["kernel"]))
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(factors)]
    assert changed == [False, False, True, False, False, True]


def test_stale_factor_still_uses_current_weights():
    old, new = network(), network(seed=7)
    tx = kmeans_regularization(1.0, FILTERS, refresh_every=10)
    _, state = pull(tx, old)
    got, _ = pull(tx, new, state)
    layer = FILTERS["conv/kernel"]
    w = layer.matrix(new["conv"]["kernel"])
    factor = spectral_factor(layer.matrix(old["conv"]["kernel"]), 4)
    np.testing.assert_allclose(layer.matrix(got), w - project(factor, w), atol=1e-5)


def test_permuting_outputs_permutes_the_gradient():
    params, order = network(), np.random.default_rng(0).permutation(10)
    tx = kmeans_regularization(1.0, FILTERS, refresh_every=1)
    got, _ = pull(tx, params)
    params["conv"]["kernel"] = params["conv"]["kernel"][..., order]
    permuted, _ = pull(tx, params)
    np.testing.assert_allclose(permuted, got[..., order], atol=1e-5)


@pytest.mark.parametrize("relaxation", ["spectral", "labels"])
def test_other_leaves_pass_bit_for_bit(relaxation):
    params = network()
    grads = jax.tree.map(lambda p: p + 1, params)
    tx = kmeans_regularization(1.0, FILTERS, refresh_every=1, relaxation=relaxation)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["conv"]["bias"], grads["conv"]["bias"])
    np.testing.assert_array_equal(updates["steps"], grads["steps"])
    assert updates["steps"].dtype == params["steps"].dtype


def test_strength_follows_its_schedule_on_its_own_count():
    params = network()
    tx = kmeans_regularization(lambda count: 0.5 * count, FILTERS, refresh_every=1)
    state, seen = tx.init(params), []
    for _ in range(3):
        got, state = pull(tx, params, state)
        seen.append(np.asarray(got))
    assert not seen[0].any()
    np.testing.assert_allclose(seen[2], 2 * seen[1], rtol=1e-5)


def test_plain_sgd_at_unit_rate_lands_on_the_centres():
    params = network()
    tx = optax.chain(
        kmeans_regularization(1.0, ROWS, refresh_every=1, relaxation="labels"),
        optax.sgd(1.0),
    )
    updates, _ = tx.update(zeros(params), tx.init(params), params)
    rows = ROWS["conv/kernel"].matrix(
        params["conv"]["kernel"] + updates["conv"]["kernel"]
    )
    assert len(np.unique(np.round(np.asarray(rows), 4), axis=0)) <= 8


def test_training_with_rising_strength_clusters_the_rows():
    params = network()
    tx = optax.chain(
        kmeans_regularization(
            lambda count: 0.1 * 1.2**count, ROWS, refresh_every=5, relaxation="labels"
        ),
        optax.sgd(0.1),
    )
    target = params["conv"]["kernel"]

    @jax.jit
    def step(params, state):
        grads = zeros(params)
        grads["conv"]["kernel"] = params["conv"]["kernel"] - target  # stay near
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def relative(params):
        rows = ROWS["conv/kernel"].matrix(params["conv"]["kernel"])
        return float(
            kmeans_cost(rows, 8, jax.random.key(0))
            / jnp.sum(jnp.square(rows - rows.mean(0, keepdims=True)))
        )

    before, state = relative(params), tx.init(params)
    for _ in range(25):
        params, state = step(params, state)
    assert relative(params) < 0.05 * before


def test_decoupled_pull_does_not_pass_through_the_optimiser():
    params = network()
    rate, strength = 0.01, 2.0
    tx = optax.chain(
        optax.adam(rate),
        kmeans_regularization(
            strength, FILTERS, refresh_every=1, decoupled=True, learning_rate=rate
        ),
    )
    got, _ = pull(tx, params)  # a zero gradient: Adam adds nothing
    plain, _ = pull(kmeans_regularization(1.0, FILTERS, refresh_every=1), params)
    np.testing.assert_allclose(got, -rate * strength * plain, rtol=1e-4, atol=1e-7)


def test_without_params_it_raises():
    params = network()
    tx = kmeans_regularization(1.0, FILTERS, refresh_every=1)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(zeros(params), tx.init(params))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(relaxation="label"), "did you mean 'labels'"),
        (dict(refresh_every=0), "got 0"),
        (dict(decoupled=True), "decoupled=True, learning_rate=None"),
        (dict(learning_rate=0.1), "decoupled=False, learning_rate=0.1"),
    ],
)
def test_arguments_that_do_not_fit_raise(options, message):
    with pytest.raises(ConfigError, match=message):
        kmeans_regularization(1.0, FILTERS, **{"refresh_every": 1, **options})


# --- specs ---


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"cnv/kernel": 8}, "needs dict"),
        (
            {"conv/kernle": LayerSpec(8)},
            "matches no parameter: did you mean 'conv/kernel'",
        ),
        ({"conv/*": LayerSpec(8)}, r"'conv/bias' \(10,\) float32, which is no kernel"),
        ({"steps": LayerSpec(8)}, r"'steps' \(3,\) int32, which is no kernel"),
        ({"*kernel": LayerSpec(61)}, "60 row samples.*at most 60.*num_clusters=61"),
        ({"*kernel": LayerSpec(8, core=0.9)}, "at most 7 clusters"),
        ({"*": None, "*kernel": LayerSpec(8)}, "never decides.*before it"),
        ({"*kernel": {"clusters": 8}}, "did you mean 'num_clusters'"),
        ({"*kernel": {"samples": "row"}}, "lacks num_clusters"),
        ({"*kernel": LayerSpec(8, row_length=3)}, "row_length=3 fits dense"),
    ],
)
def test_specs_that_do_not_fit_raise_one_line_with_names_and_numbers(spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        resolve_spec(spec, network())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_clusters=0), "got 0"),
        (dict(num_clusters=2.5), r"got 2\.5"),
        (dict(num_clusters=2, samples="kernel"), "did you mean 'kernel2d'"),
        (dict(num_clusters=2, core=1.0), r"got 1\.0"),
    ],
)
def test_layer_specs_out_of_range_raise(options, message):
    with pytest.raises(ConfigError, match=message):
        LayerSpec(**options)


def test_the_first_matching_pattern_decides():
    params = {"a": {"kernel": normal(3, 3, 2, 4)}, "b": {"kernel": normal(3, 3, 2, 4)}}
    spec = {"a/*": LayerSpec(3), "*/kernel": LayerSpec(5)}
    got = resolve_spec(spec, params)
    assert {name: layer.num_clusters for name, layer in got.items()} == {
        "a/kernel": 3,
        "b/kernel": 5,
    }


def test_config_dicts_and_lists_are_specs():
    layer = dict(num_clusters=7, samples="scalar", core=0.5)
    shapes, expected = jax.eval_shape(network), LayerSpec(7, "scalar", 0.5)
    section = ml_collections.ConfigDict({"conv/k*": layer})
    assert resolve_spec(section, shapes) == {"conv/kernel": expected}
    section = ml_collections.ConfigDict({"x": [["conv/bias", None], ["conv/*", layer]]})
    assert resolve_spec(section.x, shapes) == {"conv/kernel": expected}


def test_config_dicts_sort_their_keys_so_overlapping_patterns_raise():
    section = ml_collections.ConfigDict({"conv/bias": None, "conv/*": LayerSpec(7)})
    with pytest.raises(ConfigError, match=r"'conv/bias'.*forgets their order.*list"):
        resolve_spec(section, network())
