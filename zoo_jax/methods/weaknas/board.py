"""Shows how a search goes: a live table on a terminal, plain lines in a log."""

import shutil
import statistics
import sys
import time
from typing import TextIO

from zoo_jax.methods.weaknas.trials import Journal, Trial, TrialSearch

_REFRESH_S = 0.5


class Board:
    """A `zoo_jax.methods.weaknas.trials.Watcher` that prints.

    Attempts that have ended are printed for good. Below them, on a terminal only, stand those
    that run and a line of what there is so far, drawn anew as time passes.
    """

    def __init__(
        self, search: TrialSearch, journal: Journal, stream: TextIO | None = None
    ):
        """Prints the header of the table.

        Args:
          search: Which is shown.
          journal: Of its folder.
          stream: Where to; default: standard output.
        """
        self._search, self._journal = search, journal
        self._stream = sys.stdout if stream is None else stream
        self._live = self._stream.isatty()
        self._drawn = 0  # lines that will be drawn anew
        self._next = 0.0
        self._width = max(5, len(str(search.budget - 1)))
        self._print(
            f"{'trial':>{self._width}}  {'state':7}  {'value':>10}  {'seconds':>8}"
            "  architecture"
        )

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def began(self, trials: list[Trial]) -> None:
        """Says in a log where the search stands; on a terminal that is always seen."""
        if not self._live:
            self._print(f"# {self.summary()}")

    def ended(self, trial: Trial) -> None:
        """Prints a line of the table."""
        self._print(self._row(trial, trial.state, trial.value, trial.seconds))

    def tick(self, running: list[tuple[Trial, float]]) -> None:
        """Draws what runs, twice a second."""
        if self._live and time.monotonic() >= self._next:
            rows = [self._row(trial, "running", None, s) for trial, s in running]
            self._draw([*rows, self.summary()])

    def fitting(self) -> None:
        """The searcher may take seconds to compile."""
        if self._live:
            self._draw([f"{self.summary()}; fitting the predictor"])

    def close(self) -> None:
        """Takes the live part away."""
        if self._live:
            self._draw([])

    def summary(self) -> str:
        """Trials so far, the best of them, and how long the rest may take."""
        trials = [trial for trial in self._journal.trials if trial.settled]
        failed = sum(trial.state == "failed" for trial in trials)
        text = f"{len(trials)} of {self._search.budget} trials"
        if failed:
            text += f", {failed} failed"
        best = self._search.best(self._journal)
        if best is not None:
            text += f"; best {best.value:.6g} (trial {best.number})"
        if left := self._search.budget - len(trials):
            text += f"; {self._remaining(trials, left)}"
        return text

    def _remaining(self, trials: list[Trial], left: int) -> str:
        if not trials:
            return "no trial has ended yet"
        at_once = min(self._search.parallel, self._search.batch)
        seconds = statistics.fmean(t.seconds for t in trials) * left / at_once
        for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
            if seconds >= 2 * size:
                return f"about {seconds / size:.0f} {unit} left"
        return f"about {seconds:.0f} s left"

    def _row(
        self, trial: Trial, state: str, value: float | None, seconds: float
    ) -> str:
        shown = "-" if value is None else f"{value:.6g}"
        reason = f" ({trial.reason})" if state in ("failed", "retry") else ""
        return (
            f"{trial.number:>{self._width}}  {state:7}  {shown:>10}  {seconds:>8.1f}"
            f"  {self._search.pool.describe(trial.index)}{reason}"
        )

    def _print(self, line: str) -> None:
        if self._live:
            self._draw([])
        print(line, file=self._stream, flush=True)

    def _draw(self, lines: list[str]) -> None:
        """Replaces the live part. Its lines are cut: a wrapped one could not be taken back."""
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        columns = shutil.get_terminal_size().columns - 1
        body = "".join(f"{line[:columns]}\n" for line in lines)
        self._stream.write(f"{up}\x1b[J{body}")
        self._stream.flush()
        self._drawn = len(lines)
        self._next = time.monotonic() + _REFRESH_S if lines else 0.0
