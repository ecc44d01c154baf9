"""A made-up search space: for tests, and to see at once what a search does."""

import numpy as np

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas.spaces.pool import Pool


def build_pool(
    *, slots: int = 4, choices: int = 5, noise: float = 0.5, seed: int = 0
) -> Pool:
    """All ways to fill `slots` with one of `choices` each.

    The true value is a sum of an effect per slot and one per pair of slots, scaled to
    mean 70 and deviation 10; no measurement stands behind it.

    Args:
      slots: Places to fill.
      choices: What each can be filled with.
      noise: Deviation of the label ``"search"`` from the true value ``"test"``.
      seed: Of effects and noise.

    Raises:
      ConfigError: for a space with fewer than two or more than 100,000 items.
    """
    size = choices**slots if slots > 0 and choices > 0 else 0
    if not 2 <= size <= 100_000:
        raise ConfigError(
            f"slots={slots}, choices={choices} gives {size} architectures: take 2 to 100000"
        )
    rng = np.random.default_rng(seed)
    shape = (choices,) * slots
    items = np.stack(np.unravel_index(np.arange(size), shape), axis=1)  # m slots
    value = sum(rng.normal(size=choices)[items[:, i]] for i in range(slots))
    for i in range(slots):
        for j in range(i):
            value = value + rng.normal(0, 0.3, shape[:2])[items[:, i], items[:, j]]
    value = 70 + 10 * (value - value.mean()) / value.std()
    label = value + rng.normal(0, noise, size)
    strides = choices ** np.arange(slots)[::-1]

    def neighbours(index: int) -> np.ndarray:
        steps = np.arange(choices)[None] - items[index][:, None]  # slots choices
        around = index + steps * strides[:, None]
        return around[steps != 0]

    return Pool(
        name="synthetic",
        features=np.eye(choices, dtype=np.float32)[items].reshape(size, -1),
        labels={"search": label.astype(np.float32), "test": value.astype(np.float32)},
        classes=np.arange(size, dtype=np.int32),  # no two are alike
        describe=lambda index: "-".join(map(str, items[index])),
        neighbours=neighbours,
    )
