import warnings

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import make_task
from zoo_jax.methods.deep_k_means.layers import NETWORK, make_spec
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.optim.kmeans import assign_params
from zoo_jax.train.step import build_state, init_state, make_train_step

LAYERS = [
    dict(path="network/conv1/*"),
    dict(path="network/conv*/kernel", num_clusters=5),
]


LINKS = ("kmeans", "share_updates")  # of optim


def make_config(**sections):
    config = ml_collections.ConfigDict(
        dict(
            seed=0,
            model=dict(name="digits_cnn", widths=[4, 6, 8], strides=[1, 2, 2]),
            optim=dict(name="sgd", lr=0.1, momentum=0.9),
        )
    )
    for name, section in sorted(sections.items(), key=lambda item: item[0] in LINKS):
        (config.optim if name in LINKS else config)[name] = section
    return config


def kmeans(**changes):
    return {
        "layers": LAYERS,
        "strength": 1.0,
        "relaxation": "labels",
        "refresh_every": 2,
        **changes,
    }


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 16)
    images = rng.normal(size=(16, 8, 7, 1)) + labels.reshape(-1, 1, 1, 1) / 5
    return {"image": jnp.asarray(images, jnp.float32), "label": jnp.asarray(labels)}


def train(config, batch, steps, state=None):
    task = make_task(config, steps)
    if state is None:
        state = jax.jit(lambda key: init_state(task, key, batch))(make_key(0))
    step = jax.jit(make_train_step(task), static_argnames="active")
    history = []
    for _ in range(steps):
        state, metrics = step(state, {"train": batch}, active=(0,))
        history.append(jax.device_get(metrics))
    return task, state, history


@pytest.fixture(scope="module")
def plain(batch):
    """Twelve steps without a penalty: (task, state, history)."""
    return train(make_config(), batch, 12)


def test_training_lowers_the_loss(plain):
    first, *_, last = plain[2]
    assert last["cross_entropy"] < 0.8 * first["cross_entropy"]
    assert last["accuracy"] > first["accuracy"]


def rows_of(params, layer):
    kernel = np.asarray(params[NETWORK][layer]["kernel"])
    return kernel.transpose(3, 2, 0, 1).reshape(-1, 3)


def test_the_penalty_gathers_rows_and_is_logged(batch, plain):
    config = make_config(kmeans=kmeans(strength=2.0))
    _, pulled, history = train(config, batch, 12)
    costs = [h["kmeans_cost"] for h in history[1:]]  # the first clusters come in step 1
    assert costs[-1] < 0.3 * costs[0] < 0.3

    def spread(params):
        shared, _ = assign_params(params, make_spec(LAYERS), make_key(1))
        rows = rows_of(params, "conv2")
        error = rows - rows_of(shared, "conv2")
        return np.square(error).sum() / np.square(rows).sum()

    assert spread(pulled.params) < 0.3 * spread(plain[1].params)


def test_layers_left_alone_are_not_pulled(batch):
    # Without momentum one step differs by exactly the pull, and only where it acts.
    sgd = dict(name="sgd", lr=0.1)
    _, plain, _ = train(make_config(optim=sgd), batch, 1)
    config = make_config(optim=sgd, kmeans=kmeans())
    _, pulled, _ = train(config, batch, 1)
    moved = {
        name
        for name, leaf in named_leaves(plain.params).items()
        if not np.array_equal(leaf, named_leaves(pulled.params)[name])
    }
    assert moved == {"network/conv2/kernel", "network/conv3/kernel"}


def test_spectral_penalty_warns_that_rows_make_it_zero(batch):
    config = make_config(kmeans=kmeans(relaxation="spectral"))
    with pytest.warns(UserWarning, match="identically zero"):
        _, _, history = train(config, batch, 2)
    # Not quite zero where it is measured: F is that of the step before.
    assert history[-1]["kmeans_cost"] < 1e-3


def test_spectral_penalty_is_alive_on_filters(batch):
    layers = [dict(path="network/conv3/kernel", num_clusters=2, samples="filter")]
    section = kmeans(relaxation="spectral", layers=layers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, _, history = train(make_config(kmeans=section), batch, 8)
    assert 0 < history[-1]["kmeans_cost"] < 0.5 * history[1]["kmeans_cost"]


def test_strength_follows_its_schedule(batch):
    # The first step is at the start of the schedule: half the strength, half the pull.
    sgd = dict(name="sgd", lr=0.1)
    schedule = dict(name="exponential", start=0.5, end=1.0)
    kernels = []
    for section in (
        {"strength": 0.0},
        {"strength": 1.0},
        {"strength": 1.0, "schedule": schedule},
    ):
        config = make_config(optim=sgd, kmeans=kmeans(**section))
        _, state, _ = train(config, batch, 1)
        kernels.append(np.asarray(state.params[NETWORK]["conv2"]["kernel"]))
    none, full, half = kernels
    np.testing.assert_allclose(half - none, 0.5 * (full - none), atol=1e-7)
    assert np.abs(full - none).max() > 1e-4


def test_shared_rows_stay_shared_and_still_learn(batch, plain):
    state = plain[1]
    params, _ = assign_params(state.params, make_spec(LAYERS), make_key(0))
    config = make_config(
        share_updates=dict(layers=LAYERS, reduce="mean"),
        optim=dict(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3),
    )
    task = make_task(config, 6)
    variables = {"params": params, "model_state": state.model_state}
    start = build_state(task, variables, make_key(0))
    _, state, history = train(config, batch, 6, start)
    assert history[-1]["cross_entropy"] < history[0]["cross_entropy"]
    for layer in ("conv2", "conv3"):
        rows = rows_of(state.params, layer)
        assert len(np.unique(rows, axis=0)) == 5
        assert not np.array_equal(rows, rows_of(params, layer))


def test_dropout_follows_the_given_key(batch):
    model = dict(name="wide_resnet_16_4", depth=10, widen=1, dropout=0.5)
    config = make_config(model=model)
    images = jnp.tile(batch["image"][:, :8, :4], (1, 1, 1, 3))
    batch = {"image": images, "label": batch["label"]}
    task = make_task(config, 1)
    state = jax.jit(lambda key: init_state(task, key, batch))(make_key(0))
    loss = jax.jit(task.players[0].loss)
    a, b, c = (
        loss(state.params, state, batch, make_key(seed))[0]["cross_entropy"]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_optaxs_with_smoothed_targets(batch, smoothing):
    config = make_config(loss=dict(label_smoothing=smoothing))
    task = make_task(config, 1)
    state = jax.jit(lambda key: init_state(task, key, batch))(make_key(0))
    key = make_key(0)
    terms, aux = jax.jit(task.players[0].loss)(state.params, state, batch, key)
    got = terms["cross_entropy"]
    variables = {"params": state.params[NETWORK], **state.model_state[NETWORK]}
    apply = make_module(config.model).apply
    logits, _ = jax.jit(lambda v, x: apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, batch["image"]
    )
    targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], 10), smoothing)
    expected = optax.softmax_cross_entropy(logits, targets)
    assert got.shape == (16,)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert set(aux.metrics) == {"accuracy"}


def test_metrics_leave_padded_examples_out(batch):
    task = make_task(make_config(), 1)
    state = jax.jit(lambda key: init_state(task, key, batch))(make_key(0))
    outputs = task.predict(state.variables(), batch)
    mask = jnp.asarray(np.arange(16) < 11, jnp.float32)
    poisoned = jnp.where(mask[:, None] > 0, outputs["logits"], jnp.nan)
    got = task.metrics({"logits": poisoned}, {**batch, "mask": mask})
    head = {k: v[:11] for k, v in batch.items()}
    expected = task.metrics({"logits": outputs["logits"][:11]}, head)
    for name in ("accuracy", "nll"):
        assert got[name].count == 11
        np.testing.assert_allclose(got[name].total, expected[name].total, rtol=1e-6)


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        (dict(model=dict(name="resnet")), "unknown model.name 'resnet'"),
        (dict(model=dict(name="digits_cnn", width=3)), "unknown key model.width"),
        (dict(model=dict(name="digits_cnn", dtype="int8")), "model.dtype"),
        (dict(loss=dict(label_smoothing=1.0)), "label_smoothing"),
        (dict(loss=dict(smoothing=0.1)), "unknown key loss.smoothing"),
        (dict(kmeans=dict(layers=LAYERS)), "lacks 'strength'"),
        (dict(kmeans=kmeans(power=2)), "optim.kmeans.power"),
        (dict(kmeans=kmeans(relaxation="soft")), "'soft'"),
        (dict(share_updates=dict(layers=LAYERS)), "lacks 'reduce'"),
        (
            dict(
                kmeans=kmeans(),
                share_updates=dict(layers=LAYERS, reduce="sum"),
            ),
            "exclude each other",
        ),
    ],
)
def test_sections_that_do_not_fit_are_one_clear_error(sections, match):
    with pytest.raises(ConfigError, match=match):
        make_task(make_config(**sections), 10)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (dict(num_clusters=3), "needs a path"),
        (dict(path="*", samples="row"), "lacks num_clusters"),
        (dict(path="*", clusters=3), "layers\\[0\\].clusters"),
        (dict(path="*", num_clusters=0), "num_clusters must be"),
    ],
)
def test_layer_entries_that_do_not_fit_are_one_clear_error(entry, match):
    with pytest.raises(ConfigError, match=match):
        make_spec([entry])
