"""Where the numbers of a run go: JSONL, CSV, TensorBoard and the log, and the result page.

``metrics.jsonl`` and ``metrics.csv`` hold only what a repeated run gives again bit for bit;
speed and wall time go to ``perf.jsonl``.
"""

import contextlib
import csv
import io
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from zoo_jax.core.errors import StorageError
from zoo_jax.core.files import atomic_write, write_json

METRICS, TABLE, PERF, RESULT = (
    "metrics.jsonl",
    "metrics.csv",
    "perf.jsonl",
    "result.json",
)


class RunWriter:
    """Writes into one workdir. A resumed run first forgets what came after its checkpoint."""

    def __init__(
        self, workdir: pathlib.Path, *, start: int = 0, tensorboard: bool = True
    ):
        """Opens the files for appending.

        Args:
          workdir: An existing folder that this process owns.
          start: Entries of later steps are from a run that was cut off: they are removed.
          tensorboard: Whether to write event files too.
        """
        self._workdir = workdir
        self._result: dict[str, Any] = {"tables": [], "figures": []}
        for name in (METRICS, PERF):
            _keep(workdir / name, lambda line: json.loads(line)["step"] <= start)
        _keep(
            workdir / TABLE, lambda line: int(line.split(",", 1)[0]) <= start, header=1
        )
        self._metrics = (workdir / METRICS).open("a", encoding="utf-8")
        self._perf = (workdir / PERF).open("a", encoding="utf-8")
        self._table = (workdir / TABLE).open("a", encoding="utf-8", newline="")
        if self._table.tell() == 0:
            self._table.write("step,name,value\n")
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start + 1 if start else None
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers under a step. They survive a kill from here on."""
        values = {name: float(value) for name, value in values.items()}
        with self._writing():
            self._scalars(step, values)

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        _append(self._metrics, {"step": int(step), **values})
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        writer.writerows(
            (int(step), name, repr(value)) for name, value in values.items()
        )
        self._table.write(rows.getvalue())
        self._table.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()

    def perf(self, step: int, values: Mapping[str, float]) -> None:
        """Logs speed: numbers that differ from run to run."""
        with self._writing():
            _append(self._perf, {"step": int(step), **values})

    def table(
        self, name: str, rows: list[Mapping[str, Any]], *, caption: str = ""
    ) -> None:
        """Keeps a table for the report; a second one of the same name replaces the first."""
        rows = [dict(row) for row in rows]
        self._put("tables", {"name": name, "caption": caption, "rows": rows})

    def figure(self, name: str, figure: Any, *, caption: str = "") -> None:
        """Saves a matplotlib figure as ``figures/<name>.png``, keeps it for the report, closes it."""
        file = f"figures/{name}.png"
        with self._writing(), atomic_write(self._workdir / file, "wb") as f:
            figure.savefig(f, format="png", dpi=144, bbox_inches="tight")
        import matplotlib.pyplot as plt

        plt.close(figure)
        self._put("figures", {"name": name, "caption": caption, "file": file})

    def result(self, scalars: Mapping[str, float]) -> None:
        """Writes ``result.json``: these numbers with the tables and figures so far."""
        scalars = {name: float(value) for name, value in scalars.items()}
        with self._writing():
            write_json(self._workdir / RESULT, {"scalars": scalars, **self._result})

    def close(self) -> None:
        """Closes all files."""
        for file in (self._metrics, self._perf, self._table, self._events):
            if file is not None:
                # Every write was flushed: what is left in a buffer has been reported.
                with contextlib.suppress(OSError):
                    file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot write results to {str(self._workdir)!r}: {error.strerror}; free some"
                " space, then the same command goes on from the last checkpoint"
            ) from error

    def _put(self, kind: str, entry: dict[str, Any]) -> None:
        kept = [e for e in self._result[kind] if e["name"] != entry["name"]]
        self._result[kind] = [*kept, entry]


class SilentWriter:
    """Takes everything and writes nothing: all processes but the first have one."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Ignores numbers."""

    perf = scalars

    def table(
        self, name: str, rows: list[Mapping[str, Any]], *, caption: str = ""
    ) -> None:
        """Ignores a table."""

    def figure(self, name: str, figure: Any, *, caption: str = "") -> None:
        """Closes a figure."""
        import matplotlib.pyplot as plt

        plt.close(figure)

    def result(self, scalars: Mapping[str, float]) -> None:
        """Ignores the result."""

    def close(self) -> None:
        """Has nothing to close."""


def format_scalars(values: Mapping[str, float]) -> str:
    """``"loss 0.1234, accuracy 0.9876"``."""
    return ", ".join(
        f"{name} {value:.4g}" if math.isfinite(value) else f"{name} {value}"
        for name, value in values.items()
    )


def _append(file: Any, record: Mapping[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()


def _keep(path: pathlib.Path, wanted, header: int = 0) -> None:
    """Rewrites a file of lines without the unwanted ones and without a torn last line."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    kept = lines[:header] + [line for line in lines[header:] if wanted(line)]
    if "".join(kept) != text:
        with atomic_write(path) as f:
            f.writelines(kept)
