"""The loader: the same batches for any number of workers, restarts and processes.

Training reads one infinite stream of examples: epoch after epoch, each in a new order that
follows from (seed, epoch). Batch `g` of a global batch size `B` is the positions
``g * B ... (g + 1) * B - 1`` of that stream, so batches run across the ends of epochs and no
example is dropped. The randomness of a transform follows from (seed, position). A batch is
therefore a pure function of its number, and the loader's whole state is one integer.

Grain reads batches ahead, in a thread or in worker processes; it never decides their order.
"""

import contextlib
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle
import grain
import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, DeviceError
from zoo_jax.core.files import PathLike
from zoo_jax.data.source import Source
from zoo_jax.data.stream import Bad, Batch, OnError, Reader, check_bad
from zoo_jax.data.transforms import Transform, make_transform


class _Batches:
    """Batch number -> this process' rows of it. Grain sees it as a random-access source."""

    def __init__(self, reader: Reader, size: int, rows: slice, count: int):
        self.reader, self._size, self._rows, self._count = reader, size, rows, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, g: int) -> tuple[Batch, list[tuple[int, Bad]]]:
        first = int(g) * self._size
        return self.reader.read(
            range(first + self._rows.start, first + self._rows.stop)
        )


class _EvalBatches(_Batches):
    """Adds the mask; positions behind the end repeat the last example."""

    def __getitem__(self, g: int) -> tuple[Batch, list[tuple[int, Bad]]]:
        first, last = int(g) * self._size, len(self.reader.source) - 1
        positions = range(first + self._rows.start, first + self._rows.stop)
        batch, bad = self.reader.read([min(p, last) for p in positions])
        mask = np.array([p <= last for p in positions], np.float32)
        mask[[row for row, _ in bad]] = 0.0
        return {**batch, "mask": mask}, bad


def _start_worker(parcel: str, index: int, count: int) -> None:
    """Runs first in a worker process; `parcel` is the file that it reads its work from."""
    del index, count
    # Ctrl-C reaches the whole process group; the parent decides and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        # A killed parent can neither close its workers nor clear up.
        with contextlib.suppress(OSError):
            os.unlink(parcel)
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


class _Parcel:
    """Carries `batches` to workers in a file, and only the file's name in their start-up pipe.

    A worker that dies while it starts leaves that pipe unread; writing more than its buffer
    (64 kB) would then block this process for ever.
    """

    def __init__(self, batches: _Batches):
        self._batches: _Batches | None = batches
        self._length = len(batches)
        fd, self.path = tempfile.mkstemp(prefix="zoo_jax_batches_")
        with os.fdopen(fd, "wb") as f:
            cloudpickle.dump(batches, f)
        self.remove = weakref.finalize(self, os.unlink, self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"_batches": None, "_length": self._length, "path": self.path}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, g: int) -> Any:
        if self._batches is None:
            with open(self.path, "rb") as f:
                self._batches = cloudpickle.load(f)
        return self._batches[g]


class _Reading:
    """Batches being read from `start` on, until closed."""

    def __init__(self, batches: _Batches, start: int, workers: int):
        # Data in memory is read at once: a thread would only compete for the interpreter
        # lock. Files are decoded one batch ahead by a thread (Pillow releases the lock).
        in_memory = hasattr(batches.reader.source, "take")
        ahead = 0 if in_memory or workers else 1
        self._parcel = _Parcel(batches) if workers else None
        ds = grain.MapDataset.source(self._parcel or batches).slice(slice(start, None))
        ds = ds.to_iter_dataset(
            grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=2 * ahead)
        )
        if workers:
            _let_grain_read_its_flags()
            ds = ds.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=workers, per_worker_buffer_size=2
                ),
                worker_init_fn=functools.partial(_start_worker, self._parcel.path),
            )
        self._iterator = iter(ds)

    def __iter__(self) -> "_Reading":
        return self

    def __next__(self) -> tuple[Batch, list[tuple[int, Bad]]]:
        return next(self._iterator)

    def close(self) -> None:
        self._iterator.close()
        if self._parcel:
            self._parcel.remove()


def _let_grain_read_its_flags() -> None:
    from absl import flags

    # Grain's workers look at flags of its own; in a notebook nobody has parsed any.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


class _BadExamples:
    """Counts distinct bad examples against the cap and writes one line for each."""

    def __init__(self, report: PathLike | None, most: int, length: int):
        self._report = pathlib.Path(report) if report else None
        self._most, self._length = most, length
        self._seen: dict[int, str] = {}
        if self._report and self._report.exists():
            try:
                lines = self._report.read_text(encoding="utf-8").splitlines()
                entries = [json.loads(line) for line in lines]
                self._seen = {int(e["index"]): e["error"] for e in entries}
            except (ValueError, KeyError, TypeError) as e:
                raise DataError(
                    f"{self._report} is not a report of bad examples ({e}): remove it"
                ) from None

    def add(self, bad: Sequence[tuple[int, Bad]]) -> None:
        for _, (index, error) in bad:
            if index in self._seen:
                continue
            self._seen[index] = error
            if self._report:
                self._report.parent.mkdir(parents=True, exist_ok=True)
                with self._report.open("a", encoding="utf-8") as f:
                    f.write(json.dumps({"index": index, "error": error}) + "\n")
        if bad:
            check_bad(self._seen, self._most, self._length)


def _check(
    source,
    batch_size,
    seed,
    process_index,
    process_count,
    workers,
    on_error,
    max_skipped,
) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("workers", workers, 0),
        ("process_count", process_count, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be an integer >= {least}, got {value!r}")
    if on_error not in ("raise", "skip"):
        raise ConfigError(f'on_error must be "raise" or "skip", got {on_error!r}')
    if not 0 <= max_skipped <= 1:
        raise ConfigError(f"max_skipped is a share in [0, 1], got {max_skipped}")
    if len(source) == 0:
        raise DataError("the data source has no examples")
    if not 0 <= process_index < process_count:
        raise DeviceError(
            f"process_index {process_index} is not below process_count {process_count}"
        )
    if batch_size % process_count:
        raise DeviceError(
            f"batch_size {batch_size} does not divide among {process_count} processes: "
            f"use a multiple of {process_count}"
        )


def _local_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


class TrainBatches(Iterator[Batch]):
    """An endless iterator of local batches; made by `train_batches`.

    Reading starts with the first ``next``. Close it (or use it in a ``with`` block) to stop
    its thread or worker processes at once.
    """

    def __init__(
        self,
        batches: _Batches,
        facts: dict,
        start: int,
        workers: int,
        bad: _BadExamples,
    ):
        self._batches, self._facts, self._workers = batches, facts, workers
        self._next = start
        self._bad = bad
        self._reading: _Reading | None = None
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise ValueError("the batches are closed")
        if self._reading is None:
            self._reading = _Reading(self._batches, self._next, self._workers)
        batch, bad = next(self._reading)
        self._bad.add(bad)
        self._next += 1
        return batch

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON; the same on every process."""
        return {"next_batch": self._next, **self._facts}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to where `state` was taken.

        Raises:
          DataError: if it was taken from another stream: the batches would differ.
        """
        for name, value in self._facts.items():
            if state.get(name) != value:
                raise DataError(
                    f"cannot continue the data stream: {name} was {state.get(name)!r} and "
                    f"is {value!r} now: restore the old value or start a new run"
                )
        self._stop()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Stops reading. Repeated calls do nothing."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def __enter__(self) -> "TrainBatches":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    transform: Transform | Sequence[Any] | None = None,
    shuffle: bool = True,
    workers: int = 0,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    on_error: OnError = "raise",
    max_skipped: float = 0.01,
    report: PathLike | None = None,
) -> TrainBatches:
    """An endless stream of batches of numpy arrays.

    Args:
      source: Where examples come from.
      batch_size: Rows of the *global* batch; each process gets its equal share of them.
      seed: Determines the order and what random transforms do.
      transform: See `make_transform`.
      shuffle: Whether each epoch has an order of its own; else always that of the source.
      workers: Processes that read ahead; 0 reads in this process. Never changes a batch.
      start: Number of the first batch.
      process_index: Which of the processes this is, e.g. ``jax.process_index()``.
      process_count: How many processes share the global batch.
      on_error: What to do with an example that raises `MediaError`. ``"skip"`` puts the next
        one of the epoch in its place.
      max_skipped: With ``"skip"``, the share of distinct bad examples that is tolerated.
      report: A JSONL file that gets one line per distinct bad example. One per process.

    Returns:
      The iterator; ``dict`` of arrays [b, ...] with b = batch_size / process_count.

    Raises:
      ConfigError: for a value out of range.
      DeviceError: if the batch does not divide among the processes.
      DataError: for an empty source; while iterating, for too many bad examples.
    """
    _check(
        source,
        batch_size,
        seed,
        process_index,
        process_count,
        workers,
        on_error,
        max_skipped,
    )
    most_bad = int(max_skipped * len(source))
    reader = Reader(
        source, make_transform(transform), seed, shuffle, on_error, most_bad
    )
    rows = _local_rows(batch_size, process_index, process_count)
    facts = {
        "seed": seed,
        "batch_size": batch_size,
        "examples": len(source),
        "shuffle": shuffle,
    }
    return TrainBatches(
        _Batches(reader, batch_size, rows, sys.maxsize),
        facts,
        start,
        workers,
        _BadExamples(report, most_bad, len(source)),
    )


class EvalBatches:
    """One pass per ``iter``, always in the order of the source; made by `eval_batches`."""

    def __init__(self, batches: _EvalBatches, workers: int, bad: _BadExamples):
        self._batches, self._workers, self._bad = batches, workers, bad

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        reading = _Reading(self._batches, 0, self._workers)
        try:
            for batch, bad in reading:
                self._bad.add(bad)
                yield batch
        finally:
            reading.close()


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    transform: Transform | Sequence[Any] | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    on_error: OnError = "raise",
    max_skipped: float = 0.01,
    report: PathLike | None = None,
) -> EvalBatches:
    """Every example once, in order, in batches of one shape.

    The last batch is filled up by repeating the last example. ``"mask"`` (float32 [b]) is 1
    for real rows and 0 for rows that fill up or, with ``on_error="skip"``, that stand in for a
    bad example. All processes get the same number of batches.

    Args:
      source: Where examples come from.
      batch_size: Rows of the *global* batch.
      transform: See `make_transform`; a random one does the same in each pass.
      workers: Processes that read ahead.
      process_index: Which of the processes this is.
      process_count: How many processes share the global batch.
      on_error: ``"raise"`` or ``"skip"``.
      max_skipped: With ``"skip"``, the share of distinct bad examples that is tolerated.
      report: A JSONL file that gets one line per distinct bad example. One per process.

    Returns:
      An iterable with a length; ``dict`` of arrays [b, ...] with b = batch_size / process_count.

    Raises:
      ConfigError: for a value out of range.
      DeviceError: if the batch does not divide among the processes.
      DataError: for an empty source; while iterating, for too many bad examples.
    """
    _check(
        source,
        batch_size,
        0,
        process_index,
        process_count,
        workers,
        on_error,
        max_skipped,
    )
    most_bad = int(max_skipped * len(source))
    reader = Reader(source, make_transform(transform), 0, False, on_error, most_bad)
    rows = _local_rows(batch_size, process_index, process_count)
    count = -(-len(source) // batch_size)
    return EvalBatches(
        _EvalBatches(reader, batch_size, rows, count),
        workers,
        _BadExamples(report, most_bad, len(source)),
    )
