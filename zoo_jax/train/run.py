"""A workdir and what stands in it: the config, the facts of the run, results, checkpoints.

The files: ``config.json`` (the resolved config), ``run.json`` (command, revision, versions,
hardware, whether it has finished), ``metrics.jsonl`` and ``metrics.csv``, ``perf.jsonl``,
``tensorboard/``, ``checkpoints/``, and of procedures ``result.json`` and ``figures/``.
"""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh
from tqdm import tqdm

from zoo_jax.core import rng
from zoo_jax.core.config import differences, to_dict
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.files import read_json, write_json
from zoo_jax.core.types import Variables
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.task import Task, TrainState
from zoo_jax.train.checkpoint import read_checkpoint
from zoo_jax.train.loop import CHECKPOINTS, fit
from zoo_jax.train.profile import progress_bar
from zoo_jax.train.workdir import lock_workdir
from zoo_jax.train.writers import RunWriter, SilentWriter

CONFIG, FACTS = "config.json", "run.json"
PACKAGES = (
    *("zoo-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("grain", "tensorflow-datasets"),
)


class Run:
    """One run in one workdir; what a procedure gets as its context."""

    def __init__(
        self,
        workdir: pathlib.Path,
        config: ml_collections.ConfigDict,
        mesh: Mesh,
        load: Callable[[str], Variables] | None = None,
    ):
        """Use `open_run`, which also locks the folder and checks its config."""
        self.workdir, self.config, self.mesh = workdir, config, mesh
        self._load = load or workdir_variables
        self.key = rng.make_key(config.get("seed", 0))
        self.facts = run_facts(mesh)
        self.primary = jax.process_index() == 0
        self._started = time.time()
        self._writer: RunWriter | SilentWriter | None = None

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """For procedures: starts with empty files, since they run whole or not at all."""
        if self._writer is None:
            self._writer = (
                RunWriter(self.workdir, start=-1, tensorboard=False)
                if self.primary
                else SilentWriter()
            )
        return self._writer

    def load_source(self, spec: Mapping[str, Any]) -> Any:
        """Opens a data source; loader options in the section are ignored."""
        return open_source(split_spec(spec)[0])

    def load_variables(self, path: str) -> Variables:
        """The newest good checkpoint of a workdir, with averaged parameters if it keeps them.

        Or whatever else the `load` of `open_run` reads.
        """
        return self._load(path)

    def fit(
        self,
        name: str,
        task: Task,
        config: ml_collections.ConfigDict,
        variables: Variables | None = None,
    ) -> Variables:
        """Trains in ``workdir/name`` with the common loop; resumes there."""
        workdir = self.workdir / name
        if self.primary:
            workdir.mkdir(parents=True, exist_ok=True)
            check_config(workdir, config)
        _barrier(f"fit {name}")
        state = fit(
            task,
            config,
            workdir=workdir,
            mesh=self.mesh,
            variables=variables,
            facts=self.facts,
        )
        return state.variables()

    def train(
        self, task: Task, variables: Variables | None = None, *, profile: bool = False
    ) -> TrainState:
        """Trains in the workdir itself."""
        return fit(
            task,
            self.config,
            workdir=self.workdir,
            mesh=self.mesh,
            variables=variables,
            facts=self.facts,
            profile=profile,
        )

    def progress(self, total: int, description: str) -> tqdm:
        """A progress bar with ``update(n=1)``, usable as a context manager."""
        return progress_bar(total, description)

    @property
    def finished(self) -> bool:
        """Whether an earlier process brought this run to its end."""
        path = self.workdir / FACTS
        return path.exists() and bool(read_json(path).get("finished"))

    def record(self, *, finished: bool) -> None:
        """Writes ``run.json``. Wall time adds up over restarts."""
        if not self.primary:
            return
        path = self.workdir / FACTS
        before = read_json(path) if path.exists() else {}
        started = before.get("started") or _now()
        spent = before.get("wall_s", 0.0) + time.time() - self._started
        self._started = time.time()
        write_json(
            path,
            {
                **self.facts,
                "command": ["python", *sys.orig_argv[1:]],
                "started": started,
                "ended": _now(),
                "wall_s": round(spent, 3),
                "finished": finished,
            },
        )

    def close(self) -> None:
        """Closes the files of the writer."""
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def open_run(
    workdir: str | os.PathLike[str],
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    *,
    allow_config_change: bool = False,
    load: Callable[[str], Variables] | None = None,
) -> Iterator[Run]:
    """Takes a workdir for this process until the block ends.

    Args:
      workdir: Made if missing.
      config: Resolved and locked.
      mesh: The devices.
      allow_config_change: Goes on although the workdir was started with another config.
      load: How `Run.load_variables` reads trained networks; from workdirs by default.

    Raises:
      ConfigError: if the workdir's config differs; the keys are named.
      CheckpointError: if the folder cannot be written or another process has it.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(lock_workdir(workdir))
            check_config(workdir, config, allow_change=allow_config_change)
        _barrier("open the workdir")
        run = Run(workdir, config, mesh, load)
        stack.callback(run.close)
        yield run


def check_config(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    *,
    allow_change: bool = False,
) -> None:
    """Writes the config into a new workdir; compares it with that of an old one.

    Raises:
      ConfigError: if they differ and `allow_change` is not given.
    """
    path = workdir / CONFIG
    if path.exists():
        try:
            changed = differences(config, read_json(path))
        except ValueError as error:
            raise ConfigError(
                f"{path} is damaged ({error}): restore or delete it"
            ) from None
        if changed and not allow_change:
            raise ConfigError(
                f"{workdir} was started with another config: {'; '.join(changed)}: take"
                " another --workdir, or pass --allow_config_change to go on with the new one"
            )
        if not changed:
            return
    write_json(path, to_dict(config))


def workdir_variables(path: str | os.PathLike[str], *, best: bool = False) -> Variables:
    """Reads ``{"params": ..., "model_state": ...}`` out of a workdir's checkpoint.

    Args:
      path: A workdir, the checkpoint folder in it, or one step in that, e.g.
        ``runs/cnn/checkpoints/400``.
      best: The best kept step instead of the newest.

    Raises:
      CheckpointError: if there is none that can be trusted.
    """
    path = pathlib.Path(path)
    if path.parent.name == CHECKPOINTS and path.name.isdecimal():
        state = read_checkpoint(path.parent, step=int(path.name)).state
    else:
        folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
        state = read_checkpoint(folder, best=best).state
    return {
        "params": {**state["params"], **state.get("ema", {})},
        "model_state": dict(state.get("model_state", {})),
    }


def run_facts(mesh: Mesh) -> dict[str, Any]:
    """What a number needs beside it: revision, versions, machine."""
    device = mesh.devices.flat[0]
    return {
        "revision": _revision(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "hardware": f"{mesh.size} x {device.device_kind}, {os.cpu_count()} CPU cores",
        "processes": jax.process_count(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    """The commit of the checkout, with ``+`` if files differ from it; empty elsewhere."""
    git, root = shutil.which("git"), pathlib.Path(__file__).resolve().parents[2]
    if git is None or not (root / ".git").exists():
        return ""

    def ask(*arguments: str) -> str:
        command = [git, "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    changed = ask("status", "--porcelain", "--untracked-files=no")
    return ask("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
