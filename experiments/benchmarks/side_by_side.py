"""Times of ours and theirs, taken in turn in one process, and the table of them."""

import contextlib
import csv
import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from zoo_jax.core.files import atomic_write, write_json


class Setting(NamedTuple):
    """How much is measured."""

    rounds: int
    cores: int
    tiny: bool = False  # sizes that measure nothing, for tests


@dataclasses.dataclass(frozen=True)
class Measured:
    """Median, least and largest of several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        """From the value of each round."""
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison."""

    what: str
    unit: str
    ours: Measured
    other: str = ""  # what a user would run instead
    theirs: Measured | None = None
    limit: float | None = None
    limit_is: str = ""
    remark: str = ""

    def cells(self) -> dict[str, Any]:
        """Columns of the file; None for what was not measured."""
        theirs = self.theirs
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": self.ours.median,
            "ours_min": self.ours.least,
            "ours_max": self.ours.most,
            "other": self.other,
            "theirs": theirs.median if theirs else None,
            "theirs_min": theirs.least if theirs else None,
            "theirs_max": theirs.most if theirs else None,
            "ratio": self.ours.median / theirs.median if theirs else None,
            "limit": self.limit,
            "limit_is": self.limit_is,
            "remark": self.remark,
        }


def in_turn(
    functions: Mapping[str, Callable[[int], Any]], rounds: int
) -> dict[str, tuple[Measured, list[Any]]]:
    """Runs each function once per round, one after the other.

    Args:
      functions: Name -> function of the number of the round; it returns when all is done.
      rounds: How often.

    Returns:
      Name -> seconds, and what the function returned in each round.
    """
    seconds = {name: [] for name in functions}
    results = {name: [] for name in functions}
    for number in range(rounds):
        for name, function in functions.items():
            before = time.perf_counter()
            results[name].append(function(number))
            seconds[name].append(time.perf_counter() - before)
    for name, values in seconds.items():
        logging.info("%s: %s s", name, ", ".join(f"{v:.4g}" for v in values))
    return {name: (Measured.of(seconds[name]), results[name]) for name in functions}


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keeps this process, and the thread pools of numpy and scikit-learn, on so many cores.

    Enter it before the first use of a jax device.
    """
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(count):
        yield


def gemm_rate(size: int = 1024) -> float:
    """Multiply-adds per second of a float32 matrix product, the best of five."""
    a = np.random.default_rng(0).random((size, size), np.float32)
    times = in_turn({"matrix product": lambda _: a @ a}, 5)
    return size**3 / times["matrix product"][0].least


def publish(
    rows: Sequence[Row],
    *,
    json: str | None = None,
    csv_file: str | None = None,
    **setting: Any,
) -> None:
    """Prints the rows and writes them, each with the hardware, the revision and `setting`."""
    show(rows)
    # Here, because a jax device must not be used before `on_cores`.
    from zoo_jax.train.mesh import make_mesh
    from zoo_jax.train.run import run_facts

    facts = run_facts(make_mesh(1))
    about = {key: facts[key] for key in ("hardware", "revision")}
    store(rows, about | setting, json=json, csv_file=csv_file)


def show(rows: Sequence[Row]) -> None:
    """Prints the table."""
    head = ("what", "ours", "instead", "theirs", "ratio", "limit", "remark")
    table = [head]
    for row in rows:
        cells = row.cells()
        limit = f"{_number(row.limit, row.unit)} ({row.limit_is})" if row.limit else ""
        table.append(
            (
                row.what,
                _number(row.ours.median, row.unit),
                row.other,
                _number(cells["theirs"], row.unit),
                "" if cells["ratio"] is None else f"{cells['ratio']:.3g}",
                limit,
                row.remark,
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = (1, 3, 4)
    for cells in table:
        line = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(line).rstrip())


def store(
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    *,
    json: str | None = None,
    csv_file: str | None = None,
) -> None:
    """Writes the rows, each with `facts`, in the place of what the files held."""
    table = [row.cells() | dict(facts) for row in rows]
    if json:
        write_json(json, table)
    if csv_file:
        pathlib.Path(csv_file).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(csv_file) as f:
            writer = csv.DictWriter(f, fieldnames=list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
                for row in table
            )


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
