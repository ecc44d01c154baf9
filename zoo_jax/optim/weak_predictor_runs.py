"""Whole searches on a table of labels: repeated, in one program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.predictors.protocol import on_cpu


class History(NamedTuple):
    """What searches asked and predicted."""

    asked: Int[Array, "runs budget"]  # indices in the order asked
    values: Float[Array, "runs budget"]  # their labels
    predicted_top: Int[Array, "runs fits"]  # the first of the ranking after each fit
    sizes: Int[np.ndarray, "fits"]  # labels told before each fit


def run_searches(
    search: Any,
    labels: Float[Array, "*runs m"],
    keys: Any,
    *,
    mesh: Mesh | None = None,
    together: int | None = None,
) -> History:
    """Runs one search per key on a table.

    Args:
      search: Of `weak_predictor_search`.
      labels: Of the whole pool [m], higher is better, NaN for failures; or one row per run.
      keys: One per run.
      mesh: Its devices share the runs; by default all run on one.
      together: How many searches a device takes at a time under `jax.vmap`: 1 on CPU, where
        batches of small products are slow and a batched early stop waits for the last; all
        of them elsewhere.

    Returns:
      The same whatever `mesh` and `together`, up to rounding of the predictors' arithmetic.

    Raises:
      ConfigError: if labels do not fit the keys.

    >>> from zoo_jax.optim.predictors import gp_predictor
    >>> from zoo_jax.optim.weak_predictor import weak_predictor_search
    >>> pool = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
    >>> search = weak_predictor_search(
    ...     pool, gp_predictor(), budget=9, first=3, batch=3, top_n=6)
    >>> history = run_searches(search, pool[:, 0], jax.random.split(jax.random.key(0), 2))
    >>> history.asked.shape, history.sizes.tolist()
    ((2, 9), [3, 6, 9])
    """
    labels = jnp.asarray(labels, jnp.float32)
    runs = keys.shape[0]
    if labels.ndim == 2 and labels.shape[0] != runs:
        raise ConfigError(f"{labels.shape[0]} rows of labels do not fit {runs} keys")
    together = together or (1 if on_cpu() else runs)
    devices = 1 if mesh is None else mesh.size
    padding = -runs % devices
    at = np.minimum(
        np.arange(runs + padding), runs - 1
    )  # whole shares: repeat the last
    rows = labels[at] if labels.ndim == 2 else labels
    out = _run(search, rows, keys[at], mesh, together)
    asked, values, tops = (leaf[:runs] for leaf in out)
    return History(asked, values, tops, np.array(search.sizes, np.int32))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _run(search, labels, keys, mesh, together):
    per_run = labels.ndim == 2

    def some(labels, keys):
        def one(run):
            key, row = run if per_run else (run, labels)
            return _run_one(search, row, key)

        runs = (keys, labels) if per_run else keys
        # A batch size of 1 would still batch: every product one dimension deeper.
        return lax.map(one, runs, batch_size=together if together > 1 else None)

    if mesh is None:
        return some(labels, keys)
    split = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        some,
        mesh=mesh,
        in_specs=(split if per_run else PartitionSpec(), split),
        out_specs=split,
        check_vma=False,  # counts are the same everywhere, which it cannot know
    )(labels, keys)


def _run_one(search, labels, key):
    params = search.initial_params(key)

    def step(carry, _):
        params, state = carry
        index = params["index"]
        values = jnp.where(index < 0, jnp.nan, labels[index])
        updates, state = search.update(None, state, params, value=values)
        following = optax.apply_updates(params, updates)
        return (following, state), (index, values, state.ranking[0])

    start = (params, search.init(params, key))
    _, (asked, values, tops) = lax.scan(step, start, length=search.num_asks)
    real = _real_slots(search)
    blind = search.num_asks - len(search.sizes)
    return asked.reshape(-1)[real], values.reshape(-1)[real], tops[blind:]


def _real_slots(search) -> np.ndarray:
    """Places of the labels among all slots of all asks."""
    sizes, count = [], 0
    while count < search.budget:
        end = search.first if count < search.first else search.budget
        sizes.append(min(search.batch, end - count))
        count += sizes[-1]
    asks = [i * search.batch + np.arange(size) for i, size in enumerate(sizes)]
    return np.concatenate(asks)
