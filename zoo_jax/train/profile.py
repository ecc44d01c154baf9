"""A window of steps under the profiler, and the progress of long work."""

import pathlib
import sys

import jax
from absl import logging
from tqdm.auto import tqdm


class Profiler:
    """Traces the steps [start, start + count) of a run into ``workdir/profile``."""

    def __init__(self, workdir: pathlib.Path, *, start: int, count: int):
        """Plans a window; `count` 0 plans none."""
        self._folder, self._start, self._stop = (
            workdir / "profile",
            start,
            start + count,
        )
        self._running = False

    def before(self, step: int) -> None:
        """Called before each step."""
        if self._start <= step < self._stop and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result) -> None:
        """Called after each step; waits for the last one of the window."""
        if self._running and step + 1 >= self._stop:
            jax.block_until_ready(result)
            self.close()
            self._stop = self._start

    def close(self) -> None:
        """Ends the trace if one is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            logging.info(
                "profile in %s: tensorboard --logdir %s", self._folder, self._folder
            )


def progress_bar(total: int, description: str, *, initial: int = 0) -> tqdm:
    """A bar with rate and time left, on a terminal; the log tells the same elsewhere.

    Silent on all processes but the first.
    """
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit="step",
        dynamic_ncols=True,
        disable=jax.process_index() != 0 or not sys.stderr.isatty(),
    )
