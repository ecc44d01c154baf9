"""Hundreds of faults, counted: ``python tests/long/fault_injection.py --workdir=runs/faults``.

What tests/train/test_faults.py and test_checkpoint_damage.py do a few times, with many seeds. A trial
is bad if a wrong number was restored, a run did not go on, a good step was lost, or its end is not
bit-equal to an undisturbed run. The counts go to experiments/results/faults.csv. A call that was cut
off goes on where it was; exit code 1 if anything was bad.
"""

import argparse
import csv
import dataclasses
import io
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "train")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import fault_harness as harness
import jax

from zoo_jax.core.files import atomic_write
from zoo_jax.core.tree import named_leaves
from zoo_jax.train.checkpoint import Checkpointer, Restored, read_checkpoint
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.run import run_facts
from zoo_jax.train.workdir import lock_workdir

RESULTS = ROOT / "experiments" / "results" / "faults.csv"
COLUMNS = (
    *("fault", "trials", "bad_outcomes", "seeds", "command", "hardware", "revision"),
)
TASKS = ("classifier", "adversarial")
PER_RUN = 10  # faults in one run
Problems = list[str]  # of one trial


@dataclasses.dataclass(frozen=True)
class Context:
    """What all trials share: an undisturbed run per task, with every checkpoint kept."""

    folder: pathlib.Path

    def reference(self, task: str) -> pathlib.Path:
        return self.folder / f"undisturbed_{task}"

    def runner(self, task: str) -> harness.Runner:
        return harness.Runner(task=task)

    def prepare(self) -> None:
        for task in TASKS:
            if not (self.reference(task) / "done").exists():
                shutil.rmtree(self.reference(task), ignore_errors=True)
                runner = harness.Runner(task=task, every=1, keep_last=1000)
                runner.finish(self.reference(task))
                (self.reference(task) / "done").touch()

    def at(self, task: str, step: int) -> Restored:
        return read_checkpoint(self.reference(task) / "checkpoints", step=step)


def check_newest(context: Context, task: str, workdir: pathlib.Path) -> Problems:
    """The newest step of a disturbed run is what the undisturbed one had at that step."""
    if harness.newest_step(workdir) is None:
        return []  # cut off before the first checkpoint
    found = read_checkpoint(workdir / "checkpoints")
    if found.step != int(harness.newest_step(workdir).name):
        return [f"step {harness.newest_step(workdir).name} is damaged"]
    return harness.state_differences(found, context.at(task, found.step))


def whole_runs(disturb: Callable) -> Callable:
    """A fault that hits one run `PER_RUN` times, after which the run must end as undisturbed."""

    def trials(context: Context, seed: int, workdir: pathlib.Path) -> list[Problems]:
        task, rng = TASKS[seed % len(TASKS)], random.Random(seed)
        runner = context.runner(task)
        steps = sorted(rng.sample(range(2, runner.steps - 2), PER_RUN))
        out = []
        for step in steps:
            problems = disturb(runner, workdir, step, rng)
            if problems is None:
                continue  # the run was over before the fault hit it
            out.append(problems + check_newest(context, task, workdir))
        runner.finish(workdir)
        end = harness.differences(workdir, context.reference(task))
        aside = [p.name for p in (workdir / "checkpoints").glob("*.bad-*")]
        return [problems + end + aside for problems in out]

    return trials


@whole_runs
def killed(runner, workdir, step, rng) -> Problems | None:
    """kill -9, mostly in the loop, sometimes while starting or restoring."""
    if rng.random() < 0.8:
        run = runner.until(workdir, step)
        time.sleep(rng.uniform(0, 0.03))
    else:
        run = runner.start(workdir)
        time.sleep(rng.uniform(0, 3))
    return [] if harness.kill(run) else None


@whole_runs
def terminated(runner, workdir, step, rng) -> Problems | None:
    """SIGTERM: ends within 10 s, with a checkpoint of the step it had reached."""
    run = runner.until(workdir, step)
    started = time.monotonic()
    run.send_signal(signal.SIGTERM)
    code, said = run.end()
    if code == 0:
        return None
    problems = []
    if (took := time.monotonic() - started) > 10:
        problems.append(f"took {took:.1f} s")
    if code != 128 + signal.SIGTERM:
        problems.append(f"exit code {code}: {said[-300:]}")
    saved = harness.newest_step(workdir)
    if saved is None or int(saved.name) != harness.steps_logged(workdir):
        problems.append(f"saved {saved}, did {harness.steps_logged(workdir)}")
    return problems


@whole_runs
def starved(runner, workdir, step, rng) -> Problems | None:
    """Writing fails from some step on: one line, exit code 2."""
    run = runner.until(workdir, step)
    harness.fill_disk(run)
    code, said = run.end()
    if code == 0:
        return None
    last = said.splitlines()[-1]
    problems = []
    if code != 2 or "File too large" not in last or "Traceback" in said:
        problems.append(f"exit code {code}: {said[-300:]}")
    return problems


@whole_runs
def contested(runner, workdir, step, rng) -> Problems | None:
    """A second writer, while the first one is held still."""
    run = runner.until(workdir, step)
    run.send_signal(signal.SIGSTOP)
    code, said = runner.start(workdir).end()
    run.send_signal(signal.SIGCONT)
    ended = not harness.kill(run)
    problems = []
    if code != 2 or f"in use by process {run.pid}" not in said:
        problems.append(f"exit code {code}: {said[-300:]}")
    return None if ended else problems


def damaged(change: Callable[[pathlib.Path, random.Random, int], None]) -> Callable:
    """A change to the newest of two steps: the one before must be restored, the bad one named."""

    def trials(context: Context, seed: int, workdir: pathlib.Path) -> list[Problems]:
        task, rng = TASKS[seed % len(TASKS)], random.Random(seed)
        source = context.reference(task) / "checkpoints"
        for step in (38, 40):
            shutil.copytree(source / str(step), workdir / str(step))
        change(workdir / "40", rng, seed)
        want = context.at(task, 38)
        flat = named_leaves(want.state)
        template = {**flat, "key": jax.random.wrap_key_data(flat["key"])}
        heard: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = heard.append
        logger = logging.getLogger("zoo_jax")
        logger.addHandler(handler)
        logger.propagate = False
        try:
            with Checkpointer(workdir) as checkpointer:
                found = checkpointer.restore(template)
        finally:
            logger.removeHandler(handler)
            logger.propagate = True
        found.state["key"] = jax.random.key_data(found.state["key"])
        problems = harness.state_differences(found, want._replace(state=flat))
        messages = [record.getMessage() for record in heard]
        if len(messages) != 1 or "step 40" not in messages[0]:
            problems.append(f"said {messages}")
        if not (workdir / "40.bad-1").is_dir():
            problems.append("not set aside")
        return [problems]

    return trials


def flip_in_any_file(folder: pathlib.Path, rng: random.Random, seed: int) -> None:
    harness.flip_random_bit(folder, rng)


def flip_anywhere(folder: pathlib.Path, rng: random.Random, seed: int) -> None:
    files = harness.files_of(folder)
    sizes = [file.stat().st_size for file in files]
    (file,) = rng.choices(files, weights=sizes)
    harness.flip_bit(file, rng.randrange(8 * file.stat().st_size))


def nth_file(folder: pathlib.Path, seed: int) -> pathlib.Path:
    files = harness.files_of(folder)
    return files[seed // len(TASKS) % len(files)]


def delete(folder: pathlib.Path, rng: random.Random, seed: int) -> None:
    nth_file(folder, seed).unlink()


def truncate(folder: pathlib.Path, rng: random.Random, seed: int) -> None:
    file = nth_file(folder, seed)
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def zero(folder: pathlib.Path, rng: random.Random, seed: int) -> None:
    file = nth_file(folder, seed)
    file.write_bytes(bytes(file.stat().st_size))


# fault -> what does it, and how many seeds. The whole runs have PER_RUN trials for each.
FAULTS: dict[str, tuple[Callable, int]] = {
    "bit flip, any bit of the step": (damaged(flip_anywhere), 300),
    "bit flip, any file of the step": (damaged(flip_in_any_file), 200),
    "file deleted": (damaged(delete), 60),
    "file truncated": (damaged(truncate), 60),
    "file zeroed": (damaged(zero), 60),
    "kill -9": (killed, 11),
    "SIGTERM": (terminated, 2),
    "disk full": (starved, 2),
    "second writer": (contested, 2),
}


def run_all(context: Context, done: pathlib.Path, scale: float) -> None:
    """Does what is not in `done` yet, and appends it there: one line per seed."""
    known = {(line["fault"], line["seed"]) for line in lines(done)}
    context.prepare()
    for fault, (trials, seeds) in FAULTS.items():
        for seed in range(max(1, round(seeds * scale))):
            if (fault, seed) in known:
                continue
            workdir = context.folder / "trial"
            shutil.rmtree(workdir, ignore_errors=True)
            workdir.mkdir()
            try:
                outcomes = trials(context, seed, workdir)
            except Exception as error:  # a run that cannot go on is an outcome
                outcomes = [[f"{type(error).__name__}: {error}"]]
            line = {"fault": fault, "seed": seed, "outcomes": outcomes}
            with done.open("a") as f:
                f.write(json.dumps(line) + "\n")
            if any(outcomes):
                bad = [problems for problems in outcomes if problems]
                print(f"BAD {fault}, seed {seed}: {bad}", flush=True)
                kept = context.folder / f"bad_{fault.replace(' ', '_')}_{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                workdir.rename(kept)
        print(f"{fault}: done", flush=True)


def lines(done: pathlib.Path) -> Iterator[dict]:
    """What was done before."""
    if done.exists():
        yield from map(json.loads, done.read_text().splitlines())


def table(done: pathlib.Path) -> list[dict[str, object]]:
    """One row per fault."""
    facts = run_facts(make_mesh(1))
    rows = []
    for fault in FAULTS:
        mine = [line for line in lines(done) if line["fault"] == fault]
        outcomes = [problems for line in mine for problems in line["outcomes"]]
        rows.append(
            {
                "fault": fault,
                "trials": len(outcomes),
                "bad_outcomes": sum(map(bool, outcomes)),
                "seeds": f"0-{max((line['seed'] for line in mine), default=0)}",
                "command": "python tests/long/fault_injection.py --workdir=runs/faults",
                "hardware": f"{os.cpu_count()} CPU cores",
                "revision": facts["revision"],
            }
        )
    return rows


def main() -> int:
    """Runs, counts, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the trials")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)
    with lock_workdir(args.workdir) as folder:
        done = folder / "trials.jsonl"
        run_all(Context(folder), done, args.scale)
        rows = table(done)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(args.output) as f:
        f.write(text.getvalue())
    for row in rows:
        print(f"{row['fault']:32} {row['trials']:5} trials, {row['bad_outcomes']} bad")
    return int(any(row["bad_outcomes"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
