"""How much the gradients of the two losses disagree: by triplet, and by whole batch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from zoo_jax.core.rng import make_key
from zoo_jax.core.types import Batch, Variables
from zoo_jax.metrics.detection import auroc
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.task import Evaluator, Ratio, TrainState

MakeHarmonizer = Callable[..., Harmonizer]  # (state, **fields that differ)


class Conflicts(NamedTuple):
    """Cosines between the gradients of two losses, over batches of a stream."""

    cosine: Float[np.ndarray, "n"]  # of the triplets that have both
    wrong: Bool[np.ndarray, "n"]  # a partner is known to be wrong; False if not known
    batch_cosine: Float[np.ndarray, "m"]  # of whole batches


def state_of(variables: Variables) -> TrainState:
    """A state with these networks and nothing else, for a loss to look at."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=dict(variables["params"]),
        model_state=dict(variables["model_state"]),
        opt_state={},
        ema={},
        key=make_key(0),
        skipped=zero,
        streak=zero,
    )


def cosines(gram: Float[Array, "b 2 2"]) -> Float[Array, "b"]:
    """Cosine between two gradients; NaN where one is zero or not finite."""
    norms = jnp.sqrt(gram[:, 0, 0]) * jnp.sqrt(gram[:, 1, 1])
    return jnp.where(norms > 0, gram[:, 0, 1] / jnp.where(norms > 0, norms, 1), jnp.nan)


def conflict_step(
    make_harmonizer: MakeHarmonizer, owns: tuple[str, ...]
) -> Callable[[Variables, Batch], dict[str, Array]]:
    """A function of variables and a batch to raw cosines, with the randomness of training.

    Returns:
      ``cosine`` [b] and ``wrong`` [b], and ``batch_cosine`` [].
    """

    def step(variables: Variables, batch: Batch) -> dict[str, Array]:
        state = state_of(variables)
        owned = {name: state.params[name] for name in owns}
        given = (owned, state, batch, state.key)
        each, whole = (
            make_harmonizer(state, level=level, subset=()).grams(*given)
            for level in ("triplet", "batch")
        )
        flags = [batch[k] for k in ("wrong_audio", "wrong_text") if k in batch]
        none = jnp.zeros(each.shape[0])
        return {
            "cosine": cosines(each),
            "wrong": jnp.minimum(sum(flags, start=none), 1),
            "batch_cosine": cosines(whole)[0],
        }

    return step


def conflict_evaluator(
    make_harmonizer: MakeHarmonizer, owns: tuple[str, ...]
) -> Evaluator:
    """Measures conflicts during training: name it ``conflicts`` in a config's ``eval``.

    Returns:
      An evaluator that reports ``conflict``, ``cosine``, ``conflict_batch``,
      ``cosine_batch``, and ``auroc`` (NaN without known wrong partners); see `summary`. A batch
      that is filled up does not count as a batch.
    """
    inner = conflict_step(make_harmonizer, owns)

    def step(variables: Variables, batch: Batch):
        found = inner(variables, batch)
        full = jnp.min(batch["mask"])
        whole = found.pop("batch_cosine")
        ratios = {
            "conflict_batch": Ratio(full * (whole < 0), full),
            "cosine_batch": Ratio(full * jnp.nan_to_num(whole), full),
        }
        return ratios, found

    def finish(
        sums: Mapping[str, tuple[float, float]], collected: Mapping[str, Any]
    ) -> dict[str, float]:
        known = np.isfinite(collected["cosine"])
        found = Conflicts(
            collected["cosine"][known], collected["wrong"][known] > 0, np.zeros(0)
        )
        out = summary(found)
        for name, (total, count) in sums.items():
            out[name] = total / count if count else float("nan")
        return out

    return Evaluator(step=step, finish=finish)


def measure_conflicts(
    step: Callable[[Batch], tuple[Mapping[str, Ratio], Mapping[str, Array]]],
    batches: Iterable[Batch],
) -> Conflicts:
    """Gathers cosines over batches on the host.

    Args:
      step: That of `conflict_evaluator`, with the variables put in.
      batches: Those that are filled up are left out.
    """
    cosine, wrong, whole = [], [], []
    for batch in batches:
        if np.min(batch["mask"]) == 0:
            continue
        ratios, found = jax.device_get(step(batch))
        known = np.isfinite(found["cosine"])
        cosine.append(found["cosine"][known])
        wrong.append(found["wrong"][known] > 0)
        whole.append(ratios["cosine_batch"].total)
    return Conflicts(np.concatenate(cosine), np.concatenate(wrong), np.stack(whole))


def summary(found: Conflicts) -> dict[str, float]:
    """Numbers of a report.

    Returns:
      ``conflict``, the share of triplets whose gradients point away from each other, and
      ``cosine``, their mean; ``conflict_batch`` and ``cosine_batch`` likewise, of whole
      batches; and ``auroc``, how well a low cosine finds a wrong partner.
    """

    def mean(x: np.ndarray) -> float:
        return float(np.mean(x)) if x.size else float("nan")

    return {
        "conflict": mean(found.cosine < 0),
        "cosine": mean(found.cosine),
        "conflict_batch": mean(found.batch_cosine < 0),
        "cosine_batch": mean(found.batch_cosine),
        "auroc": auroc(-found.cosine, found.wrong),
    }


def shuffled(wrong: Bool[np.ndarray, "n"], seed: int = 0) -> Bool[np.ndarray, "n"]:
    """The same flags in another order: what a detector must not find."""
    return np.random.default_rng(seed).permutation(wrong)
