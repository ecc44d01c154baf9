"""The stream of examples: which one stands at a position, and what its transform draws."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from zoo_jax.core.errors import DataError, MediaError
from zoo_jax.data.source import Example, Source
from zoo_jax.data.transforms import Compose, stack

Batch = dict[str, np.ndarray]
OnError = Literal["raise", "skip"]
Bad = tuple[int, str]  # index in the source, what is wrong with it


@functools.lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: a permutation of ``range(length)``.

    NumPy promises never to change the raw numbers of a bit generator, but makes no such
    promise for `Generator.permutation`; so the order is a sort of raw numbers.
    """
    raw = _bits(seed, epoch, purpose=0).random_raw(length)
    return np.argsort(raw, kind="stable")


def example_rng(seed: int, position: int) -> np.random.Generator:
    """The generator of the example at one position of the stream."""
    return np.random.Generator(_bits(seed, position, purpose=1))


def _bits(seed: int, number: int, *, purpose: int) -> np.random.Philox:
    # Philox is keyed, not seeded: distinct keys and counters give independent streams.
    return np.random.Philox(
        key=np.array([seed, number], np.uint64),
        counter=np.array([0, 0, 0, purpose], np.uint64),
    )


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads examples by their position in the stream. Pickled into the workers."""

    source: Source
    transform: Compose
    seed: int
    shuffle: bool
    on_error: OnError
    most_bad: int  # more bad examples than that are an error

    def read(self, positions: Sequence[int]) -> tuple[Batch, list[tuple[int, Bad]]]:
        """Returns the batch, and which of its rows stand in for which bad example."""
        if hasattr(self.source, "take"):
            batch = self.source.take(np.array([self._index(p) for p in positions]))
            rngs = [] if self.transform.elementwise else map(self._rng, positions)
            return self.transform.batch(batch, list(rngs)), []
        examples, bad = [], []
        for row, position in enumerate(positions):
            example, failures = self._example(position)
            examples.append(example)
            bad.extend((row, failure) for failure in failures)
        return stack(examples), bad

    def _rng(self, position: int) -> np.random.Generator:
        return example_rng(self.seed, position)

    def _index(self, position: int, shift: int = 0) -> int:
        n = len(self.source)
        epoch, offset = divmod(position, n)
        offset = (offset + shift) % n
        return int(epoch_order(n, self.seed, epoch)[offset]) if self.shuffle else offset

    def _example(self, position: int) -> tuple[Example, list[Bad]]:
        bad: list[Bad] = []
        while True:
            # The next one in the order of the same epoch takes the place of a bad one.
            index = self._index(position, shift=len(bad))
            try:
                example = self.source[index]
            except MediaError as e:
                if self.on_error == "raise":
                    raise
                bad.append((index, str(e)))
                check_bad(dict(bad), self.most_bad, len(self.source))
                continue
            return self.transform(example, self._rng(position)), bad


def check_bad(bad: dict[int, str], most: int, length: int) -> None:
    """Raises `DataError` if there are more bad examples than the cap."""
    if len(bad) > most:
        first = "; ".join(list(bad.values())[:3])
        raise DataError(
            f"{len(bad)} of {length} examples cannot be read, more than the {most} that "
            f"max_skipped allows: mend or remove them, or raise max_skipped. First: {first}"
        )
