"""Batch-norm statistics anew: of images, and of what a task shows its network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from zoo_jax.core.rng import make_key
from zoo_jax.methods.deep_k_means import make_task
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.norms import norm_estimator, task_norm_estimator
from zoo_jax.nn.norm import BatchNorm
from zoo_jax.task import Aux, Player, Task


def batches(seed, shape, count=3):
    rng = np.random.default_rng(seed)
    scales = (1 + np.arange(shape[-1])) * 30.0  # far from 1, where rounding would show
    for _ in range(count):
        image = rng.normal(2.0, scales, size=shape).astype(np.float32)
        yield {"image": image, "label": rng.integers(0, 10, shape[0])}


def test_a_classifier_gets_the_same_from_its_images_and_from_its_task():
    model = dict(name="digits_cnn", widths=[4, 6], strides=[2, 2])
    config = ml_collections.ConfigDict(
        dict(model=model, optim=dict(name="sgd", lr=0.1))
    )
    task, shape = make_task(config, 1), (8, 9, 7, 1)
    variables = task.init(make_key(0), next(batches(0, shape)))
    one = norm_estimator(make_module(config.model), "network")
    other = task_norm_estimator(task, "network")
    expected = one(variables, batches(1, shape))["model_state"]
    got = other(variables, batches(1, shape))
    for a, b in zip(*map(jax.tree.leaves, (expected, got["model_state"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
        assert np.abs(a - 1).min() > 1e-3
    jax.tree.map(
        np.testing.assert_array_equal, variables["params"], got["params"]
    )  # weights stay


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return BatchNorm(name="bn")(x, train=train)


@pytest.fixture
def shifted():
    """A task whose network never sees its batches as they are: they get 50 brighter."""
    module = Norm()

    def init(key, batch):
        variables = dict(module.init(key, batch["image"]))
        return {
            "params": {"net": variables.pop("params"), "idle": {"w": jnp.ones(())}},
            "model_state": {"net": variables, "idle": {"seen": jnp.ones(())}},
        }

    def loss(owned, state, batch, key):
        seen = batch["image"] + 50.0
        variables = {"params": owned["net"], **state.model_state["net"]}
        y, new = module.apply(variables, seen, train=True, mutable=["batch_stats"])
        return {"energy": jnp.mean(jnp.square(y))}, Aux({"net": dict(new)}, {})

    player = Player(name="net", owns=("net",), loss=loss, tx=optax.sgd(0.1))
    return Task(
        init=init, players=(player,), predict=lambda v, b: {}, metrics=lambda o, b: {}
    )


def test_statistics_are_those_of_what_the_task_shows(shifted):
    shape = (5, 3, 4, 2)
    seen = [b["image"] + 50.0 for b in batches(2, shape, 4)]
    variables = shifted.init(make_key(0), {"image": seen[0]})
    got = task_norm_estimator(shifted, "net")(variables, batches(2, shape, 4))
    stats = got["model_state"]["net"]["batch_stats"]["bn"]
    means = np.mean([x.mean((0, 1, 2)) for x in seen], axis=0)
    spreads = np.mean([x.var((0, 1, 2), ddof=1) for x in seen], axis=0)
    np.testing.assert_allclose(stats["mean"], means, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], spreads, rtol=1e-4)
    assert got["model_state"]["idle"] == variables["model_state"]["idle"]
