"""Small tasks of the shapes that methods come in, for tests of the loop.

Each is a real `Task` with a known answer: one player, two players, per-term gradients, and
a network that nobody trains.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from zoo_jax.data.source import ArraySource
from zoo_jax.task import Aux, Player, Ratio, Task

BATCH, SIDE, CLASSES = 16, 6, 4


class ToyImages(ArraySource):
    """Noise whose brightness tells the class."""

    def __init__(self, size: int, seed: int):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, CLASSES, size).astype(np.int32)
        noise = rng.uniform(size=(size, SIDE, SIDE, 1))
        image = (noise + 0.2 * label[:, None, None, None]).astype(np.float32)
        super().__init__({"image": image, "label": label})


def toy_config(**changes) -> ml_collections.ConfigDict:
    """A config that any toy task can run on."""
    config = dict(
        task="toy",
        seed=3,
        steps=6,
        log_every=2,
        data=dict(
            train=dict(name="toys:ToyImages", size=80, seed=0, batch_size=BATCH),
            eval=dict(name="toys:ToyImages", size=37, seed=1, batch_size=BATCH),
        ),
        eval=dict(eval=dict(stream="eval", every=3)),
        checkpoint=dict(every=2),
        tensorboard=False,
    )
    return ml_collections.ConfigDict(config | changes)


def _flat(batch):
    image = batch["image"]
    return image.reshape(image.shape[0], -1)


def _dense(key, inputs, outputs):
    kernel = jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs)
    return {"kernel": kernel, "bias": jnp.zeros((outputs,))}


def _apply(params, x):
    return x @ params["kernel"] + params["bias"][None]


def _normalise(x, state, train):
    """Batch normalisation without affine terms; statistics are the model state."""
    if not train:
        return (x - state["mean"][None]) / jnp.sqrt(state["var"][None] + 1e-5), state
    mean, var = jnp.mean(x, 0), jnp.var(x, 0)
    new = {
        "mean": 0.9 * state["mean"] + 0.1 * mean,
        "var": 0.9 * state["var"] + 0.1 * var,
    }
    return (x - mean[None]) / jnp.sqrt(var[None] + 1e-5), new


def _accuracy(outputs, batch):
    right = jnp.argmax(outputs["logits"], -1) == batch["label"]
    return {"accuracy": Ratio.of(right, batch.get("mask"))}


def _statistics(width):
    return {"mean": jnp.zeros((width,)), "var": jnp.ones((width,))}


def classifier(tx=None, *, ema: float | None = 0.9, width: int = 8) -> Task:
    """Two dense layers with batch normalisation and dropout between them."""

    def init(key, batch):
        a, b = jax.random.split(key)
        params = {
            "first": _dense(a, _flat(batch).shape[-1], width),
            "second": _dense(b, width, CLASSES),
        }
        return {"params": {"net": params}, "model_state": {"net": _statistics(width)}}

    def forward(params, state, batch, train, key=None):
        x, state = _normalise(_apply(params["first"], _flat(batch)), state, train)
        x = jax.nn.relu(x)
        if train:
            keep = jax.random.bernoulli(key, 0.8, x.shape)
            x = jnp.where(keep, x / 0.8, 0.0)
        return _apply(params["second"], x), state

    def loss(owned, state, batch, key):
        logits, new = forward(owned["net"], state.model_state["net"], batch, True, key)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"nll": nll}, Aux({"net": new}, {"logit": jnp.mean(jnp.abs(logits))})

    def predict(variables, batch):
        params, state = variables["params"]["net"], variables["model_state"]["net"]
        return {"logits": forward(params, state, batch, False)[0]}

    player = Player(name="net", owns=("net",), loss=loss, tx=tx or optax.adam(1e-2))
    return Task(
        init=init,
        players=(player,),
        predict=predict,
        metrics=_accuracy,
        ema={"net": ema} if ema else {},
    )


def adversarial(*, every: int = 1, start: int = 0, streams=("train", "train")) -> Task:
    """A generator (with batch statistics) against a critic: two players, two optimisers."""

    def init(key, batch):
        a, b, c = jax.random.split(key, 3)
        size = _flat(batch).shape[-1]
        params = {
            "generator": {"first": _dense(a, 5, 7), "second": _dense(b, 7, size)},
            "critic": _dense(c, size, 1),
        }
        return {"params": params, "model_state": {"generator": _statistics(7)}}

    def generate(params, state, key, count, train=True):
        z = jax.random.normal(key, (count, 5))
        x, state = _normalise(_apply(params["first"], z), state, train)
        return jax.nn.sigmoid(_apply(params["second"], jax.nn.relu(x))), state

    def critic_loss(owned, state, batch, key):
        real = _flat(batch)
        fake, _ = generate(
            state.params["generator"],
            state.model_state["generator"],
            key,
            real.shape[0],
        )
        scores = [_apply(owned["critic"], x)[:, 0] for x in (real, fake)]
        terms = {
            "real": jax.nn.softplus(-scores[0]),
            "fake": jax.nn.softplus(scores[1]),
        }
        return terms, Aux({}, {})

    def generator_loss(owned, state, batch, key):
        count = batch["image"].shape[0]
        fake, new = generate(
            owned["generator"], state.model_state["generator"], key, count
        )
        score = _apply(state.params["critic"], fake)[:, 0]
        return {"fool": jax.nn.softplus(-score)}, Aux({"generator": new}, {})

    def predict(variables, batch):
        critic = variables["params"]["critic"]
        return {"score": _apply(critic, _flat(batch))[:, 0]}

    def metrics(outputs, batch):
        return {"score": Ratio.of(outputs["score"], batch.get("mask"))}

    return Task(
        init=init,
        players=(
            Player(
                name="critic",
                owns=("critic",),
                loss=critic_loss,
                tx=optax.sgd(0.05),
                weights={"fake": 0.5},
                stream=streams[0],
            ),
            Player(
                name="generator",
                owns=("generator",),
                loss=generator_loss,
                tx=optax.sgd(0.05, momentum=0.5),
                every=every,
                start=start,
                stream=streams[1],
            ),
        ),
        predict=predict,
        metrics=metrics,
    )


def multi_term(gradient, tx, *, weights=None) -> Task:
    """One network, two terms that pull apart: squared error to the label and to its opposite."""

    def init(key, batch):
        return {
            "params": {"net": _dense(key, _flat(batch).shape[-1], 1)},
            "model_state": {},
        }

    def loss(owned, state, batch, key):
        del state, key
        y = _apply(owned["net"], _flat(batch))[:, 0]
        label = batch["label"].astype(jnp.float32)
        terms = {"near": jnp.square(y - label), "far": 0.3 * jnp.square(y + label)}
        return terms, Aux({}, {})

    def predict(variables, batch):
        return {"y": _apply(variables["params"]["net"], _flat(batch))[:, 0]}

    def metrics(outputs, batch):
        error = jnp.square(outputs["y"] - batch["label"])
        return {"error": Ratio.of(error, batch.get("mask"))}

    player = Player(
        name="net",
        owns=("net",),
        loss=loss,
        tx=tx,
        gradient=gradient,
        weights=weights or {},
    )
    return Task(init=init, players=(player,), predict=predict, metrics=metrics)


def frozen_teacher() -> Task:
    """A student learns what a teacher says that no player owns."""

    def init(key, batch):
        a, b = jax.random.split(key)
        size = _flat(batch).shape[-1]
        params = {
            "student": _dense(a, size, CLASSES),
            "teacher": _dense(b, size, CLASSES),
        }
        return {"params": params, "model_state": {}}

    def loss(owned, state, batch, key):
        del key
        target = jax.nn.softmax(_apply(state.params["teacher"], _flat(batch)))
        logits = _apply(owned["student"], _flat(batch))
        return {"imitate": optax.softmax_cross_entropy(logits, target)}, Aux({}, {})

    def predict(variables, batch):
        return {"logits": _apply(variables["params"]["student"], _flat(batch))}

    player = Player(name="student", owns=("student",), loss=loss, tx=optax.sgd(0.1))
    return Task(init=init, players=(player,), predict=predict, metrics=_accuracy)


def sum_terms(axes: int = 1) -> optax.GradientTransformation:
    """Removes the leading term axes by summing: the plainest aggregator."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(
            lambda g: jnp.sum(g, axis=tuple(range(axes))), updates
        ), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
