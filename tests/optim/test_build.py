"""Optimisers from configs, against optax's own and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.build import build_optimizer

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
