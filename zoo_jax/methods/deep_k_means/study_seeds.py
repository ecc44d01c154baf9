"""Training and measuring one network from several seeds by one compiled program.

The common loop trains one network from a stream. A comparison over seeds wants many short
trainings of a small one: here the data lies on the device, the order of batches and their shifts are drawn
before the first step, and a whole training is one `jax.lax.scan`, mapped over seeds.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from zoo_jax.core.rng import step_key
from zoo_jax.core.types import Key, Params, Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.methods.deep_k_means.layers import NETWORK
from zoo_jax.metrics.classification import correct, negative_log_likelihood
from zoo_jax.task import Task, TrainState


class Data(NamedTuple):
    """A whole data set on the device."""

    image: Float[Array, "n h w c"]
    label: Int[Array, "n"]


class Schedule(NamedTuple):
    """How long to train, and on what batches."""

    steps: int
    batch_size: int
    shift: int = 0  # images move by up to so many pixels, zeros come in


def read_data(source: Any, loader: Mapping[str, Any]) -> Data:
    """Reads a source through a transform that draws nothing."""
    options = {**loader, "batch_size": len(source)}
    (batch,) = eval_batches(source, **options)
    return Data(jnp.asarray(batch["image"]), jnp.asarray(batch["label"]))


class Batches(NamedTuple):
    """What a training sees: drawn before it, so that programs compile without the drawing."""

    index: Int[np.ndarray, "steps b"]
    corner: Int[np.ndarray, "steps b 2"]  # of the crop, in an image padded by `shift`


def over_seeds(f: Callable[..., Any], at_once: int) -> Callable[..., Any]:
    """Compiles ``f(data, *args)`` for arguments that have a leading axis of seeds.

    Args:
      f: A function of what all seeds share, and of one seed's arguments.
      at_once: So many seeds run vectorised, groups of them in turn. Decides about memory and
        speed only.
    """
    size = at_once if at_once > 1 else None
    # An argument: a program with the data inside, as a constant, takes long to compile.
    return jax.jit(
        lambda data, *args: lax.map(lambda a: f(data, *a), args, batch_size=size)
    )


def draw_batches(seed: int, phase: str, examples: int, schedule: Schedule) -> Batches:
    """Draws every batch of a training: epoch after epoch, each in an order of its own.

    As in the common loader, batches run across the ends of epochs.
    """
    rng = np.random.default_rng([seed, zlib.crc32(phase.encode())])
    total = schedule.steps * schedule.batch_size
    epochs = [rng.permutation(examples) for _ in range(math.ceil(total / examples))]
    shape = (schedule.steps, schedule.batch_size)
    index = np.concatenate(epochs)[:total].reshape(shape)
    corner = rng.integers(0, 2 * schedule.shift + 1, (*shape, 2))
    return Batches(index.astype(np.int32), corner.astype(np.int32))


def take(
    data: Data, index: Int[Array, "b"], corner: Int[Array, "b 2"], shift: int
) -> dict[str, Array]:
    """One batch, its images shifted."""
    image = data.image[index]
    if shift:
        size = image.shape[1:]
        image = jnp.pad(image, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        crop = jax.vmap(lambda x, at: lax.dynamic_slice(x, (at[0], at[1], 0), size))
        image = crop(image, corner)
    return {"image": image, "label": data.label[index]}


def start(task: Task, data: Data, variables: Variables, key: Key) -> Variables:
    """A task's fresh variables with a given network in place of its own."""
    fresh = task.init(key, {"image": data.image[:1]})
    return {
        part: {**fresh[part], NETWORK: variables[part][NETWORK]}
        for part in ("params", "model_state")
    }


def train(
    task: Task,
    data: Data,
    variables: Variables,
    key: Key,
    batches: Batches,
    shift: int,
) -> tuple[Variables, Float[Array, ""]]:
    """Trains one network; pure, for `over_seeds`.

    Args:
      task: With one player.
      data: To train on.
      variables: Where to start.
      key: For dropout and the like.
      batches: One per step.
      shift: What their corners were drawn for.

    Returns:
      The trained variables and the mean loss of the last tenth of the steps.
    """
    (player,) = task.players

    def owned(params: Mapping[str, Params]) -> dict[str, Params]:
        return {name: params[name] for name in player.owns}

    def step(state: TrainState, drawn: Any) -> tuple[TrainState, Array]:
        batch = take(data, *drawn, shift)

        def loss(params):
            terms, aux = player.loss(params, state, batch, step_key(key, state.step))
            weighted = (
                player.weights.get(name, 1.0) * jnp.mean(value)
                for name, value in terms.items()
            )
            return sum(weighted), aux

        now = owned(state.params)
        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(now)
        updates, opt_state = player.tx.update(
            gradient, state.opt_state[player.name], now
        )
        state = state.replace(
            step=state.step + 1,
            params={**state.params, **optax.apply_updates(now, updates)},
            model_state={**state.model_state, **aux.model_state},
            opt_state={player.name: opt_state},
        )
        return state, value

    # Made in here, counters have no axis of seeds: `lax.cond` on them stays a branch.
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        step=zero,
        params=dict(variables["params"]),
        model_state=dict(variables["model_state"]),
        opt_state={player.name: player.tx.init(owned(variables["params"]))},
        ema={},
        key=key,
        skipped=zero,
        streak=zero,
    )
    state, losses = lax.scan(step, state, batches)
    tail = max(1, len(losses) // 10)
    return state.variables(), jnp.mean(losses[-tail:])


def measure(module: Any, data: Data, variables: Variables) -> dict[str, Array]:
    """Accuracy and mean negative log-likelihood of the network as it is used."""
    logits = module.apply(_network(variables), data.image)
    return {
        "accuracy": jnp.mean(correct(logits, data.label)),
        "nll": jnp.mean(negative_log_likelihood(logits, data.label)),
    }


def reestimate_norms(
    module: Any, data: Data, variables: Variables, batches: Batches, shift: int
) -> Variables:
    """Replaces running statistics by their mean over fresh batches, equally weighted."""
    if not variables["model_state"][NETWORK]:
        return variables  # a network without norms
    module = module.clone(bn_momentum=0.0)  # the statistics of one batch

    def one(drawn):
        batch = take(data, *drawn, shift)
        _, state = module.apply(
            _network(variables), batch["image"], train=True, mutable=["batch_stats"]
        )
        return dict(state)

    statistics = lax.map(one, batches)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), statistics)
    return {**variables, "model_state": {**variables["model_state"], NETWORK: mean}}


def _network(variables: Variables) -> dict[str, Any]:
    return {"params": variables["params"][NETWORK], **variables["model_state"][NETWORK]}


def stack(trees: Sequence[Any]) -> Any:
    """Gives trees of arrays one leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(tree: Any) -> list[Any]:
    """The trees of numpy arrays along the leading axis of one."""
    tree = jax.tree.map(np.asarray, tree)
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]
