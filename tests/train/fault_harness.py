"""Does to runs what the world does to them. For test_faults.py and tests/long/fault_injection.py."""

import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import threading

import numpy as np

from zoo_jax.core.tree import named_leaves
from zoo_jax.train.checkpoint import Restored, read_checkpoint

WORKER = pathlib.Path(__file__).with_name("fault_worker.py")
PATIENCE_S = 120.0  # before anything of a run is taken for a hang


class Run(subprocess.Popen):
    """A run that was started, and what it has said so far."""

    said = ""

    def wait_for(self, step: int) -> None:
        """Comes back when the run logs that step, or has ended."""
        hang = threading.Timer(PATIENCE_S, self.kill)
        hang.start()
        for line in self.stderr:
            self.said += line
            logged = re.search(r"step (\d+) of", line)
            if logged and int(logged[1]) >= step:
                break
        hang.cancel()

    def end(self) -> tuple[int, str]:
        """Waits; returns the exit code and all that the run said."""
        self.said += self.communicate(timeout=PATIENCE_S)[1]
        return self.returncode, self.said


@dataclasses.dataclass(frozen=True)
class Runner:
    """How to start the same run again and again."""

    task: str = "classifier"
    steps: int = 40
    every: int = 2  # steps between checkpoints
    keep_last: int = 2

    def start(self, workdir: pathlib.Path) -> Run:
        flags = {"workdir": workdir, **dataclasses.asdict(self)}
        return Run(
            [sys.executable, WORKER, *(f"--{k}={v}" for k, v in flags.items())],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, workdir: pathlib.Path, step: int) -> Run:
        """Starts, and comes back when that step is logged, or the run has ended."""
        run = self.start(workdir)
        run.wait_for(step)
        return run

    def finish(self, workdir: pathlib.Path) -> str:
        """Runs to the end; returns what it said."""
        code, said = self.start(workdir).end()
        if code != 0:
            raise AssertionError(f"{workdir} ended with {code}:\n{said}")
        return said


def kill(run: Run) -> bool:
    """Kills at once; False if the run had already ended."""
    run.send_signal(signal.SIGKILL)
    return run.end()[0] == -signal.SIGKILL


def fill_disk(run: Run) -> None:
    """From now on no larger file can be written: stands in for a full disk, also for root."""
    if run.poll() is None:
        hard = resource.prlimit(run.pid, resource.RLIMIT_FSIZE)[1]
        # A manifest is larger than this, the log of the first dozen steps is not.
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (3_000, hard))


def steps_logged(workdir: pathlib.Path) -> int:
    """The last step in the log of speeds."""
    last = (workdir / "perf.jsonl").read_text().splitlines()[-1]
    return json.loads(last)["step"]


def flip_bit(file: pathlib.Path, bit: int) -> None:
    """Inverts one bit of a file."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder that are not empty, in a fixed order."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def newest_step(workdir: pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest checkpoint."""
    steps = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, key=lambda p: int(p.name), default=None)


def flip_random_bit(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
    """Inverts a bit of some file below a folder; returns which file."""
    file = rng.choice(files_of(folder))
    flip_bit(file, rng.randrange(8 * file.stat().st_size))
    return file


def differences(run: pathlib.Path, undisturbed: pathlib.Path) -> list[str]:
    """What is not bit-equal in two runs: leaves, place in the data, logged numbers."""
    a, b = (read_checkpoint(w / "checkpoints") for w in (run, undisturbed))
    out = state_differences(a, b)
    for name in ("metrics.jsonl", "metrics.csv"):
        if (run / name).read_bytes() != (undisturbed / name).read_bytes():
            out.append(name)
    return out


def state_differences(a: Restored, b: Restored) -> list[str]:
    """What is not bit-equal in two checkpoints."""
    out = []
    if (a.step, a.iterator) != (b.step, b.iterator):
        out.append(f"step or place in the data: {a.step}, {a.iterator}")
    ours, theirs = (named_leaves(x.state) for x in (a, b))
    for name in sorted(ours.keys() | theirs.keys()):
        x, y = (np.asarray(leaves.get(name)) for leaves in (ours, theirs))
        if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
            out.append(name)
    return out
