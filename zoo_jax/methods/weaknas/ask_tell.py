"""The weak predictor search driven from the host, for labels that take minutes to get."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from zoo_jax.methods.weaknas.baselines import NO_MODEL
from zoo_jax.optim.weak_predictor import WeakPredictorSearch


class AskTell:
    """A `zoo_jax.methods.weaknas.baselines.Searcher` around the optax transformation.

    What is told need not be what was asked last: a journal of an earlier process may know better.
    """

    def __init__(self, search: WeakPredictorSearch, seed: int):
        """Draws the first batch.

        Args:
          search: Of `weak_predictor_search`.
          seed: Of all its draws.
        """
        key = jax.random.key(seed)
        self._batch = search.batch
        self._params = search.initial_params(key)
        self._state = search.init(self._params, key)
        self._update = jax.jit(search.update)

    def ask(self, count: int) -> Int[np.ndarray, "q"]:
        """The present batch; -1 marks what reaches past the first labels or the budget."""
        index = np.asarray(self._params["index"])
        return index[index >= 0][:count]

    def tell(self, index: Int[np.ndarray, "q"], value: Float[np.ndarray, "q"]) -> None:
        """Refits, and draws the next batch. NaN is a training that failed."""
        asked = np.full(self._batch, -1, np.int32)
        values = np.full(self._batch, np.nan, np.float32)
        asked[: len(index)], values[: len(index)] = index, value
        params = {"index": jnp.asarray(asked)}
        updates, self._state = self._update(None, self._state, params, value=values)
        self._params = optax.apply_updates(params, updates)

    def predicted_top(self) -> int:
        """The first of the ranking by the last fit; `NO_MODEL` before it."""
        top = int(self._state.ranking[0])
        return top if top >= 0 else NO_MODEL
