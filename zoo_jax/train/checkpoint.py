"""Checkpoints that are whole and proven, or set aside.

A step is one folder::

    20/state/         the leaves, written by orbax (``StandardSave`` of nested dictionaries)
    20/manifest.json  step, place in the data, meta, metrics; shape, dtype and CRC-32 per leaf
    20/SHA256SUMS     every file of the folder; see `zoo_jax.train.inventory`

It is written under ``.saving/`` and renamed when it is complete and on the disk, so a folder named
by a number was complete once. The sums show what happened to its files since; the CRC-32s, taken of
the values in memory, show what happened to them before. (SHA-256 so that other tools can check the
files; CRC-32 for the leaves because it finds every single flipped bit at several GB/s.)

`orbax.checkpoint.Checkpointer` does the reading and writing. The retention and listing of its
`CheckpointManager` are not used: they take every complete-looking folder for good, and what may be
deleted here depends on what was proven.
"""

import concurrent.futures
import json
import logging
import math
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from zoo_jax.core.errors import CheckpointError
from zoo_jax.core.files import PathLike
from zoo_jax.core.tree import named_leaves, nest
from zoo_jax.train import inventory
from zoo_jax.train.workdir import lock_workdir

FORMAT = 1
_MANIFEST = "manifest.json"
_STATE = "state"
_SAVING = ".saving"
_NAMES_SHOWN = 6

_log = logging.getLogger(__name__)


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "/orbax/" not in record.pathname


# A dozen lines per save that only its authors need; what fails comes to us as an exception.
logging.getLogger("absl").addFilter(_not_orbax_chatter)


class Restored(NamedTuple):
    """A verified checkpoint."""

    step: int
    state: Any
    iterator: dict[str, dict]  # stream -> its place in the data
    meta: dict[str, Any]


class Checkpointer:
    """Saves and restores the steps of one run.

    All processes of a run make one and call its methods together; the first one writes, and what
    is good is agreed on. They must see the same folder, and each needs room for the whole state in
    host memory.
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
        self._directory = pathlib.Path(directory).absolute()
        self._saving = self._directory / _SAVING
        self._keep_last, self._keep_best = keep_last, keep_best if best_metric else 0
        self._best = {"metric": best_metric, "mode": best_mode}
        self._asynchronous = asynchronous
        self._pending: tuple[int, concurrent.futures.Future | None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        error = None
        if jax.process_index() == 0:
            try:
                self._clean()
            except OSError as e:
                error = e
        if _worst(int(error is not None)):
            raise CheckpointError(
                f"cannot write checkpoints to {str(self._directory)!r}:"
                f" {error.strerror if error else 'see process 0'}; choose another workdir"
            ) from error

    def _clean(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._saving.mkdir(exist_ok=True)  # also the proof that we may write here
        for old in self._saving.glob("*.replaced"):
            # Killed between the two renames that replace a step: the old one is still good.
            if not (step := self._directory / old.stem).exists():
                old.rename(step)
        shutil.rmtree(self._saving)

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

        A step that is there already is replaced. Steps later than `step`, left by a run that was
        taken up again from an older one, are set aside.

        Args:
          step: Names the checkpoint.
          state: Any pytree of arrays and typed keys.
          iterator: JSON-able place of each data stream; that of the first process is kept.
          meta: JSON-able facts of the run, such as its config.
          metrics: Measured at this step.

        Raises:
          CheckpointError: if this save (or, when asynchronous, an earlier one) failed.
        """
        self.wait()
        named, empty = _flatten(state)
        for leaf in named.values():
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        hosts = {name: _to_host(leaf) for name, leaf in named.items()}
        header = {
            "format": FORMAT,
            "step": int(step),
            "metrics": {k: float(v) for k, v in (metrics or {}).items()},
            "best": self._best,
            "iterator": {name: dict(place) for name, place in iterator.items()},
            "meta": dict(meta),
            "leaves": {name: _describe(leaf) for name, leaf in named.items()},
            "empty": empty,
        }
        text = json.dumps(header)  # now, because its parts may change after we return
        job = None
        if jax.process_index() == 0:
            job = self._thread.submit(self._write, int(step), hosts, text)
        self._pending = (int(step), job)
        if not self._asynchronous:
            self.wait()

    def wait(self) -> None:
        """Waits for the files of the last save. Raises `CheckpointError` if it failed."""
        if self._pending is None:
            return
        (step, job), self._pending = self._pending, None
        error = job.exception() if job is not None else None
        if _worst(int(error is not None)):
            good = self.latest_step()
            raise CheckpointError(
                f"could not save step {step} in {str(self._directory)!r}:"
                f" {_one_line(error) if error else 'see process 0'};"
                + (
                    f" step {good} is still good"
                    if good is not None
                    else " none is there"
                )
            ) from error

    def close(self) -> None:
        """Waits and ends the writing thread. Raises `CheckpointError` like `wait`."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """The complete steps in the folder, ascending; they are verified when restored."""
        return [
            s for s in _listing(self._directory) if _sealed(self._directory / str(s))
        ]

    def latest_step(self) -> int | None:
        """The newest of `steps`."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the best value of `best_metric`, or None if none has one."""
        return next(iter(_ranked(self._directory, self.steps(), self._best)), None)

    def restore(self, template: Any, *, step: int | None = None) -> Restored | None:
        """Restores the newest step that can be proven good.

        A damaged step is renamed to ``<step>.bad-<n>`` with one warning that names it and the file
        or leaf, and the next older one is tried.

        Args:
          template: The state as arrays, or `jax.ShapeDtypeStruct` with shardings. It need not be laid
            out over devices as the saved one was.
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
            here = [s for s in _listing(self._directory) if s not in tried]
            if step is not None:
                here = [s for s in here if s == step]
            candidate = _from_first(max(here, default=-1))
            if candidate < 0:
                break
            tried.add(candidate)
            found, damage, refusal = None, "another process found it so", None
            try:
                found = _read(self._directory / str(candidate), wanted)
            except inventory.Damage as e:
                damage = str(e)
            except CheckpointError as e:
                refusal = e
            verdict = _worst(2 if refusal else int(found is None))
            if verdict == 2:
                raise refusal or CheckpointError(
                    f"another process cannot restore step {candidate}"
                )
            if verdict == 0:
                manifest, hosts = found
                return _restored(manifest, _place(hosts, manifest, template))
            bad.append(self._set_aside(candidate, "bad", f"is damaged: {damage}"))
        return self._nothing(step, bad)

    def _nothing(self, step: int | None, bad: list[str]) -> None:
        """No step was good: fine only if there never was one."""
        where = repr(str(self._directory))
        if bad:
            raise CheckpointError(f"no good checkpoint in {where}: " + "; ".join(bad))
        if step is not None:
            raise CheckpointError(
                f"{where} has no step {step}, only {_listing(self._directory)}"
            )
        aside = sorted(p.name for p in self._directory.glob("*.bad-*"))
        if _worst(len(aside)):
            raise CheckpointError(
                f"no good checkpoint in {where}, only damaged ones ({', '.join(aside)}):"
                " choose another workdir, or delete them to start from scratch"
            )

    def _set_aside(self, step: int, why: str, what: str) -> str:
        """Renames a step out of the way; warns, and returns the warning."""
        message = f"checkpoint step {step} in {str(self._directory)!r} {what}"
        if jax.process_index() == 0:
            taken = (self._directory / f"{step}.{why}-{n}" for n in range(1, 10**6))
            target = next(path for path in taken if not path.exists())
            try:
                (self._directory / str(step)).rename(target)
                message += f"; set aside as {target.name}"
            except OSError as error:
                message += f"; could not be renamed ({error.strerror}), left in place"
            _log.warning("%s", message)
        _worst(0)  # nobody lists the folder before it is renamed
        return message

    def _write(self, step: int, hosts: dict[str, np.ndarray], header: str) -> None:
        try:
            self._commit(step, hosts, json.loads(header))
        except BaseException:
            shutil.rmtree(self._saving, ignore_errors=True)  # give the space back
            raise
        try:
            self._collect()
            shutil.rmtree(self._saving)
        except OSError as error:  # the step is good all the same
            _log.warning("could not delete old checkpoints: %s", error)

    def _commit(self, step: int, hosts: dict[str, np.ndarray], manifest: dict) -> None:
        folder = self._saving / str(step)
        folder.mkdir(parents=True)
        filled = {name: host for name, host in hosts.items() if host.size}
        _orbax().save(folder / _STATE, args=ocp.args.StandardSave(nest(filled)))
        for name, host in hosts.items():
            manifest["leaves"][name]["crc32"] = _crc32(host)
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        inventory.seal(folder)
        for later in _listing(self._directory):
            if later > step:
                self._set_aside(later, "stale", f"is later than step {step}, saved now")
        final = self._directory / str(step)
        if final.exists():
            final.rename(self._saving / f"{step}.replaced")
        folder.rename(final)
        inventory.sync_folder(self._directory)

    def _collect(self) -> None:
        """Deletes all but the newest and the best steps."""
        steps = self.steps()
        best = _ranked(self._directory, steps, self._best)[: self._keep_best]
        for step in set(steps[: -self._keep_last]) - set(best):
            # Renamed first: a kill while files go must not leave a step that looks damaged.
            (self._directory / str(step)).rename(self._saving / f"{step}.deleted")


def read_checkpoint(
    directory: PathLike, *, step: int | None = None, best: bool = False
) -> Restored:
    """Reads a checkpoint without knowing its structure, verified all the same.

    Changes nothing in the folder: a damaged step is passed over with a warning, not renamed.

    Args:
      directory: Holds the step folders.
      step: This one, with no fall back to another.
      best: Prefer the best by the metric that the run was told to keep, not the newest.

    Returns:
      The state as nested dictionaries of NumPy arrays; typed keys are their uint32 data.

    Raises:
      CheckpointError: if there is no good one.
    """
    directory = pathlib.Path(directory).absolute()
    steps = _listing(directory)
    if not steps:
        raise CheckpointError(
            f"{str(directory)!r} is no checkpoint folder: it has no folder named by a step"
        )
    order = steps[::-1]
    if step is not None:
        if step not in steps:
            raise CheckpointError(
                f"{str(directory)!r} has no step {step}, only {steps}"
            )
        order = [step]
    elif best:
        order = _ranked(directory, steps)
        if not order:
            raise CheckpointError(
                f"no step in {str(directory)!r} says how good it is: read the newest one, or"
                " set checkpoint.best_metric when training"
            )
    bad = []
    for candidate in order:
        try:
            manifest, hosts = _read(directory / str(candidate))
        except inventory.Damage as e:
            bad.append(f"step {candidate} is damaged: {e}")
            _log.warning("%s: %s; passed over", directory, bad[-1])
            continue
        empty = {name: {} for name in manifest["empty"]}
        return _restored(manifest, nest({**hosts, **empty}))
    raise CheckpointError(
        f"no good checkpoint in {str(directory)!r}: " + "; ".join(bad)
    )


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
    if not _sealed(folder) and not (folder / _MANIFEST).exists():
        raise CheckpointError(
            f"{where} was not written by this project, or has lost all"
        )
    try:
        inventory.verify(folder)
        manifest = json.loads((folder / _MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{where} has format {manifest['format']}, this version reads {FORMAT}"
            )
        described = manifest["leaves"]
        if wanted is not None:
            _require_same(
                described, {n: _describe(v) for n, v in wanted.items()}, where
            )
        # The files are as they were written, so what fails from here on says nothing about them.
        tree = _orbax().restore(folder / _STATE, args=ocp.args.StandardRestore())
    except (inventory.Damage, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(f"cannot read {where}: {_one_line(error)}") from error
    hosts = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    out = {}
    for name, leaf in described.items():
        shape, dtype = tuple(leaf["shape"]), leaf["dtype"]
        host = hosts.pop(name, None)
        if host is None and not math.prod(shape):
            host = np.zeros(
                shape, jax.numpy.dtype(dtype)
            )  # orbax stores no empty array
        if host is None:
            raise inventory.Damage(f"leaf {name} is missing")
        if "key" in leaf:
            shape, dtype = host.shape, "uint32"
        if host.shape != shape or str(host.dtype) != dtype:
            raise inventory.Damage(
                f"leaf {name} is {host.dtype}{host.shape}, not {dtype}{shape}"
            )
        if _crc32(host) != leaf["crc32"]:
            raise inventory.Damage(f"leaf {name} does not match its checksum")
        out[name] = host
    if hosts:
        raise inventory.Damage(f"leaf {min(hosts)} is not in {_MANIFEST}")
    return manifest, out


def _require_same(saved: Mapping, wanted: Mapping, where: str) -> None:
    """Raises `CheckpointError` that names the leaves by which two states differ."""
    shape = {n: f"{d['dtype']}{tuple(d['shape'])}" for n, d in saved.items()}
    need = {n: f"{d['dtype']}{tuple(d['shape'])}" for n, d in wanted.items()}
    parts = []
    if missing := sorted(need.keys() - shape.keys()):
        parts.append(f"it lacks {_some(missing)}")
    if extra := sorted(shape.keys() - need.keys()):
        parts.append(f"it also has {_some(extra)}")
    if other := [n for n in need if n in shape and shape[n] != need[n]]:
        parts.append(_some([f"{n} is {shape[n]}, not {need[n]}" for n in other]))
    if parts:
        raise CheckpointError(
            f"{where} belongs to another model or optimiser: {'; '.join(parts)};"
            " use the config that it was made with, or another workdir"
        )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _flatten(state: Any) -> tuple[dict[str, Any], list[str]]:
    """Leaves by name, and the names of the places that hold none."""

    def is_empty(node: Any) -> bool:
        tree = jax.tree.structure(node)
        return tree.num_leaves == 0 and tree.num_nodes == 1

    every = named_leaves(state, is_leaf=is_empty)
    leaves = {name: leaf for name, leaf in every.items() if not is_empty(leaf)}
    return leaves, [name for name in every if name not in leaves]


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> dict[str, Any]:
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    out = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        out["key"] = str(jax.random.key_impl(leaf))
    return out


def _to_host(leaf: Any) -> np.ndarray:
    """A copy of the whole leaf that shares no memory with the device."""
    if isinstance(leaf, jax.Array):
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    # On CPU np.asarray would be a view of the buffer that the next step is given to overwrite.
    return np.array(leaf)


def _place(hosts: dict[str, np.ndarray], manifest: dict, template: Any) -> Any:
    """The leaves as arrays with the structure and the shardings of a template."""
    leaves = []
    for name, like in named_leaves(template).items():
        host, sharding = hosts[name], getattr(like, "sharding", None)
        if sharding is None:
            leaf = jax.device_put(host)
        else:
            leaf = jax.make_array_from_callback(
                host.shape, sharding, lambda index, host=host: host[index]
            )
        if impl := manifest["leaves"][name].get("key"):
            leaf = jax.random.wrap_key_data(leaf, impl=impl)
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _crc32(host: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(host).reshape(-1).view(np.uint8))


def _orbax() -> ocp.Checkpointer:
    """Works in this process alone: what several do is agreed on here, not in orbax."""
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _sealed(folder: pathlib.Path) -> bool:
    return (folder / inventory.SUMS).exists()


def _listing(directory: pathlib.Path) -> list[int]:
    """Folders named by a number, ascending."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise CheckpointError(
            f"cannot read checkpoint folder {str(directory)!r}: {error.strerror}"
        ) from error
    numbers = (int(n) for n in names if re.fullmatch(r"0|[1-9][0-9]*", n))
    return sorted(n for n in numbers if (directory / str(n)).is_dir())


def _ranked(
    directory: pathlib.Path, steps: Iterable[int], by: Mapping | None = None
) -> list[int]:
    """Steps with a finite value of the metric, best first, newer first among equals."""
    manifests = {}
    for step in sorted(steps, reverse=True):
        try:
            text = (directory / str(step) / _MANIFEST).read_text()
            manifest = json.loads(text)
            by = by or (manifest["best"] if manifest["best"]["metric"] else None)
            manifests[step] = manifest["metrics"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged; said when it is restored
    if not by:
        return []
    values = {s: m[by["metric"]] for s, m in manifests.items() if by["metric"] in m}
    finite = [s for s, v in values.items() if math.isfinite(v)]
    sign = -1 if by["mode"] == "max" else 1
    return sorted(finite, key=lambda s: (sign * values[s], -s))


def _one_line(error: BaseException) -> str:
    """What an error says, without its class and its stack."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if found := re.search(r"OS error \d+: \w+ ([^\]]+)\]", text):  # from tensorstore
        return found.group(1)
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]


def _worst(verdict: int) -> int:
    """The largest of what the processes say; all of them wait here for each other."""
    if jax.process_count() == 1:
        return verdict
    return int(multihost_utils.process_allgather(np.int32(verdict)).max())


def _from_first(value: int) -> int:
    """What the first process says."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


__all__ = ["Checkpointer", "Restored", "lock_workdir", "read_checkpoint"]
