"""Assigned weights stay assigned, bit for bit, while their centres train."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.codebook import assign_params, check_assigned, share_cluster_updates
from zoo_jax.optim.layer_spec import LayerSpec

SPEC = {
    "conv/kernel": LayerSpec(7, "row", core=0.3),
    "dense/kernel": LayerSpec(4, "row", row_length=3),
}


def network(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 2, 10), "dense": (6, 4)}
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=shape), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=shape[-1]), jnp.float32),
        }
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def assigned():
    return jax.jit(lambda p: assign_params(p, SPEC, jax.random.key(0)))(network())


def rows(params, name):
    return np.asarray(SPEC[f"{name}/kernel"].matrix(params[name]["kernel"]))


def test_assigned_parameters_hold_the_centres_and_nothing_else_moves(assigned):
    params, found = assigned
    for name in ("conv", "dense"):
        centres, labels = found[f"{name}/kernel"]
        np.testing.assert_array_equal(rows(params, name), centres[labels])
        np.testing.assert_array_equal(params[name]["bias"], network()[name]["bias"])
    assert check_assigned(params, SPEC) == {"conv/kernel": 7, "dense/kernel": 4}


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(
            optax.add_decayed_weights(0.01), optax.sgd(0.01, 0.9, nesterov=True)
        ),
        optax.adam(0.01),
    ],
    ids=["sgd", "adam"],
)
def test_shared_rows_stay_shared_over_twenty_steps(assigned, reduce, optimizer):
    params, found = assigned
    tx = optax.chain(
        share_cluster_updates(SPEC, reduce=reduce),
        optimizer,
        share_cluster_updates(SPEC, reduce="first"),
    )
    x, y = network(1)["conv"]["kernel"], network(2)["dense"]["kernel"]

    def loss(params):
        conv, dense = params["conv"]["kernel"], params["dense"]["kernel"]
        return jnp.sum(jnp.sin(conv * x) ** 2) + jnp.sum((dense - y) ** 2)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = jax.jit(tx.init)(params), []
    for _ in range(20):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < values[0]
    for name in ("conv", "dense"):
        labels = np.asarray(found[f"{name}/kernel"].labels)
        first = np.array(
            [np.flatnonzero(labels == i)[0] for i in range(labels.max() + 1)]
        )
        got = rows(params, name)
        np.testing.assert_array_equal(got, got[first[labels]])
        assert not np.array_equal(got, rows(assigned[0], name))


def test_first_copies_one_update_to_the_whole_cluster_bit_for_bit(assigned):
    params, found = assigned
    grads = network(4)
    tx = share_cluster_updates(SPEC, reduce="first")
    updates, _ = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(grads, params)
    for name in ("conv", "dense"):
        labels = np.asarray(found[f"{name}/kernel"].labels)
        first = np.array(
            [np.flatnonzero(labels == i)[0] for i in range(labels.max() + 1)]
        )
        np.testing.assert_array_equal(
            rows(updates, name), rows(grads, name)[first[labels]]
        )


def test_summed_updates_are_the_gradient_with_respect_to_the_centres(assigned):
    params, found = assigned
    layer, target = SPEC["conv/kernel"], network(1)["conv"]["kernel"]
    centres, labels = found["conv/kernel"]

    def loss(centres):
        kernel = layer.kernel(centres[labels], like=target)
        return jnp.sum(jnp.cos(kernel * target))

    expected = jax.grad(loss)(centres)
    grads = jax.tree.map(jnp.zeros_like, params)
    kernel = params["conv"]["kernel"]
    grads["conv"]["kernel"] = jax.grad(lambda w: jnp.sum(jnp.cos(w * target)))(kernel)
    tx = share_cluster_updates(SPEC)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(rows(updates, "conv"), expected[labels], atol=1e-5)


def test_mean_is_the_sum_divided_by_the_size_of_the_cluster(assigned):
    params, found = assigned
    grads = network(3)
    labels = np.asarray(found["conv/kernel"].labels)
    outs = []
    for reduce in ("sum", "mean"):
        tx = share_cluster_updates(SPEC, reduce=reduce)
        outs.append(rows(tx.update(grads, tx.init(params), params)[0], "conv"))
    sizes = np.bincount(labels)[labels][:, None]
    np.testing.assert_allclose(outs[0], outs[1] * sizes, rtol=1e-5, atol=1e-6)


def test_parameters_that_are_not_assigned_raise_with_their_numbers():
    message = r"'conv/kernel' has 60 distinct row samples.*num_clusters=7.*assign"
    with pytest.raises(ConfigError, match=message):
        check_assigned(network(), SPEC)
    with pytest.raises(ConfigError, match=message):
        share_cluster_updates(SPEC).init(network())


def test_samples_beyond_the_clusters_keep_their_own_updates_under_jit():
    spec = {"kernel": LayerSpec(2, "scalar")}
    params = {"kernel": jnp.array([[1.0, 5.0, 1.0, 7.0, 9.0, 5.0]])}
    grads = {"kernel": jnp.array([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])}
    tx = share_cluster_updates(spec)
    updates, _ = tx.update(grads, jax.jit(tx.init)(params), params)
    assert updates["kernel"].tolist() == [[5.0, 34.0, 5.0, 8.0, 16.0, 34.0]]


def test_unknown_reduction_raises():
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        share_cluster_updates(SPEC, reduce="means")
