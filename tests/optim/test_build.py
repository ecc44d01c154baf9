"""Optimisers from configs, against optax's own and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.build import build_optimizer
from zoo_jax.optim.kmeans import kmeans_regularization

W = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
B = np.random.default_rng(1).normal(size=4).astype(np.float32)


def train(tx, steps=5):
    params = {"dense": {"kernel": jnp.asarray(W), "bias": jnp.asarray(B)}}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(jnp.cos, params)  # of the sum of sines
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params["dense"]


@pytest.mark.parametrize(
    ("section", "name", "options"),
    [
        (
            dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.2),
            "SGD",
            dict(lr=0.1, momentum=0.9, weight_decay=0.2),
        ),
        (
            dict(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
            "SGD",
            dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
        ),
        (dict(name="sgd", lr=0.1), "SGD", dict(lr=0.1)),
        (
            dict(name="adam", lr=0.1, weight_decay=0.2, b1=0.5),
            "Adam",
            dict(lr=0.1, weight_decay=0.2, betas=(0.5, 0.999)),
        ),
        (dict(name="adamw", lr=0.1), "AdamW", dict(lr=0.1)),
        (
            dict(name="sgd", lr=0.1, clip=0.5, weight_decay=0.2),
            "SGD",
            dict(lr=0.1, weight_decay=0.2),
        ),
    ],
)
@pytest.mark.torch
def test_steps_equal_pytorch(section, name, options):
    torch = pytest.importorskip("torch")
    params = [torch.nn.Parameter(torch.tensor(p)) for p in (W, B)]
    optimizer = getattr(torch.optim, name)(params, **options)
    for _ in range(5):
        optimizer.zero_grad()
        sum(torch.sin(p).sum() for p in params).backward()
        if "clip" in section:
            torch.nn.utils.clip_grad_norm_(params, section["clip"])
        optimizer.step()
    got = train(build_optimizer(section, total_steps=5))
    np.testing.assert_allclose(got["kernel"], params[0].detach(), atol=1e-5)
    np.testing.assert_allclose(got["bias"], params[1].detach(), atol=1e-5)


def test_coupled_decay_enters_before_momentum():
    lr, momentum, decay = 0.1, 0.9, 0.2
    w, buffer = W.astype(np.float64), 0.0
    for _ in range(5):
        buffer = momentum * buffer + np.cos(w) + decay * w
        w = w - lr * buffer
    section = dict(name="sgd", lr=lr, momentum=momentum, weight_decay=decay)
    got = train(build_optimizer(section, total_steps=5))
    np.testing.assert_allclose(got["kernel"], w, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_reaches_only_what_its_mask_names(name):
    section = dict(name=name, lr=0.1, weight_decay=0.3)
    masked = train(
        build_optimizer({**section, "weight_decay_mask": ["*/kernel"]}, total_steps=5)
    )
    full = train(build_optimizer(section, total_steps=5))
    none = train(build_optimizer({**section, "weight_decay": 0.0}, total_steps=5))
    np.testing.assert_array_equal(masked["kernel"], full["kernel"])
    np.testing.assert_array_equal(masked["bias"], none["bias"])
    assert not np.allclose(full["bias"], none["bias"])


def test_frozen_leaves_do_not_move():
    section = dict(name="adamw", lr=0.1, weight_decay=0.3, freeze=["*/bias"])
    got = train(build_optimizer(section, total_steps=5))
    np.testing.assert_array_equal(got["bias"], B)
    assert not np.allclose(got["kernel"], W)


def test_the_schedule_multiplies_the_rate():
    section = dict(name="sgd", lr=0.1, schedule=dict(name="step", boundaries=[1, 2]))
    tx = build_optimizer(section, total_steps=10)
    params, steps = {"w": jnp.ones(2)}, []
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update({"w": jnp.ones(2)}, state, params)
        steps.append(float(updates["w"][0]))
    np.testing.assert_allclose(steps, [-0.1, -0.01, -0.001], rtol=1e-5)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(lr=0.1), "unknown optimiser None"),
        (dict(name="adma", lr=0.1), "did you mean 'adam'"),
        (dict(name="sgd", lr=0.1, momentun=0.9), "momentun: did you mean 'momentum'"),
        (dict(name="adam", lr=0.1, momentum=0.9), "unknown key optim.momentum"),
        (dict(name="sgd"), "needs lr"),
        (dict(name="sgd", lr="0.1"), "optim.lr must be a number, got '0.1'"),
        (dict(name="sgd", lr=-1), "optim.lr must be 0 or more, got -1"),
        (dict(name="sgd", lr=0.1, momentum=1.0), "below 1, got 1.0"),
        (dict(name="sgd", lr=0.1, nesterov=True), "needs momentum above 0"),
        (dict(name="sgd", lr=0.1, clip=0), "clip must be above 0"),
        (dict(name="sgd", lr=0.1, schedule=dict(name="x")), "unknown schedule 'x'"),
    ],
)
def test_sections_that_do_not_fit_raise(section, message):
    with pytest.raises(ConfigError) as error:
        build_optimizer(section, total_steps=10)
    assert message in str(error.value)


def test_a_decay_mask_that_matches_nothing_raises_at_init():
    section = dict(name="sgd", lr=0.1, weight_decay=0.1, weight_decay_mask=["*/kernl"])
    tx = build_optimizer(section, total_steps=10)
    with pytest.raises(ConfigError, match="kernl"):
        tx.init({"dense": {"kernel": jnp.ones((2, 3))}})


COLUMNS = [dict(path="dense/kernel", num_clusters=2, samples="filter")]


def kmeans(**changes):
    section = dict(layers=COLUMNS, strength=0.5, relaxation="labels", refresh_every=1)
    return section | changes


def step_of(section):
    params = {"dense": {"kernel": jnp.asarray(W), "bias": jnp.asarray(B)}}
    grads = jax.tree.map(jnp.cos, params)
    tx = build_optimizer(section, total_steps=10)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)["dense"]


def pull():
    """W minus the mean of its cluster, columns being the samples."""
    spec = {"dense/kernel": dict(num_clusters=2, samples="filter")}
    link = kmeans_regularization(1.0, spec, refresh_every=1, relaxation="labels")
    params = {"dense": {"kernel": jnp.asarray(W)}}
    zero = jax.tree.map(jnp.zeros_like, params)
    return link.update(zero, link.init(params), params)[0]["dense"]["kernel"]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_kmeans_penalty_pulls_by_rate_times_strength_whatever_the_optimiser(name):
    plain = step_of(dict(name=name, lr=0.1))
    pulled = step_of(dict(name=name, lr=0.1, kmeans=kmeans()))
    expected = plain["kernel"] - 0.1 * 0.5 * pull()
    np.testing.assert_allclose(pulled["kernel"], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pulled["bias"], plain["bias"])


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_shared_columns_stay_shared_bit_for_bit(name):
    params = {"dense": {"kernel": jnp.asarray(W[:, [0, 1, 0, 1]]), "bias": B}}
    share = dict(layers=COLUMNS, reduce="mean")
    section = dict(name=name, lr=0.1, weight_decay=0.01, share_updates=share)
    tx = build_optimizer(section, total_steps=10)
    state = tx.init(params)
    for i in range(3):
        noise = np.random.default_rng(i).normal(size=W.shape).astype(np.float32)
        grads = {"dense": {"kernel": jnp.asarray(noise), "bias": jnp.asarray(B)}}
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    kernel = np.asarray(params["dense"]["kernel"])
    assert np.abs(kernel - W[:, [0, 1, 0, 1]]).max() > 0.01
    np.testing.assert_array_equal(kernel[:, :2], kernel[:, 2:])


@pytest.mark.parametrize(
    ("links", "match"),
    [
        (dict(kmeans=dict(strength=1.0)), "optim.kmeans lacks 'layers'"),
        (dict(kmeans=kmeans(power=2)), "optim.kmeans.power"),
        (dict(share_updates=dict(layers=COLUMNS)), "lacks 'reduce'"),
        (
            dict(kmeans=kmeans(), share_updates=dict(layers=COLUMNS, reduce="sum")),
            "exclude each other",
        ),
    ],
)
def test_sections_of_links_that_do_not_fit_are_one_clear_error(links, match):
    with pytest.raises(ConfigError, match=match):
        build_optimizer(dict(name="sgd", lr=0.1, **links), total_steps=10)


def test_an_empty_section_is_without_the_link():
    plain = step_of(dict(name="adam", lr=0.1))
    same = step_of(dict(name="adam", lr=0.1, kmeans={}, share_updates=None))
    np.testing.assert_array_equal(plain["kernel"], same["kernel"])


def test_thaw_wraps_all_links_and_leaves_the_schedule_what_remains():
    rates = dict(name="linear", hold=0.5)
    section = dict(name="sgd", lr=1.0, weight_decay=0.1, schedule=rates)
    thawed = dict(section, thaw=dict(layers=["dense/bias"], at=0.2))
    params = {"dense": {"kernel": jnp.asarray(W), "bias": jnp.asarray(B)}}
    grads = jax.tree.map(jnp.cos, params)
    tx, plain = (
        build_optimizer(s, total_steps=n) for s, n in ((thawed, 10), (section, 8))
    )
    state, fresh = tx.init(params), plain.init(params)
    for step in range(10):
        updates, state = tx.update(grads, state, params)
        if step < 2:
            assert not np.any(updates["dense"]["bias"])
            continue
        expected, fresh = plain.update(grads, fresh, params)
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(
                updates["dense"][name], expected["dense"][name], atol=1e-6
            )


@pytest.mark.parametrize(
    ("thaw", "message"),
    [
        (dict(layers=["*"]), "optim.thaw lacks 'at'"),
        (dict(layers=["*"], at=10), r"optim\.thaw\.at is step 10 of 10"),
        (dict(layers=["*"], at=0.0), r"optim\.thaw\.at is step 0 of 10"),
        (dict(layers=["*"], at="3"), r"optim\.thaw\.at must be a number, got '3'"),
        (dict(layers=["*"], at=3, when=4), r"unknown key optim\.thaw\.when"),
    ],
)
def test_thaw_sections_that_do_not_fit(thaw, message):
    section = dict(name="sgd", lr=0.1, thaw=thaw)
    with pytest.raises(ConfigError, match=message):
        build_optimizer(section, total_steps=10)
