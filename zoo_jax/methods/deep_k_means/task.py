"""Training a classifier: plainly, pulled toward shared rows, or with shared rows kept shared."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.methods.deep_k_means.layers import NETWORK
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.sharing import make_sharing
from zoo_jax.metrics.classification import correct, negative_log_likelihood
from zoo_jax.optim.build import build_optimizer
from zoo_jax.optim.kmeans import labels_penalty, resolve_spec, spectral_penalty
from zoo_jax.optim.layer_spec import make_spec
from zoo_jax.task import Aux, Player, Ratio, Task, TrainState


def make_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Builds the training problem of a config.

    Batches hold ``image`` (float32, NHWC, as the data section's transform leaves it) and
    ``label`` (integers).

    Args:
      config: Sections ``model`` (``name`` and the arguments of its builder) and ``optim``
        (see `build_optimizer`; its ``kmeans`` re-trains with the penalty, its
        ``share_updates`` trains the centres of an assigned network), and optionally ``loss``
        (``label_smoothing``) and ``sharing`` for another way to share weights (see
        `make_sharing`).
      steps: Length of the run, for schedules.

    Raises:
      ConfigError: for a section that does not fit.
    """
    module = make_module(config.model)
    smoothing = _smoothing(config.get("loss", {}))
    penalty = to_dict(config.optim.get("kmeans") or {})
    sharing = make_sharing(config, steps)

    def init(key: Key, batch: Batch) -> Variables:
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        variables = dict(module.init(key, image))
        params = variables.pop("params")
        return sharing.init(
            {"params": {NETWORK: params}, "model_state": {NETWORK: variables}}
        )

    def loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        labels = batch["label"]
        params, extra, shared = sharing.train(owned, state)
        logits, model_state = module.apply(
            {"params": params, **state.model_state[NETWORK]},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        nll = negative_log_likelihood(logits, labels)
        # A share of the target spread evenly over all classes.
        spread = -jnp.mean(jax.nn.log_softmax(logits), axis=1)
        terms = {"cross_entropy": (1 - smoothing) * nll + smoothing * spread, **extra}
        metrics = {"accuracy": jnp.mean(correct(logits, labels))}
        if penalty:
            metrics["kmeans_cost"] = _kmeans_cost(owned, state, penalty)
        return terms, Aux({NETWORK: dict(model_state), **shared}, metrics)

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        # A network without norms has no state; a checkpoint may leave empty entries out.
        model_state = variables["model_state"].get(NETWORK, {})
        logits = module.apply(
            {"params": sharing.deploy(variables), **model_state}, batch["image"]
        )
        return {"logits": logits}

    def metrics(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
        logits, labels, mask = outputs["logits"], batch["label"], batch.get("mask")
        return {
            "accuracy": Ratio.of(correct(logits, labels), mask),
            "nll": Ratio.of(negative_log_likelihood(logits, labels), mask),
        }

    player = Player(
        name=NETWORK,
        owns=sharing.owns,
        loss=loss,
        tx=sharing.optimizer(build_optimizer(config.optim, total_steps=steps)),
        weights=sharing.weights,
    )
    return Task(init=init, players=(player,), predict=predict, metrics=metrics)


def _smoothing(section: Mapping[str, Any]) -> float:
    require_keys(section, ("label_smoothing",), "loss")
    value = section.get("label_smoothing", 0.0)
    if not 0 <= value < 1:
        raise ConfigError(f"loss.label_smoothing must be in [0, 1), got {value}")
    return value


def _kmeans_cost(
    owned: Mapping[str, Params], state: TrainState, penalty: Mapping[str, Any]
) -> Array:
    """The penalty without its strength, as a share of the sum of squares of the kernels.

    It is 1 before the first update, which finds the first clusters.
    """
    leaves = named_leaves(owned)
    layers = resolve_spec(make_spec(penalty["layers"]), owned)
    factors = named_leaves(optax.tree.get(state.opt_state[NETWORK], "factors"))
    cost = energy = jnp.zeros(())
    for name, layer in layers.items():
        rows = layer.matrix(leaves[name])
        energy += jnp.sum(jnp.square(rows))
        if penalty["relaxation"] == "spectral":
            cost += spectral_penalty(rows, layer.num_clusters, factors[name])
        else:
            cost += labels_penalty(rows, factors[name], layer.num_clusters)
    return cost / energy
