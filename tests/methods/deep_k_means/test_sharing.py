import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import fold_name, make_key
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import make_task
from zoo_jax.methods.deep_k_means.baselines import Mixture, first_centres, mixture_loss
from zoo_jax.methods.deep_k_means.layers import NETWORK
from zoo_jax.methods.deep_k_means.sharing import SHARING, make_sharing
from zoo_jax.optim.samples import to_matrix
from zoo_jax.train.step import build_state, make_train_step

ROWS = [dict(path="network/conv1/*"), dict(path="network/conv*/kernel", num_clusters=5)]
SCALARS = [dict(path="network/conv*/kernel", num_clusters=4, samples="scalar")]
SGD, ADAM = dict(name="sgd", lr=0.05), dict(name="adam", lr=1e-4)
WAYS = {
    "straight_through": dict(
        layers=ROWS, init="kmeans++", reduce="mean", optim=dict(centres=SGD)
    ),
    "soft": dict(
        layers=SCALARS,
        tau=0.003,
        data_size=100,
        zero_share=0.9,
        std=0.25,
        precision_prior=None,
        optim=dict(
            means=ADAM,
            log_precisions=dict(name="adam", lr=3e-3),
            log_mixing=dict(name="adam", lr=3e-3),
        ),
    ),
    "differentiable": dict(layers=ROWS, init="kmeans++", temperature=0.05, num_iters=3),
}


def make_config(way, **changes):
    sharing = dict(name=way, **WAYS[way]) | changes if way else {}
    return ml_collections.ConfigDict(
        dict(
            seed=3,
            model=dict(name="digits_cnn", widths=[4, 6, 8], strides=[1, 2, 2]),
            optim=dict(name="adam", lr=5e-4),
            sharing=sharing,
        )
    )


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 16)
    images = rng.normal(size=(16, 8, 7, 1)) + labels.reshape(-1, 1, 1, 1) / 5
    return {"image": images.astype(np.float32), "label": labels.astype(np.int32)}


@functools.cache
def trained(way, steps=6):
    """A run that starts from given weights: (task, states before and after each step)."""
    task = make_task(make_config(way), steps)
    variables = jax.jit(lambda key: task.init(key, batch()))(make_key(0))
    network = jax.tree.map(lambda p: 1.5 * p, variables["params"][NETWORK])
    variables = {**variables, "params": {**variables["params"], NETWORK: network}}
    state = jax.jit(lambda v: build_state(task, v, make_key(0)))(variables)
    step = jax.jit(make_train_step(task), static_argnames="active")
    states, history = [state], []
    for _ in range(steps):
        state, metrics = step(state, {"train": batch()}, active=(0,))
        states.append(state)
        history.append(jax.device_get(metrics))
    return task, states, history


def rows_of(params, layer):
    kernel = np.asarray(params[layer]["kernel"])
    return kernel.transpose(3, 2, 0, 1).reshape(-1, 3)


@pytest.mark.parametrize("way", WAYS)
def test_training_lowers_the_loss(way):
    history = trained(way)[2]
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(int(m["skipped"]) == 0 for m in history)


@pytest.mark.parametrize("way", ["straight_through", "differentiable"])
def test_the_first_centres_are_made_from_the_weights_that_a_run_starts_from(way):
    _, states, _ = trained(way)
    assert not np.any(jax.tree.leaves(states[0].model_state[SHARING])[0])
    name = "network/conv2/kernel"
    kernel = named_leaves(states[0].params)[name]
    first = first_centres(
        to_matrix(kernel), 5, init="kmeans++", key=fold_name(make_key(3), name)
    )
    got = named_leaves(states[1].model_state[SHARING]["centres"])[name]
    if way == "straight_through":
        np.testing.assert_allclose(got, first, rtol=1e-6)
    else:  # after the iterations of the first step
        assert 0 < np.abs(got - first).max() < 1


def test_straight_through_trains_what_it_deploys():
    task, states, _ = trained("straight_through")
    sharing = make_sharing(make_config("straight_through"), 6)
    state = states[3]
    params, terms, _ = sharing.train(state.params, state)
    deployed = sharing.deploy(state.variables())
    assert terms == {}
    jax.tree.map(np.testing.assert_array_equal, params, deployed)
    for layer in ("conv2", "conv3"):
        assert len(np.unique(rows_of(deployed, layer), axis=0)) <= 5
        # The weights below move freely: they are not shared themselves.
        assert len(np.unique(rows_of(state.params[NETWORK], layer), axis=0)) > 20
    np.testing.assert_array_equal(
        deployed["conv1"]["kernel"], state.params[NETWORK]["conv1"]["kernel"]
    )
    # Predictions are those of the deployed weights.
    plain = make_task(make_config(None), 6)
    variables = {
        "params": {NETWORK: deployed},
        "model_state": {NETWORK: state.model_state[NETWORK]},
    }
    np.testing.assert_allclose(
        task.predict(state.variables(), batch())["logits"],
        plain.predict(variables, batch())["logits"],
        rtol=1e-5,
        atol=1e-5,
    )


def test_centres_learn_at_their_own_rate():
    _, states, _ = trained("straight_through")
    centres = states[2].params[SHARING]["centres"]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(centres))
    still = WAYS["straight_through"] | {"optim": dict(centres=SGD | {"lr": 0.0})}
    config = make_config("straight_through", **still)
    task = make_task(config, 6)
    state = jax.jit(lambda s: build_state(task, s.variables(), make_key(0)))(states[0])
    after, _ = jax.jit(make_train_step(task), static_argnames="active")(
        state, {"train": batch()}, active=(0,)
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.params[SHARING]))
    moved = rows_of(after.params[NETWORK], "conv2") - rows_of(
        state.params[NETWORK], "conv2"
    )
    assert np.abs(moved).max() > 1e-4


def test_a_run_that_goes_on_from_another_does_not_count_its_offsets_twice():
    _, states, _ = trained("straight_through")
    old = states[-1]
    sharing = make_sharing(make_config("straight_through"), 6)
    restarted = old.replace(step=jnp.zeros((), jnp.int32))
    _, _, state = sharing.train(old.params, restarted)
    name = "network/conv2/kernel"
    base = named_leaves(state[SHARING]["centres"])[name]
    offset = named_leaves(old.params[SHARING]["centres"])[name]
    fresh = first_centres(
        to_matrix(named_leaves(old.params)[name]),
        5,
        init="kmeans++",
        key=fold_name(make_key(3), name),
    )
    assert np.abs(offset).max() > 1e-4
    np.testing.assert_allclose(base + offset, fresh, atol=1e-6)


def test_differentiable_kmeans_keeps_its_centres_and_deploys_hard_rows():
    _, states, _ = trained("differentiable")
    assert set(states[0].params) == {NETWORK}
    sharing = make_sharing(make_config("differentiable"), 6)
    a, b = (s.model_state[SHARING]["centres"] for s in (states[1], states[-1]))
    assert all(
        np.abs(x - y).max() > 0
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    soft, _, _ = sharing.train(states[-1].params, states[-1])
    hard = sharing.deploy(states[-1].variables())
    assert len(np.unique(rows_of(soft, "conv2"), axis=0)) > 5
    assert len(np.unique(rows_of(hard, "conv2"), axis=0)) <= 5


def test_soft_sharing_adds_the_mixture_with_its_weight_and_rates():
    _, states, history = trained("soft")
    start, after = states[0], states[1]
    weights = jnp.concatenate(
        [
            to_matrix(leaf, "scalar")[:, 0]
            for name, leaf in named_leaves(start.params[NETWORK]).items()
            if name.endswith("kernel") and name.startswith("conv")
        ]
    )
    low, high = float(weights.min()), float(weights.max())
    mixture = Mixture(
        jnp.linspace(low, high, 3), jnp.full(4, -2 * np.log(0.25)), jnp.zeros(3)
    )
    expected = float(mixture_loss(weights, mixture, zero_share=0.9))
    first = history[0]
    assert first["mixture"] == pytest.approx(expected, rel=1e-5)
    assert first["loss"] == pytest.approx(
        first["cross_entropy"] + 0.003 / 100 * expected, rel=1e-5
    )
    # Adam's first step is its rate, whatever the gradient.
    for name, rate in (("means", 1e-4), ("log_precisions", 3e-3), ("log_mixing", 3e-3)):
        moved = np.abs(after.params[SHARING][name])
        np.testing.assert_allclose(moved, rate, rtol=1e-2)
    kernel = [s.params[NETWORK]["conv2"]["kernel"] for s in (start, after)]
    assert np.abs(kernel[1] - kernel[0]).max() == pytest.approx(5e-4, rel=1e-2)


def test_soft_sharing_deploys_means_and_zeros():
    _, states, _ = trained("soft")
    state = states[-1]
    sharing = make_sharing(make_config("soft"), 6)
    deployed = sharing.deploy(state.variables())
    means = np.asarray(state.model_state[SHARING]["means"])
    allowed = {0.0, *(means + np.asarray(state.params[SHARING]["means"])).tolist()}
    found = set(
        np.concatenate([deployed[f"conv{i}"]["kernel"].ravel() for i in (1, 2, 3)])
    )
    assert found <= allowed
    assert len(found) > 1


def test_without_a_section_nothing_changes():
    sharing = make_sharing(make_config(None), 6)
    variables = {"params": {NETWORK: {"a": 1}}, "model_state": {}}
    assert sharing.init(variables) is variables
    assert sharing.deploy(variables) == {"a": 1}
    assert (sharing.owns, dict(sharing.weights)) == ((NETWORK,), {})


@pytest.mark.parametrize(
    ("way", "changes", "match"),
    [
        ("soft", dict(name="hard"), "unknown sharing.name 'hard'"),
        ("soft", dict(taus=1.0), "unknown key sharing.taus: did you mean 'tau'"),
        ("soft", dict(data_size=0), "got 0.003 and 0"),
        ("soft", dict(layers=ROWS), "samples='scalar' and the same num_clusters"),
        ("soft", dict(optim=dict(means=ADAM)), "log_precisions, log_mixing, got means"),
        (
            "straight_through",
            dict(optim={}),
            "one section for each of centres, got none",
        ),
        (
            "differentiable",
            dict(layers=[dict(path="network/conv2/kernel", num_clusters=2, core=0.5)]),
            "sharing has no core",
        ),
    ],
)
def test_sections_that_do_not_fit_are_one_clear_error(way, changes, match):
    with pytest.raises(ConfigError, match=match):
        make_task(make_config(way, **changes), 6)


def test_a_missing_key_and_a_second_way_are_one_clear_error():
    config = make_config("soft")
    del config.sharing["tau"]
    with pytest.raises(ConfigError, match="sharing lacks 'tau'"):
        make_task(config, 6)
    config = make_config("soft")
    config.optim.share_updates = dict(layers=ROWS, reduce="sum")
    with pytest.raises(ConfigError, match="sharing and optim\\.share_updates exclude"):
        make_task(config, 6)
