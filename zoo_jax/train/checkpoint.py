"""Checkpoints that are whole and proven, or set aside.

A step is one folder::

    20/state/         the leaves, written by orbax (``StandardSave`` of nested dictionaries)
    20/manifest.json  step, place in the data, meta, metrics; shape, dtype and CRC-32 per leaf
    20/SHA256SUMS     every file of the folder; see `zoo_jax.train.inventory`

It gets its name by a rename when all of it is on the disk, so a folder named by a number was complete
once. The sums show what happened to its files since; the CRC-32s, taken of the values in memory, what
happened to them before. (SHA-256 so that other tools can check the files; CRC-32 for the leaves because
it finds every flipped bit at several GB/s.)

orbax reads and writes the leaves through its `Checkpointer`. Its `CheckpointManager` is not used: it
lists, keeps and deletes folders by their names, and here that depends on what was proven.
"""

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from zoo_jax.core.errors import CheckpointError
from zoo_jax.core.files import PathLike
from zoo_jax.core.tree import named_leaves, nest
from zoo_jax.train import agreement, inventory, leaves
from zoo_jax.train.step_folders import MANIFEST, StepFolders

FORMAT = 1
_STATE = "state"
_log = logging.getLogger(__name__)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return "/orbax/" not in record.pathname and "OCDBT" not in str(error)


# It logs a dozen lines per save, and stacks of what also comes to us as an exception; asyncio
# adds the writes that it left when another one had failed.
logging.getLogger("absl").addFilter(_not_from_orbax)
logging.getLogger("asyncio").addFilter(_not_from_orbax)


class Restored(NamedTuple):
    """A verified checkpoint."""

    step: int
    state: Any
    iterator: dict[str, dict]  # stream -> its place in the data
    meta: dict[str, Any]


class Checkpointer:
    """Saves and restores the steps of one run.

    All processes of a run make one and call its methods together. The first one writes, from its
    own copy of the whole state; what is good is agreed on. They must see the same folder.
    """

    def __init__(
        self,
        directory: PathLike,
        *,
        keep_last: int = 2,
        best_metric: str | None = None,
        best_mode: Literal["max", "min"] = "max",
        keep_best: int = 1,
        asynchronous: bool = True,
    ):
        """Makes the folder and removes what an interrupted save left in it.

        Args:
          directory: Holds the step folders and nothing else.
          keep_last: How many of the newest steps stay. With 1 there is nothing to fall back on.
          best_metric: The metric by which steps are ranked, if any.
          best_mode: Whether a larger or a smaller value is better.
          keep_best: How many of the best steps stay beside the newest ones.
          asynchronous: Whether `save` returns before the files are written.

        Raises:
          CheckpointError: if the folder cannot be written.
          ValueError: for an option out of range.
        """
        if keep_last < 1 or keep_best < 0:
            raise ValueError(
                f"need keep_last >= 1 and keep_best >= 0, got {keep_last}, {keep_best}"
            )
        if best_mode not in ("max", "min"):
            raise ValueError(f"best_mode must be 'max' or 'min', got {best_mode!r}")
        self._folders = StepFolders(directory)
        self._best = {"metric": best_metric, "mode": best_mode}
        self._keep = {"keep_last": keep_last, "keep_best": keep_best, "by": self._best}
        self._asynchronous = asynchronous
        self._pending: tuple[int, concurrent.futures.Future | None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        error = None
        if jax.process_index() == 0:
            try:
                self._folders.prepare()
            except OSError as e:
                error = e
        if agreement.largest(int(error is not None)):
            why = error.strerror if error else "see the first process"
            raise CheckpointError(
                f"cannot write checkpoints to {self._folders}: {why}; choose another workdir"
            ) from error

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except CheckpointError as failed:
            if error is None:
                raise
            _log.warning("%s", failed)  # the error that ends the run is the one to show

    def save(
        self,
        step: int,
        state: Any,
        *,
        iterator: Mapping[str, Mapping],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a state; returns as soon as it is copied, so it may be donated at once.

        A step that is there already is replaced. Steps later than `step`, of a run that was taken
        up again from an older one, are set aside with a warning.

        Args:
          step: Names the checkpoint.
          state: Any pytree of arrays and typed keys.
          iterator: JSON-able place in each data stream; that of the first process is kept.
          meta: JSON-able facts of the run, such as its config.
          metrics: Measured at this step.

        Raises:
          CheckpointError: if an earlier save failed (or this one, unless asynchronous).
        """
        self.wait()
        step = int(step)
        named, empty = leaves.flatten(state)
        hosts = leaves.to_host(named)
        manifest = {
            "format": FORMAT,
            "step": step,
            "metrics": {k: float(v) for k, v in (metrics or {}).items()},
            "best": self._best,
            "iterator": {name: dict(place) for name, place in iterator.items()},
            "meta": dict(meta),
            "leaves": {name: leaves.describe(leaf) for name, leaf in named.items()},
            "empty": empty,
        }
        text = json.dumps(manifest)  # now, because its parts may change after we return
        job = None
        if jax.process_index() == 0:
            job = self._thread.submit(self._write, step, hosts, text)
        self._pending = (step, job)
        if not self._asynchronous:
            self.wait()

    def wait(self) -> None:
        """Waits for the files of the last save. Raises `CheckpointError` if it failed."""
        if self._pending is None:
            return
        (step, job), self._pending = self._pending, None
        error = job.exception() if job is not None else None
        if agreement.largest(int(error is not None)):
            why = _one_line(error) if error else "see the first process"
            try:
                good = self.latest_step()
                newest = "no step is there" if good is None else f"step {good} is there"
            except CheckpointError as unreadable:
                newest = str(unreadable)
            raise CheckpointError(
                f"could not save step {step} in {self._folders}: {why}; {newest}"
            ) from error

    def close(self) -> None:
        """Waits and ends the writing thread. Raises `CheckpointError` like `wait`."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """The complete steps in the folder, ascending; they are verified when restored."""
        return self._folders.complete()

    def latest_step(self) -> int | None:
        """The newest of `steps`."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the best value of `best_metric`, or None if none has one."""
        return next(iter(self._folders.ranked(self.steps(), self._best)), None)

    def restore(self, template: Any, *, step: int | None = None) -> Restored | None:
        """Restores the newest step that can be proven good.

        A damaged step is renamed to ``<step>.bad-<n>`` with one warning that names it and the file
        or leaf, and the next older one is tried.

        Args:
          template: The state as arrays, or as `jax.ShapeDtypeStruct` with shardings. The saved one
            may have been laid out otherwise over other devices.
          step: This one, with no fall back to another.

        Returns:
          None if the folder has no checkpoint at all.

        Raises:
          CheckpointError: if there are checkpoints but none is good, if a good one has other leaves
            than `template` or another format, or if `step` is not there.
        """
        self.wait()
        wanted = named_leaves(template)
        bad: list[str] = []
        tried: set[int] = set()
        while True:
            here = set(self._folders.all()) - tried
            if step is not None:
                here &= {step}
            candidate = agreement.first(max(here, default=-1))
            if candidate < 0:
                return self._nothing(step, bad)
            tried.add(candidate)
            found, damage, refusal = None, "another process found it so", None
            try:
                found = _read(self._folders[candidate], wanted)
            except inventory.Damage as e:
                damage = str(e)
            except CheckpointError as e:
                refusal = e
            verdict = agreement.largest(2 if refusal else int(found is None))
            if verdict == 2:
                raise refusal or CheckpointError(
                    f"another process cannot restore step {candidate}"
                )
            if verdict == 0:
                manifest, hosts = found
                state = leaves.place(hosts, manifest["leaves"], template)
                return _restored(manifest, state)
            bad.append(f"step {candidate} is damaged: {damage}")
            if jax.process_index() == 0:
                what = f"is damaged: {damage}"
                bad[-1] = self._folders.set_aside(candidate, "bad", what)
            agreement.largest(0)  # nobody lists the folder before that rename

    def _nothing(self, step: int | None, bad: list[str]) -> None:
        """No step was good: fine only if there never was one."""
        if bad:
            raise CheckpointError(
                f"no good checkpoint in {self._folders}: {'; '.join(bad)}"
            )
        if step is not None:
            steps = self._folders.all()
            raise CheckpointError(f"{self._folders} has no step {step}, only {steps}")
        aside = self._folders.aside()
        if agreement.first(len(aside)):
            raise CheckpointError(
                f"no good checkpoint in {self._folders}, only damaged ones"
                f" ({', '.join(aside)}): choose another workdir, or delete them to start anew"
            )

    def _write(self, step: int, hosts: dict[str, np.ndarray], manifest: str) -> None:
        try:
            filled = {name: host for name, host in hosts.items() if host.size}
            folder = self._folders.begin(step, sum(h.nbytes for h in filled.values()))
            with _no_word_of_closed_loops():
                _orbax().save(folder / _STATE, args=ocp.args.StandardSave(nest(filled)))
            content = json.loads(manifest)
            for name, host in hosts.items():
                content["leaves"][name]["crc32"] = leaves.crc32(host)
            (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")
            inventory.seal(folder)
            self._folders.commit(folder, step)
        except BaseException:
            self._folders.clear()
            raise
        try:
            self._folders.collect(**self._keep)
        except OSError as error:  # the new step is good all the same
            _log.warning("could not delete old checkpoints: %s", error)


def read_checkpoint(
    directory: PathLike, *, step: int | None = None, best: bool = False
) -> Restored:
    """Reads a checkpoint without knowing its structure, verified all the same.

    Changes nothing in the folder: a damaged step is passed over with a warning, not renamed.

    Args:
      directory: Holds the step folders.
      step: This one, with no fall back to another.
      best: The best by the metric that the run was told to rank by, instead of the newest.

    Returns:
      The state as nested dictionaries of NumPy arrays; typed keys are their uint32 data.

    Raises:
      CheckpointError: if there is no good one.
    """
    folders = StepFolders(directory)
    steps = folders.all()
    if not steps:
        raise CheckpointError(
            f"{folders} is no checkpoint folder: nothing in it is named by a step"
        )
    order = folders.ranked(steps) if best else steps[::-1]
    if step is not None:
        order = [s for s in steps if s == step]
    if not order and step is not None:
        raise CheckpointError(f"{folders} has no step {step}, only {steps}")
    if not order:
        raise CheckpointError(
            f"no step in {folders} says how good it is: read the newest one, or train with"
            " checkpoint.best_metric"
        )
    bad = []
    for candidate in order:
        try:
            manifest, hosts = _read(folders[candidate])
        except (inventory.Damage, CheckpointError) as e:
            if not folders[
                candidate
            ].exists():  # a running job made room for a newer one
                return read_checkpoint(directory, step=step, best=best)
            if isinstance(e, CheckpointError):
                raise
            bad.append(f"step {candidate} is damaged: {e}")
            _log.warning("%s: %s; passed over", folders, bad[-1])
            continue
        empty = {name: {} for name in manifest["empty"]}
        return _restored(manifest, nest({**hosts, **empty}))
    raise CheckpointError(f"no good checkpoint in {folders}: {'; '.join(bad)}")


def _restored(manifest: dict, state: Any) -> Restored:
    return Restored(manifest["step"], state, manifest["iterator"], manifest["meta"])


def _read(
    folder: pathlib.Path, wanted: Mapping[str, Any] | None = None
) -> tuple[dict, dict[str, np.ndarray]]:
    """The manifest and the verified leaves of a step.

    Raises:
      Damage: if a file or a leaf is not what was written.
      CheckpointError: if it is good but not what is `wanted`, or cannot be read.
    """
    where = repr(str(folder))
    if not any((folder / name).exists() for name in (MANIFEST, inventory.SUMS)):
        raise CheckpointError(
            f"{where} is no checkpoint of this project: it has no {MANIFEST}"
        )
    try:
        inventory.verify(folder)
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{where} has format {manifest['format']}, this version reads {FORMAT}"
            )
        if wanted is not None:
            need = {name: leaves.describe(leaf) for name, leaf in wanted.items()}
            leaves.require_same(manifest["leaves"], need, where)
        # The files are as they were written, so an error from here on does not condemn them.
        tree = _orbax().restore(folder / _STATE, args=ocp.args.StandardRestore())
    except (inventory.Damage, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(f"cannot read {where}: {_one_line(error)}") from error
    hosts = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    for name, described in manifest["leaves"].items():
        if not math.prod(described["shape"]):  # orbax stores no empty array
            hosts[name] = np.zeros(described["shape"], jnp.dtype(described["dtype"]))
    if hosts.keys() != manifest["leaves"].keys():
        wrong = min(hosts.keys() ^ manifest["leaves"].keys())
        raise inventory.Damage(
            f"leaf {wrong} is only in one of {_STATE} and {MANIFEST}"
        )
    for name, described in manifest["leaves"].items():
        if not leaves.matches(hosts[name], described):
            raise inventory.Damage(f"leaf {name} does not match its checksum")
    return manifest, {name: hosts[name] for name in manifest["leaves"]}


def _orbax() -> ocp.Checkpointer:
    """Works in this process alone: what several do is agreed on here, not in orbax."""
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _no_word_of_closed_loops() -> Iterator[None]:
    """When one write fails, orbax closes the event loop that the others will report to."""
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before  # not after an error: those reports are still to come


def _one_line(error: BaseException) -> str:
    """What an error says, without its class and its stack."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if found := re.search(r"os_error_code='(\d+)'", text):  # from tensorstore
        return os.strerror(int(found.group(1)))
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]


__all__ = ["Checkpointer", "Restored", "read_checkpoint"]
