"""Drawing distinct architectures from a space too large to list."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Shaped

from zoo_jax.core.errors import ConfigError

_STALE = 25  # batches in a row without anything new: the space counts as exhausted

Draw = Callable[
    [np.random.Generator],
    tuple[
        Shaped[np.ndarray, "n ..."], Shaped[np.ndarray, "n f"], Bool[np.ndarray, "n"]
    ],
]


def draw_distinct(
    size: int, seed: int, draw: Draw, *, mend: str
) -> Shaped[np.ndarray, "size ..."]:
    """Draws until there are `size` architectures that differ.

    Args:
      size: How many.
      seed: Of the draws; fewer of the same seed are the beginning of more.
      draw: A batch: the architectures, a form of each that is equal for those that count as
        the same, and which of them are admissible.
      mend: What to change if there are too few, for the message.

    Raises:
      ConfigError: if `size` is below 1, or too few are found.
    """
    if size < 1:
        raise ConfigError(f"size must be at least 1, got size={size}")
    rng = np.random.default_rng(seed)
    found: dict[bytes, np.ndarray] = {}
    stale = 0
    while stale < _STALE:
        before = len(found)
        rows, forms, admissible = draw(rng)
        for i in np.flatnonzero(admissible):
            found.setdefault(forms[i].tobytes(), rows[i])
            if len(found) == size:
                return np.stack(list(found.values()))
        stale = 0 if len(found) > before else stale + 1
    raise ConfigError(
        f"only {len(found)} of size={size} architectures were found: {mend}"
    )
