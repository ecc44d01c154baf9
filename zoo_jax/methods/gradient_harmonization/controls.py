"""Control arms of an experiment: examples dropped at random, or because they are known to be bad.

Whoever claims that a cosine finds the examples to drop must do better than chance at the same
number of examples; and what dropping could bring at best is seen where the bad ones are known.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import fold_name
from zoo_jax.core.types import Batch, Key, Params, Terms
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.task import Aux, TrainState

CONTROLS = ("random", "oracle")


def kept_at_random(
    key: Key, has: Bool[Array, "b"], quantile: Float[Array, ""] | float
) -> Bool[Array, "b"]:
    """Drops as many examples as the gate by cosine does at this quantile, but any.

    Args:
      key: Draws them.
      has: Which have both terms; the others are always kept.
      quantile: Share of those that is dropped.
    """
    number = jnp.sum(has)
    drop = jnp.floor(jnp.clip(quantile, 0, 1) * number + 1e-4)
    draws = jnp.where(has, jax.random.uniform(key, has.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(draws))
    return (rank >= drop) | ~has


def kept_by_oracle(batch: Batch) -> Bool[Array, "b"]:
    """Keeps the examples whose partners are known to be right.

    Raises:
      ConfigError: if the batch does not say which are wrong.
    """
    flags = [batch[k] for k in ("wrong_audio", "wrong_text") if k in batch]
    if not flags:
        raise ConfigError(
            "harmonize.gate.by='oracle' needs batches that say which partners are wrong: wrap the"
            " source in dict(name='mispaired', source=..., share=...)"
        )
    return ~sum(flag > 0 for flag in flags).astype(bool)


def gated_gradient(
    harmonizer: Harmonizer,
    owned: dict[str, Params],
    state: TrainState,
    batch: Batch,
    key: Key,
    *,
    by: str,
    quantile: Any = None,
) -> tuple[dict[str, Params], Terms, Aux]:
    """Plain gradients of the kept examples: what the gate of a `Harmonizer` does, by a mask.

    Dropped examples stay negatives of the others. Of the backbone, the kept examples' shares of
    the gradient of the whole loss count; of the heads, the gradients of their own terms. Both are
    divided by the number kept. Nothing kept gives exactly zero.

    Args:
      harmonizer: Towers, heads and weights; its own gate and rule are not used.
      owned: Parameters of its networks.
      state: For the heads.
      batch: Of b examples.
      key: Of the step.
      by: "random" (needs `quantile`) or "oracle".
      quantile: Share to drop.

    Returns:
      As `Harmonizer.gradient`, with the metrics ``kept`` and ``dropped``.
    """
    if by == "random":
        has = batch["text_mask"] > 0
        keep = kept_at_random(fold_name(key, "drop"), has, quantile)
    else:
        keep = kept_by_oracle(batch)
    number = jnp.sum(keep, dtype=jnp.float32)
    share = keep * (keep.shape[0] / jnp.maximum(number, 1))

    def objective(owned: dict[str, Params]):
        params, keys = owned[harmonizer.backbone], _keys(key, keep.shape[0])
        features = {
            name: jax.vmap(tower, (None, 0, 0))(params, dict(batch), keys)
            for name, tower in harmonizer.towers.items()
        }
        heads = {k: v for k, v in owned.items() if k != harmonizer.backbone}
        scaled = {name: _scale_gradient(x, share) for name, x in features.items()}
        fixed, seen = jax.lax.stop_gradient((heads, features))
        terms, aux = harmonizer.heads(fixed, scaled, state, batch, key)
        own, _ = harmonizer.heads(heads, seen, state, batch, key)
        total = jnp.zeros(())
        for name, term in terms.items():
            weight = harmonizer.weights.get(name, 1.0)
            weight = weight(state.step) if callable(weight) else weight
            total += weight * (jnp.mean(term) + jnp.mean(share * own[name]))
        return total, (terms, aux)

    grads, (terms, aux) = jax.grad(objective, has_aux=True)(owned)
    counts = {"kept": number, "dropped": keep.shape[0] - number}
    return grads, terms, Aux(aux.model_state, {**aux.metrics, **counts})


def _keys(key: Key, size: int) -> Key:
    """One key per example: those that a `Harmonizer` takes, so that arms drop the same tokens."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


def _scale_gradient(x: Float[Array, "b *d"], scale: Float[Array, "b"]) -> Array:
    """`x`, whose gradient is multiplied by `scale`, example by example."""
    fixed = jax.lax.stop_gradient(x)
    return fixed + scale.reshape(-1, *(1,) * (x.ndim - 1)) * (x - fixed)
