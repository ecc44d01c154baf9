"""Why an update is not finite: where in batch, parameters, terms and gradients it begins."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zoo_jax.core.rng import step_key
from zoo_jax.core.tree import named_leaves
from zoo_jax.task import Task, TrainState


def describe_nonfinite(
    task: Task, state: TrainState, batches: Mapping[str, Mapping[str, Any]]
) -> str:
    """Names the first kind of array that holds NaN or Inf, in the order of cause and effect.

    Args:
      task: The players; each one's weighted loss is differentiated once more.
      state: The state that the batch was offered to.
      batches: The batch of each stream in use.
    """
    found = _nonfinite({f"batch {n}": dict(b) for n, b in batches.items()})
    found = found or _nonfinite({"params": state.params})
    found = found or _nonfinite({"model state": state.model_state})
    for index, player in enumerate(task.players):
        if found or player.stream not in batches:
            continue

        def loss(owned, player=player, index=index):
            key, _ = jax.random.split(step_key(state.key, state.step, index))
            terms, _ = player.loss(owned, state, batches[player.stream], key)
            return sum(jnp.mean(t) for t in terms.values()), terms

        owned = {name: state.params[name] for name in player.owns}
        grads, terms = jax.jit(jax.grad(loss, has_aux=True))(owned)
        found = _nonfinite({f"term of {player.name}": terms})
        found = found or _nonfinite({f"gradient of {player.name}": grads})
    if not found:
        return "each array of the last batch is finite by itself, the optimiser state is not"
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return f"not finite: {shown}"


def _nonfinite(groups: Mapping[str, Any]) -> list[str]:
    out = []
    for group, tree in groups.items():
        for name, leaf in named_leaves(tree).items():
            leaf = jnp.asarray(leaf)
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                continue
            bad = int(jnp.sum(~jnp.isfinite(leaf)))
            if bad:
                out.append(f"{group} '{name}' ({bad} of {leaf.size} values)")
    return out
