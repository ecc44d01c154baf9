"""What several processes of one run decide together. Alone, a process agrees with itself."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def largest(value: int) -> int:
    """The largest of what the processes say. All of them wait here for each other."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def first(value: int) -> int:
    """What the first process says."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
