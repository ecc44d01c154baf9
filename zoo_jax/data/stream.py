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


class ExampleRngs:
    """The generator of the example at a position of the stream, for one after another.

    It is one generator that is set anew, since building one costs ten times more: what an
    example needs must be drawn before the next position is asked for.
    """

    def __init__(self, seed: int):
        self._bits = _bits(seed, 0, purpose=1)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def __call__(self, position: int) -> np.random.Generator:
        """The generator, at the start of this position's numbers."""
        self._state["state"]["key"][1] = position
        self._bits.state = self._state
        return self._generator


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
        rngs = ExampleRngs(self.seed)
        if hasattr(self.source, "take"):
            batch = self.source.take(self._indices(np.asarray(positions)))
            return self.transform.batch(batch, map(rngs, positions)), []
        examples, bad = [], []
        for row, position in enumerate(positions):
            example, failures = self._example(position, rngs)
            examples.append(example)
            bad.extend((row, failure) for failure in failures)
        return stack(examples), bad

    def _indices(self, positions: np.ndarray, shift: int = 0) -> np.ndarray:
        n = len(self.source)
        epochs, offsets = np.divmod(positions, n)
        offsets = (offsets + shift) % n
        if not self.shuffle:
            return offsets
        out = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = epoch_order(n, self.seed, int(epoch))[offsets[here]]
        return out

    def _example(self, position: int, rngs: ExampleRngs) -> tuple[Example, list[Bad]]:
        bad: list[Bad] = []
        draw = getattr(self.source, "draw", None)
        while True:
            # The next one in the order of the same epoch takes the place of a bad one.
            index = int(self._indices(np.array([position]), shift=len(bad))[0])
            rng = rngs(position)
            try:
                example = draw(index, rng) if draw else self.source[index]
            except MediaError as e:
                if self.on_error == "raise":
                    raise
                bad.append((index, str(e)))
                check_bad(dict(bad), self.most_bad, len(self.source))
                continue
            return self.transform(example, rng), bad


def check_bad(bad: dict[int, str], most: int, length: int) -> None:
    """Raises `DataError` if there are more bad examples than the cap."""
    if len(bad) > most:
        first = "; ".join(list(bad.values())[:3])
        raise DataError(
            f"{len(bad)} of {length} examples cannot be read, more than the {most} that "
            f"max_skipped allows: mend or remove them, or raise max_skipped. First: {first}"
        )
