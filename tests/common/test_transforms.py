"""One battery for every gradient transformation of the project.

A new one is one line in `TRANSFORMS`: a function that builds it from a number (its strength,
rate, or None where it has none).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from zoo_jax.core.tree import named_leaves
from zoo_jax.optim.build import build_optimizer
from zoo_jax.optim.codebook import share_cluster_updates
from zoo_jax.optim.kmeans import kmeans_regularization
from zoo_jax.optim.masks import freeze, thaw
from zoo_jax.optim.realign import realign_gradients, skip_when_empty

FILTERS = {"conv/kernel": dict(num_clusters=3, samples="filter")}
ROWS = {"conv/kernel": dict(num_clusters=5, core=0.25)}
TIED = {"tied/kernel": dict(num_clusters=5)}
SGD = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-3, clip=1.0)
ADAM = dict(name="adamw", lr=0.1, schedule=dict(name="cosine", warmup=2))


def in_two_terms():
    """Makes two terms out of a gradient, one against part of the other."""

    def update(updates, state, params=None):
        del params
        against = jax.tree.map(lambda g: -0.5 * jnp.roll(g, 1, -1) - 0.2 * g, updates)
        terms = jax.tree.map(lambda *g: jnp.stack(g), updates, against)
        return terms, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


TRANSFORMS = {
    "kmeans_spectral": lambda strength=0.5: kmeans_regularization(
        strength, FILTERS, refresh_every=2
    ),
    "kmeans_labels": lambda strength=0.5: kmeans_regularization(
        strength, ROWS, refresh_every=2, relaxation="labels"
    ),
    "kmeans_decoupled": lambda strength=0.5: kmeans_regularization(
        strength, FILTERS, refresh_every=2, decoupled=True, learning_rate=0.1
    ),
    "share_sum": lambda: share_cluster_updates(TIED),
    "share_mean": lambda: share_cluster_updates(TIED, reduce="mean"),
    "share_first": lambda: share_cluster_updates(TIED, reduce="first"),
    "realign": lambda: optax.chain(in_two_terms(), realign_gradients()),
    "skip_when_empty": lambda: skip_when_empty(optax.adam(0.1)),
    "freeze": lambda: freeze("conv/*"),
    "thaw": lambda: thaw(optax.adam(0.1), "conv/*", at=2),
    "sgd": lambda lr=0.1: build_optimizer({**SGD, "lr": float(lr)}, total_steps=9),
    "adamw": lambda lr=0.1: build_optimizer({**ADAM, "lr": float(lr)}, total_steps=9),
}
# What `optax.inject_hyperparams` can drive: the number may be an array.
INJECTABLE = ("kmeans_spectral", "kmeans_labels", "kmeans_decoupled")

every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def network(dtype=jnp.float32, seed=0):
    """A convolution with its bias, and one that has 5 distinct rows."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 3))[np.arange(48) % 5]
    tree = {
        "conv": {"kernel": rng.normal(size=(3, 3, 2, 8)), "bias": rng.normal(size=8)},
        "tied": {"kernel": rows.reshape(8, 2, 3, 3).transpose(2, 3, 1, 0)},
    }
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def gradients(dtype=jnp.float32, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), network()
    )


def run(tx, params, steps=3, jit=True):
    """Updates of each step, and the last state."""
    update = jax.jit(tx.update) if jit else tx.update
    state, out = tx.init(params), []
    for step in range(steps):
        updates, state = update(gradients(seed=step + 1), state, params)
        out.append(updates)
    return out, state


def describe(tree):
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


def assert_close(one, other, atol=1e-6):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@every_transform
def test_changes_the_updates(name):
    updates, _ = run(TRANSFORMS[name](), network(), steps=1)
    pairs = zip(jax.tree.leaves(updates[0]), jax.tree.leaves(gradients()), strict=True)
    assert any(not np.allclose(u, g) for u, g in pairs)


@every_transform
def test_accepts_extra_arguments(name):
    params, tx = network(), TRANSFORMS[name]()
    state = tx.init(params)
    plain, _ = tx.update(gradients(), state, params)
    extra = dict(terms={"loss": jnp.ones(())}, step=jnp.int32(3), key=jax.random.key(0))
    got, _ = tx.update(gradients(), state, params, **extra)
    assert_close(got, plain, atol=0)


@every_transform
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_updates_keep_dtype_and_shape(name, dtype):
    params, tx = network(dtype), TRANSFORMS[name]()
    updates, _ = jax.jit(tx.update)(gradients(dtype), tx.init(params), params)
    assert describe(updates) == describe(params)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))


@every_transform
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_state_keeps_structure_shapes_and_dtypes(name, dtype):
    params, tx = network(dtype), TRANSFORMS[name]()
    first = jax.eval_shape(tx.init, params)
    _, then = jax.eval_shape(tx.update, gradients(dtype), first, params)
    assert jax.tree.structure(first) == jax.tree.structure(then)
    assert describe(first) == describe(then)


@every_transform
def test_init_under_jit_equals_init(name):
    params, tx = network(), TRANSFORMS[name]()
    assert_close(jax.jit(tx.init)(params), tx.init(params), atol=0)


@every_transform
def test_jit_equals_no_jit(name):
    tx = TRANSFORMS[name]()
    jitted, plain = run(tx, network(), jit=True), run(tx, network(), jit=False)
    assert_close(jitted[0], plain[0], atol=1e-5)


@every_transform
def test_update_compiles_once(name):
    params, tx = network(), TRANSFORMS[name]()
    traces = []

    @jax.jit
    def update(grads, state):
        traces.append(1)
        return tx.update(grads, state, params)

    state = jax.jit(tx.init)(params)
    for _ in range(3):
        _, state = update(gradients(), state)
    assert len(traces) == 1


@every_transform
def test_works_inside_a_chain(name):
    params, tx = network(), TRANSFORMS[name]()
    chained = optax.chain(tx, optax.scale(-1.0))
    alone, _ = run(tx, params, steps=1)
    got, _ = run(chained, params, steps=1)
    assert_close(got, jax.tree.map(lambda u: -u, alone))


@every_transform
def test_accumulated_gradients_equal_their_mean(name):
    params, tx = network(), TRANSFORMS[name]()
    many = optax.MultiSteps(tx, every_k_schedule=2).gradient_transformation()
    out, _ = run(many, params, steps=2)
    assert not any(bool(u.any()) for u in jax.tree.leaves(out[0]))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, gradients(seed=1), gradients(seed=2))
    expected, _ = jax.jit(tx.update)(mean, tx.init(params), params)
    assert_close(out[1], expected, atol=1e-5)


@pytest.mark.parametrize("name", INJECTABLE)
def test_strength_can_be_injected(name):
    params = network(seed=2)
    injected = optax.inject_hyperparams(TRANSFORMS[name])(strength=0.5)
    got, state = run(injected, params, steps=2)
    assert_close(got, run(TRANSFORMS[name](0.5), params, steps=2)[0], atol=1e-5)
    assert float(state.hyperparams["strength"]) == 0.5


def test_all_numbers_of_the_regulariser_can_be_injected():
    params = network()
    options = dict(refresh_every=2, relaxation="labels", seed=0, num_iters=5)
    injected = optax.inject_hyperparams(kmeans_regularization)(0.5, ROWS, **options)
    plain = kmeans_regularization(0.5, ROWS, **options)
    assert_close(run(injected, params)[0], run(plain, params)[0], atol=1e-5)


@every_transform
def test_sharded_parameters_equal_one_device(name):
    devices = jax.devices()
    assert len(devices) == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    by_output = NamedSharding(mesh, PartitionSpec(None, None, None, "data"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(tree):
        return jax.tree.map(
            lambda leaf: jax.device_put(
                leaf, by_output if leaf.ndim == 4 else everywhere
            ),
            tree,
        )

    params, tx = network(), TRANSFORMS[name]()
    step = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params))
    one = step(gradients(), params)
    many = step(place(gradients()), place(params))
    assert_close(jax.device_get(many[0]), jax.device_get(one[0]), atol=1e-5)


@every_transform
def test_zero_parameters_and_gradients_stay_finite(name):
    params = jax.tree.map(jnp.zeros_like, network())
    tx = TRANSFORMS[name]()
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    for leaf in jax.tree.leaves((updates, state)):
        assert bool(jnp.isfinite(leaf).all())


@every_transform
def test_state_survives_being_taken_apart_by_name(name):
    params, tx = network(), TRANSFORMS[name]()
    _, state = run(tx, params, steps=2)
    flat = named_leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in flat.values())
    template = jax.eval_shape(tx.init, params)
    assert list(named_leaves(template)) == list(flat)
    leaves = [jnp.asarray(np.asarray(leaf)) for leaf in flat.values()]
    restored = jax.tree.unflatten(jax.tree.structure(template), leaves)
    again, _ = jax.jit(tx.update)(gradients(), restored, params)
    expected, _ = jax.jit(tx.update)(gradients(), state, params)
    assert_close(again, expected, atol=0)


@every_transform
def test_donated_state_is_not_needed_twice(name):
    params, tx = network(), TRANSFORMS[name]()
    update = jax.jit(tx.update, donate_argnums=1)
    state = jax.jit(tx.init)(params)
    for step in range(2):
        updates, state = update(gradients(seed=step), state, params)
    expected, _ = tx.update(
        gradients(seed=1),
        tx.update(gradients(seed=0), tx.init(params), params)[1],
        params,
    )
    assert_close(updates, expected, atol=1e-5)
