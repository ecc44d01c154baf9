"""The folder of step folders: which there are, which come first, which make room.

A step is a folder named by its number. It is prepared under ``.saving/`` and renamed when it is
complete, so that a kill at any moment leaves whole steps and ``.saving/``, which the next run clears.
A step that must not be used any more is renamed too (``20.bad-1``), never deleted.
"""

import errno
import json
import logging
import math
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import Any

from zoo_jax.core.errors import CheckpointError
from zoo_jax.core.files import PathLike
from zoo_jax.train import inventory

MANIFEST = "manifest.json"
_SAVING = ".saving"
_log = logging.getLogger(__name__)


class StepFolders:
    """The steps of one run on disk. One process writes, any number read."""

    def __init__(self, directory: PathLike):
        self.path = pathlib.Path(directory).absolute()
        self._saving = self.path / _SAVING

    def __str__(self) -> str:
        return repr(str(self.path))

    def __getitem__(self, step: int) -> pathlib.Path:
        return self.path / str(step)

    def all(self) -> list[int]:
        """Every folder named by a number, ascending.

        Raises:
          CheckpointError: if the folder cannot be read.
        """
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise CheckpointError(
                f"cannot read checkpoint folder {self}: {error.strerror}"
            ) from error
        numbers = (int(n) for n in names if re.fullmatch(r"0|[1-9][0-9]*", n))
        return sorted(n for n in numbers if self[n].is_dir())

    def complete(self) -> list[int]:
        """Those of `all` that have their checksums (which are not compared)."""
        return [step for step in self.all() if (self[step] / inventory.SUMS).exists()]

    def ranked(self, steps: Iterable[int], by: Mapping[str, Any] | None = None) -> list:
        """Steps with a finite value of a metric: best first, newer first among equals.

        Args:
          steps: From these.
          by: ``{"metric": name or None, "mode": "max" or "min"}``; by default what the newest step
            was saved with.
        """
        values: dict[int, float] = {}
        for step in sorted(steps, reverse=True):
            try:
                manifest = json.loads((self[step] / MANIFEST).read_text())
                by = by or manifest["best"]
                if by["metric"] in manifest["metrics"]:
                    values[step] = float(manifest["metrics"][by["metric"]])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged: that is said when it is restored
        sign = -1 if by and by["mode"] == "max" else 1
        finite = [step for step, value in values.items() if math.isfinite(value)]
        return sorted(finite, key=lambda step: (sign * values[step], -step))

    def aside(self) -> list[str]:
        """Names of the damaged steps that were set aside."""
        return sorted(path.name for path in self.path.glob("*.bad-*"))

    def prepare(self) -> None:
        """Makes the folder and clears what a killed run left. Raises `OSError`."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._saving.mkdir(exist_ok=True)  # also the proof that we may write here
        for old in self._saving.glob("*.replaced"):
            # Killed between the two renames that replace a step: the old one is still good.
            if not (step := self.path / old.stem).exists():
                old.rename(step)
        self.clear()

    def begin(self, step: int, size: int) -> pathlib.Path:
        """An empty folder to write a step of so many bytes in.

        Raises:
          OSError: if it cannot be made, or there is too little space. (Compression may have made
            it fit, but a disk that is nearly full will not do for long.)
        """
        self._saving.mkdir(exist_ok=True)
        # A new name each time: writes of a save that failed may still be under way.
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{step}.", dir=self._saving))
        free = shutil.disk_usage(folder).free
        if free < size:
            why = (
                f"{os.strerror(errno.ENOSPC)}: needs {size:,} bytes, {free:,} are free"
            )
            raise OSError(errno.ENOSPC, why)
        return folder

    def clear(self) -> None:
        """Deletes what `begin` and `collect` left. What resists is for the next time."""
        for _ in range(20):  # writes that were under way make files as we delete
            shutil.rmtree(self._saving, ignore_errors=True)
            if not self._saving.exists():
                return
            time.sleep(0.05)

    def commit(self, folder: pathlib.Path, step: int) -> None:
        """Makes a sealed folder from `begin` a step.

        It replaces a step of that number. Later ones, of a run that was taken up again from an
        older step, would otherwise be the ones to resume from: they are set aside.

        Raises:
          OSError: if a rename fails; the steps that were there are still there.
        """
        for later in self.all():
            if later > step:
                self.set_aside(later, "stale", f"is later than step {step}, saved now")
        folder.chmod(self.path.stat().st_mode)  # mkdtemp makes private folders
        old = self._saving / f"{step}.replaced"
        if self[step].exists():
            self[step].rename(old)
        try:
            folder.rename(self[step])
        except OSError:
            if old.exists():
                old.rename(self[step])
            raise
        inventory.sync_folder(self.path)

    def set_aside(self, step: int, why: str, what: str) -> str:
        """Renames a step out of the way; warns, and returns the warning."""
        taken = (self.path / f"{step}.{why}-{n}" for n in range(1, 10**6))
        target = next(path for path in taken if not path.exists())
        message = f"checkpoint step {step} in {self} {what}"
        try:
            self[step].rename(target)
            message += f"; set aside as {target.name}"
        except OSError as error:
            message += f"; left in place, as it cannot be renamed ({error.strerror})"
        _log.warning("%s", message)
        return message

    def collect(
        self, *, keep_last: int, keep_best: int, by: Mapping[str, Any] | None
    ) -> None:
        """Deletes all complete steps but the newest and the best. Raises `OSError`."""
        steps = self.complete()
        best = self.ranked(steps, by)[:keep_best]
        self._saving.mkdir(exist_ok=True)
        for step in set(steps[:-keep_last]) - set(best):
            # Renamed first: a kill while files go must not leave a step that looks damaged.
            self[step].rename(tempfile.mkdtemp(prefix=f"{step}.", dir=self._saving))
        self.clear()
