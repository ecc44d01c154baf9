"""Keys: one per run, folded, never split and stored.

A run keeps the key it started with. Whatever needs randomness at a step folds the step
(and then what distinguishes it) into that key, so a resumed run draws the same numbers as
an undisturbed one.
"""

import zlib

import jax

from zoo_jax.core.types import Key


def make_key(seed: int) -> Key:
    """A typed key from an integer seed."""
    return jax.random.key(seed)


def fold_name(key: Key, name: str) -> Key:
    """Folds a string into a key; the same string gives the same key on every machine."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def step_key(key: Key, step, index: int = 0) -> Key:
    """The key of player `index` at `step`."""
    return jax.random.fold_in(jax.random.fold_in(key, step), index)
