"""A search by commands: what is told, what is kept, and that an interruption changes nothing."""

import io
import json
import os
import re

import numpy as np
import pytest

from zoo_jax.core.errors import CheckpointError, ConfigError, ZooError
from zoo_jax.methods.weaknas import synthetic, trials
from zoo_jax.methods.weaknas.board import Board
from zoo_jax.methods.weaknas.command import Command
from zoo_jax.methods.weaknas.trials import (
    JOURNAL,
    TRIALS,
    Journal,
    TrialSearch,
    check_settings,
    checksum,
)

POOL = synthetic.build_pool(slots=2, choices=5)  # 25 architectures, "0-0" to "4-4"
# The value is that of the two digits, modulo 7: 13 of "1-3" gives 6.
TRAIN = "x=$(tr -dc 0-9 < {config}); echo $((10$x % 100 % 7)).5"


def value_of(index):
    return int(POOL.describe(index).replace("-", "")) % 7 + 0.5


class Climber:
    """Asks three at a time, those nearest to the best so far: what is told matters."""

    def __init__(self):
        self.told = []

    def ask(self, count):
        worth = {i: v for i, v in self.told if not np.isnan(v)}
        best = max(worth, key=worth.get, default=12)
        asked = {i for i, _ in self.told}
        left = [i for i in range(len(POOL)) if i not in asked]
        return np.array(sorted(left, key=lambda i: (abs(i - best), i))[: min(3, count)])

    def tell(self, index, value):
        self.told += zip(index.tolist(), value.tolist(), strict=True)


class Silent:
    """A watcher that keeps what it is shown, and may stop the search."""

    def __init__(self, stop_after=None):
        self.ends, self.most, self._stop = [], 0, stop_after

    def began(self, trials):
        pass

    def ended(self, trial):
        self.ends.append((trial.number, trial.state))
        if len(self.ends) == self._stop:
            raise KeyboardInterrupt

    def tick(self, running):
        self.most = max(self.most, len(running))

    def fitting(self):
        pass


def search(folder, line=TRAIN, *, watcher=None, timeout=None, **options):
    """Runs one process's worth of a search: (searcher, search)."""
    folder.mkdir(exist_ok=True)
    settings = dict(pool=POOL, budget=8, first=3, batch=3, folder=folder) | options
    command = Command(line + " # {config}", shell=True, timeout=timeout)
    searcher, made = Climber(), TrialSearch(command=command, **settings)
    with Journal(folder / JOURNAL) as journal:
        made.run(searcher, journal, watcher or Silent())
    return searcher, made


def events(folder, kind="end"):
    lines = (folder / JOURNAL).read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def record(folder):
    """What must not depend on interruptions and on the order in which trials end."""
    kept = [
        {k: v for k, v in e.items() if k not in ("seconds", "time")}
        for e in events(folder)
    ]
    asked = [(e["round"], e["index"]) for e in events(folder, "ask")]
    return asked, sorted(kept, key=lambda e: (e["trial"], e["attempt"]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    searcher, _ = search(folder)
    return folder, searcher.told


def test_the_searcher_is_told_the_values_in_the_order_of_asking(undisturbed):
    folder, told = undisturbed
    asked, ends = record(folder)
    assert [i for _, index in asked for i in index] == [i for i, _ in told]
    assert [len(index) for _, index in asked] == [3, 3, 2]
    assert told == [(i, value_of(i)) for i, _ in told]
    assert [(e["trial"], e["value"], e["state"]) for e in ends] == [
        (n, value_of(i), "done") for n, (i, _) in enumerate(told)
    ]
    config = json.loads((folder / TRIALS / "00002.json").read_text())
    assert config == ends[2]["config"] == POOL.describe(told[2][0])


def test_what_is_asked_does_not_depend_on_which_trial_ends_first(undisturbed, tmp_path):
    # Of three trials the first takes longest.
    watcher = Silent()
    slow = f"sleep 0.$((3 - {{trial}} % 3))5; {TRAIN}"
    searcher, _ = search(tmp_path, slow, parallel=3, watcher=watcher)
    assert [n for n, _ in watcher.ends] != sorted(n for n, _ in watcher.ends)
    assert watcher.most == 3
    assert searcher.told == undisturbed[1]
    assert record(tmp_path)[0] == record(undisturbed[0])[0]


def test_no_more_run_at_a_time_than_allowed_and_a_slot_has_one_trial(tmp_path):
    line = (
        f"mkdir {tmp_path}/{{slot}} && sleep 0.05 && {TRAIN}; rmdir {tmp_path}/{{slot}}"
    )
    watcher = Silent()
    search(tmp_path, line, parallel=2, watcher=watcher)
    assert watcher.most == 2
    assert {e["state"] for e in events(tmp_path)} == {"done"}
    assert not (tmp_path / "2").exists()


# --- interruptions --------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 3, 4, 8])
def test_a_search_that_was_stopped_goes_on_as_if_nothing_had_been(
    undisturbed, tmp_path, stop_after
):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, watcher=Silent(stop_after), parallel=2)
    again = Silent()
    searcher, _ = search(tmp_path, watcher=again)
    assert searcher.told == undisturbed[1]
    assert record(tmp_path) == record(undisturbed[0])
    assert len(again.ends) == 8 - stop_after  # no finished trial is repeated


def test_a_journal_cut_at_any_byte_is_made_whole_again(undisturbed, tmp_path):
    data = (undisturbed[0] / JOURNAL).read_bytes()
    for number, size in enumerate(range(0, len(data), 211)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(data[:size])
        searcher, _ = search(folder, parallel=3)
        assert searcher.told == undisturbed[1], size
        assert record(folder) == record(undisturbed[0]), size


def test_a_finished_search_runs_nothing(undisturbed):
    before = record(undisturbed[0])
    searcher, _ = search(undisturbed[0], "exit 1")
    assert searcher.told == undisturbed[1]
    assert record(undisturbed[0]) == before


def test_a_larger_budget_goes_on(undisturbed, tmp_path):
    search(tmp_path)
    searcher, _ = search(tmp_path, budget=12)
    assert len(searcher.told) == 12
    assert searcher.told[:8] == undisturbed[1]


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "end", "trial": 0, "index": 24}',  # of another architecture
        '{"event": "end", "trial": 99, "index": 12}',
        '{"event": "ask"}',
        '{"event": "sak", "index": [1]}',
        '{"trial": 3}',
        '{"event": "end',
        "[1]",
        "3",
        "\x00\x00",
    ],
)
def test_a_damaged_line_is_named(undisturbed, tmp_path, line):
    lines = (undisturbed[0] / JOURNAL).read_text().splitlines()
    path = tmp_path / JOURNAL
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"trials\.jsonl, line 4: damaged"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_full_disk_loses_at_most_the_trial_at_hand(
    undisturbed, tmp_path, monkeypatch
):
    class Full(Silent):
        def ended(self, trial):
            super().ended(trial)
            if len(self.ends) == 2:
                monkeypatch.setattr(os, "write", self.write)

        @staticmethod
        def write(fd, data):
            monkeypatch.undo()
            os.write(fd, data[:20])  # a part of the line still fits
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        search(tmp_path, watcher=Full())
    search(tmp_path)
    assert record(tmp_path) == record(undisturbed[0])


# --- failures -------------------------------------------------------------------------------

FAILURES = {
    1: ("echo no >&2; exit 3", "exit code 3: no"),
    2: ("true", "printed nothing on standard output"),
    3: ("echo nan", "printed nan on its last line, 'nan'"),
    4: ("echo inf", "printed inf on its last line, 'inf'"),
    5: ("echo 1; echo done", "printed no number on its last line, 'done'"),
    6: ("sleep 60", "no end within 0.5 s (--timeout)"),
    7: (
        "kill -9 $$",
        "killed by SIGKILL (by the system when memory runs out, perhaps)",
    ),
}
FAILING = (
    "case {trial} in "
    + " ".join(f"{n}) {line};;" for n, (line, _) in FAILURES.items())
    + f" *) {TRAIN};; esac"
)


def test_every_failure_is_told_as_nan_and_kept_with_its_reason(tmp_path):
    searcher, _ = search(tmp_path, FAILING, timeout=0.5, parallel=3)
    told = dict(enumerate(value for _, value in searcher.told))
    assert {n for n, value in told.items() if np.isnan(value)} == set(FAILURES)
    assert told[0] == value_of(searcher.told[0][0])
    for event in events(tmp_path):
        if event["trial"] in FAILURES:
            assert event["state"] == "failed"
            assert event["value"] is None
            assert event["reason"] == FAILURES[event["trial"]][1]
    assert events(tmp_path)[-1]["stderr"] == ""
    assert [e["stderr"] for e in events(tmp_path) if e["trial"] == 1] == ["no"]
    # A failure is an answer: it is not asked for again.
    again = Silent()
    search(tmp_path, FAILING, watcher=again)
    assert again.ends == []


def test_a_failed_trial_is_retried_so_often_and_no_oftener(tmp_path):
    # Trial 1 works the third time, trial 4 never does.
    line = (
        f"case {{trial}} in 1) echo x >> {tmp_path}/tries;"
        f" [ $(wc -l < {tmp_path}/tries) = 3 ] || exit 1;; 4) exit 1;; esac; {TRAIN}"
    )
    searcher, _ = search(tmp_path, line, retries=2)
    for trial, states in {
        0: ["done"],
        1: ["retry", "retry", "done"],
        4: ["retry", "retry", "failed"],
    }.items():
        ends = [e for e in events(tmp_path) if e["trial"] == trial]
        assert [e["state"] for e in ends] == states
        assert [e["attempt"] for e in ends] == list(range(1, len(states) + 1))
    assert searcher.told[1][1] == value_of(searcher.told[1][0])
    assert np.isnan(searcher.told[4][1])


def test_retries_are_counted_across_interruptions(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, FAILING, timeout=9, retries=1, watcher=Silent(4))
    assert [(e["trial"], e["state"]) for e in events(tmp_path)][2:] == [
        (2, "retry"),
        (1, "failed"),
    ]
    search(tmp_path, FAILING, timeout=0.5, retries=1)
    ends = [e["state"] for e in events(tmp_path) if e["trial"] == 2]
    assert ends == ["retry", "failed"]


def test_a_command_that_never_works_is_not_run_to_the_end(undisturbed, tmp_path):
    broken = "echo no data >&2; exit 1"
    with pytest.raises(
        ZooError, match=r"all 3 first trials failed.*: no data: see .*err"
    ):
        search(tmp_path, broken)
    assert len(events(tmp_path)) == 3
    with pytest.raises(ZooError, match="all 3 first"):
        search(tmp_path, broken, retries=1)
    assert len(events(tmp_path)) == 3 + 6
    # Mended, the search is the one that it would have been.
    searcher, _ = search(tmp_path)
    assert searcher.told == undisturbed[1]


def test_lower_is_better_on_request(tmp_path):
    searcher, made = search(tmp_path, minimize=True)
    assert [v for _, v in searcher.told] == [-value_of(i) for i, _ in searcher.told]
    with Journal(tmp_path / JOURNAL) as journal:
        best = made.best(journal)
    assert best.value == min(e["value"] for e in events(tmp_path))


# --- settings -------------------------------------------------------------------------------

SETTINGS = {"space": "x", "seed": 0, "budget": 8, "predictor": {"name": "gp"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"begun with seed 0, not 1: go on with the same"),
        ({"space": "y", "seed": 2}, r"space 'x', not 'y'; seed 0, not 2"),
        ({"budget": 7}, r"budget 8, not 7 \(it may only grow\)"),
        ({"predictor": {"name": "mlp"}}, r"predictor {'name': 'gp'}, not"),
    ],
)
def test_other_settings_are_refused_in_a_line_that_says_which(
    tmp_path, change, message
):
    check_settings(tmp_path, SETTINGS)
    check_settings(tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match=message) as error:
        check_settings(tmp_path, SETTINGS | change)
    assert "\n" not in str(error.value)
    check_settings(tmp_path, SETTINGS)  # what was there is untouched


def test_the_budget_may_grow_but_not_shrink_again(tmp_path):
    check_settings(tmp_path, SETTINGS)
    check_settings(tmp_path, SETTINGS | {"budget": 20})
    with pytest.raises(ConfigError, match="budget 20, not 8"):
        check_settings(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"budget": 3'])
def test_damaged_settings_are_named(tmp_path, text):
    (tmp_path / trials.SETTINGS).write_text(text)
    with pytest.raises(CheckpointError, match=r"search\.json: is no record"):
        check_settings(tmp_path, SETTINGS)


def test_any_other_architecture_makes_another_space():
    known = checksum(POOL)
    assert checksum(synthetic.build_pool(slots=2, choices=5, seed=3)) == known
    assert checksum(synthetic.build_pool(slots=2, choices=4)) != known
    assert checksum(synthetic.build_pool(slots=1, choices=25)) != known


# --- what is shown --------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(folder, stream):
    made = TrialSearch(
        pool=POOL,
        command=Command(FAILING + " # {config}", shell=True, timeout=0.5),
        folder=folder,
        **dict(budget=8, first=3, batch=3, parallel=2),
    )
    with Journal(folder / JOURNAL) as journal, Board(made, journal, stream) as board:
        made.run(Climber(), journal, board)
        return board.summary()


def test_a_log_has_a_line_per_trial_and_no_control_characters(tmp_path):
    stream = io.StringIO()
    summary = show(tmp_path, stream)
    assert summary == "8 of 8 trials, 7 failed; best 1.5 (trial 0)"
    lines = stream.getvalue().splitlines()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())
    rows = {int(s.split()[0]): s for s in lines[1:] if not s.startswith("#")}
    assert sorted(rows) == list(range(8))
    assert rows[0].split() == ["0", "done", "1.5", rows[0].split()[3], "2-2"]
    assert rows[1].endswith("(exit code 3: no)")
    assert lines[1] == "# 0 of 8 trials; no trial has ended yet"
    assert re.match(
        r"# 3 of 8 trials, 2 failed; best 1.5 .*; about \d+ s left", lines[5]
    )


def test_a_terminal_shows_what_runs_and_ends_with_the_table_alone(tmp_path):
    stream = Terminal()
    show(tmp_path, stream)
    text = stream.getvalue()
    assert re.search(r"6  running +- +\d\.\d  \d-\d\n", text)
    # What a terminal would show in the end.
    screen = []
    for line in text.split("\n"):
        while match := re.match(r"\x1b\[(?:(\d+)F|J)", line):
            if match[1]:
                del screen[-int(match[1]) :]
            line = line[match.end() :]
        screen.append(line)
    assert len(screen) == 1 + 8 + 1
    assert not [line for line in screen if "running" in line or "left" in line]
