"""A search by real trainings: what is asked, run and told, and the journal that survives a kill.

A search goes in rounds. The searcher is asked for a batch; every trial of it is run; then it is
told all values at once, in the order of the trials. So what is asked depends on the seed and on
the values alone, not on which trial ended first, and a search that was cut off asks what an
undisturbed one would have asked.

The journal is a file of JSON lines, each on disk before the search goes on. To resume, the
searcher is built again and told what the journal says.
"""

import collections
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from zoo_jax.core.errors import CheckpointError, ConfigError, ZooError
from zoo_jax.core.files import PathLike, read_json, write_json
from zoo_jax.methods.weaknas.baselines import Searcher
from zoo_jax.methods.weaknas.command import Attempt, Command, Outcome, Reaper, end_all
from zoo_jax.methods.weaknas.spaces import Pool

SETTINGS, JOURNAL, TRIALS = "search.json", "trials.jsonl", "trials"
_POLL_S = 0.05


@dataclasses.dataclass
class Trial:
    """One architecture that was asked for, and how far it is."""

    number: int
    index: int  # in the pool
    state: str = "waiting"  # "running", "retry"; "done" or "failed" is settled
    attempts: int = 0  # that ended
    value: float | None = None  # as printed by the last attempt
    reason: str | None = None  # why the last attempt failed
    seconds: float = 0.0  # of the last attempt

    @property
    def settled(self) -> bool:
        """Whether its value, or that it has none, is known for good."""
        return self.state in ("done", "failed")


# --- the journal ----------------------------------------------------------------------------


class Journal:
    """All that happened in a search: lines of JSON that are only ever added to.

    Their ``event`` is ``"start"`` (a process takes the search up), ``"ask"`` (a round begins),
    ``"end"`` (of an attempt, with ``state`` "done", "retry" or "failed"), or ``"void"`` (nothing has
    worked so far; all of it is run again).
    """

    def __init__(self, path: PathLike):
        """Opens the file and reads it. A last line that a kill has torn is cut off.

        Raises:
          CheckpointError: if any other line is damaged.
          OSError: if the file cannot be read or written.
        """
        self.rounds: list[list[Trial]] = []
        path = pathlib.Path(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            os.ftruncate(self._fd, whole)
            for number, line in enumerate(data[:whole].splitlines(), 1):
                try:
                    self._apply(json.loads(line))
                except (ValueError, LookupError, TypeError) as error:
                    raise CheckpointError(
                        f"{path}, line {number}: damaged ({error!r}): put the file back from"
                        " a copy, or choose another -o"
                    ) from None
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exc) -> None:
        os.close(self._fd)

    @property
    def trials(self) -> list[Trial]:
        """Of all rounds."""
        return [trial for asked in self.rounds for trial in asked]

    def add(self, event: str, **facts: Any) -> None:
        """Writes one line; it is on disk when this returns."""
        entry = {"event": event, **facts}
        self._apply(entry)
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]
        os.fsync(self._fd)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        event = entry["event"]
        if event == "ask":
            start = len(self.trials)
            asked = [Trial(start + i, int(x)) for i, x in enumerate(entry["index"])]
            self.rounds.append(asked)
        elif event == "end":
            trial = self.trials[entry["trial"]]
            if trial.index != entry["index"]:
                raise ValueError(f"trial {trial.number} is of {trial.index}")
            for name in ("state", "value", "reason", "seconds"):
                setattr(trial, name, entry[name])
            trial.attempts = entry["attempt"]
        elif event == "void":
            for trial in self.trials:
                trial.state, trial.attempts = "waiting", 0
        elif event != "start":
            raise ValueError(f"unknown event {event!r}")


def check_settings(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Compares what is asked for with what a folder was begun with; a new folder notes it.

    Args:
      folder: Of the search; this process owns it.
      settings: Name -> JSON value. ``"budget"`` may grow; all else must stay.

    Raises:
      ConfigError: one line that says what differs.
    """
    path = folder / SETTINGS
    if path.exists():
        try:
            old = dict(read_json(path))
            asked = old["budget"]
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(
                f"{path}: is no record of a search: choose another -o"
            ) from None
        differ = [
            f"{name} {old.get(name)!r}, not {value!r}"
            for name, value in settings.items()
            if name != "budget" and old.get(name) != value
        ]
        if settings["budget"] < asked:
            differ.append(
                f"budget {asked}, not {settings['budget']} (it may only grow)"
            )
        if differ:
            raise ConfigError(
                f"{folder}: this search was begun with {'; '.join(differ)}: go on with the"
                " same, or choose another -o"
            )
        if settings["budget"] == asked:
            return
    write_json(path, dict(settings))


def checksum(pool: Pool) -> str:
    """What tells two pools apart: a checksum over every architecture of it, in order."""
    digest = hashlib.sha256(np.ascontiguousarray(pool.features).tobytes())
    for index in range(len(pool)):
        digest.update(f"{pool.describe(index)}\n".encode())
    return digest.hexdigest()[:16]


# --- the search -----------------------------------------------------------------------------


class Watcher(Protocol):
    """Is told how a search goes, to show it."""

    def began(self, trials: list[Trial]) -> None:
        """A round has begun or is taken up again."""

    def ended(self, trial: Trial) -> None:
        """An attempt has ended; ``trial.state`` says how."""

    def tick(self, running: list[tuple[Trial, float]]) -> None:
        """Time passes. `running` are trials and their seconds."""

    def fitting(self) -> None:
        """The round is over; the searcher thinks about the next one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialSearch:
    """A search of a pool by a command.

    Attributes:
      pool: What is searched.
      command: Trains one architecture and prints its value.
      folder: Of the search; this process owns it.
      budget: How many architectures are tried in all.
      first: If that many have been tried and none has worked, the search stops.
      batch: How many are asked for at once.
      parallel: How many run at a time.
      retries: How often a failed trial is run again.
      minimize: Whether lower values are better.
    """

    pool: Pool
    command: Command
    folder: pathlib.Path
    budget: int
    first: int
    batch: int
    parallel: int = 1
    retries: int = 0
    minimize: bool = False

    def run(self, searcher: Searcher, journal: Journal, watcher: Watcher) -> None:
        """Runs what is left of the search.

        Args:
          searcher: A new one; it is told what the journal knows.
          journal: Of the folder.
          watcher: Is shown how it goes.

        Raises:
          ZooError: if not one of the first trials works.
          KeyboardInterrupt: when asked to stop; the commands have been ended.
          OSError: if the journal cannot be written.
        """
        (self.folder / TRIALS).mkdir(exist_ok=True)
        journal.add(
            "start",
            command=self.command.template,
            parallel=self.parallel,
            time=_now(),
        )
        told = 0
        with Reaper() as reaper:
            for number in itertools.count():
                if told >= self.budget:
                    return
                index = searcher.ask(self.budget - told)
                if number == len(journal.rounds):
                    journal.add("ask", round=number, index=[int(i) for i in index])
                # Not `index`: what was asked once is run, also where another budget or another
                # version of a library would ask something else now.
                trials = journal.rounds[number]
                self._run_round(trials, journal, watcher, reaper)
                told += len(trials)
                if told >= self.first:
                    self._require_one(journal)
                watcher.fitting()
                searcher.tell(
                    np.asarray([trial.index for trial in trials]),
                    np.asarray([self.merit(trial) for trial in trials]),
                )

    def _require_one(self, journal: Journal) -> None:
        """Stops where nothing works at all: the command is wrong, not what is asked."""
        trials = journal.trials
        if any(trial.state == "done" for trial in trials):
            return
        last = trials[-1]
        journal.add("void")
        raise ZooError(
            f"all {len(trials)} first trials failed, the last one: {last.reason}: see"
            f" {self._path(last, 'err')}, mend the command and run this again"
        )

    def merit(self, trial: Trial) -> float:
        """What the searcher is told: higher is better, NaN is failed."""
        if trial.value is None:
            return float("nan")
        return -trial.value if self.minimize else trial.value

    def best(self, journal: Journal) -> Trial | None:
        """The best of the trials that worked; the earliest of equals."""
        done = [trial for trial in journal.trials if trial.state == "done"]
        return max(done, key=self.merit, default=None)

    def _run_round(
        self,
        trials: list[Trial],
        journal: Journal,
        watcher: Watcher,
        reaper: Reaper,
    ) -> None:
        waiting = collections.deque(t for t in trials if not t.settled)
        if not waiting:
            return
        watcher.began(trials)
        running: dict[int, tuple[Trial, Attempt]] = {}  # by slot
        try:
            while waiting or running:
                for slot in range(self.parallel):
                    if waiting and slot not in running:
                        trial = waiting.popleft()
                        running[slot] = trial, self._start(trial, slot, reaper)
                ended = {
                    slot: outcome
                    for slot, (_, attempt) in running.items()
                    if (outcome := attempt.poll())
                }
                for slot, outcome in ended.items():
                    trial, _ = running.pop(slot)
                    self._end(trial, outcome, journal)
                    watcher.ended(trial)
                    if not trial.settled:
                        waiting.append(trial)
                if not ended:
                    watcher.tick([(t, a.seconds) for t, a in running.values()])
                    time.sleep(_POLL_S)
        finally:
            end_all(attempt for _, attempt in running.values())

    def _start(self, trial: Trial, slot: int, reaper: Reaper) -> Attempt:
        config = self.pool.config(trial.index)
        path = self._path(trial, "json")
        write_json(path, config)
        trial.state = "running"
        return Attempt(
            self.command,
            {
                "config": str(path),
                "json": json.dumps(config),
                "trial": str(trial.number),
                "slot": str(slot),
            },
            output=self._path(trial, "out"),
            errors=self._path(trial, "err"),
            reaper=reaper,
        )

    def _end(self, trial: Trial, outcome: Outcome, journal: Journal) -> None:
        state = "done" if outcome.reason is None else "failed"
        if state == "failed" and trial.attempts < self.retries:
            state = "retry"
        journal.add(
            "end",
            trial=trial.number,
            index=trial.index,
            config=self.pool.config(trial.index),
            attempt=trial.attempts + 1,
            state=state,
            value=outcome.value,
            reason=outcome.reason,
            stderr=outcome.stderr,
            seconds=round(outcome.seconds, 3),
            time=_now(),
        )

    def _path(self, trial: Trial, ending: str) -> pathlib.Path:
        return self.folder / TRIALS / f"{trial.number:05}.{ending}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
