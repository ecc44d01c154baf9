"""A command as one query: what it is given, how its end is read, how it is ended."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas import command as module
from zoo_jax.methods.weaknas.command import (
    Attempt,
    Command,
    Reaper,
    end_all,
    read_value,
)

PLACES = {"config": "/a b/1.json", "json": '{"x": "it\'s"}', "trial": "7", "slot": "2"}


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("0.5", 0.5),
        ("0.5\n\n  \n", 0.5),
        ("9\nlast 93.5%", 93.5),
        ("loss=-1.5e-3", -0.0015),
        ("top1 .75", 0.75),
        ("3 of 10: +4.", 4.0),
        ("bar 1%\rbar 100% 0.25\r", 0.25),
        ("resnet18 reached 7 in 12.5s", 7.0),
        ('{"value": 3}', 3.0),
        ('noise 5\n{"epochs": 9, "value": 0.125, "z": 4}\n', 0.125),
    ],
)
def test_the_value_is_the_last_number_of_the_last_line(output, value):
    assert read_value(output) == value


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "printed nothing"),
        (" \n\t\n", "printed nothing"),
        ("0.5\ndone", "printed no number on its last line, 'done'"),
        ("resnet18", "printed no number"),
        ("nan", "printed nan"),
        ("best 0.5, last NaN", "printed nan"),
        ("-inf", "printed -inf"),
        ("1e999", "printed inf"),
        ("9" * 400, "printed inf"),
        ('{"value": NaN}', "printed nan"),
        ('{"value": true}', "printed no"),
        ('{"value": "0.5"}', "printed no"),
        ('{"valeu": 0.5}', "printed no"),
        ('{"value": 0.5', "printed no"),
        ('{"value": ' + "9" * 400 + "}", "printed inf"),
    ],
)
def test_what_is_no_finite_number_is_named(output, message):
    with pytest.raises(ValueError, match="printed") as error:
        read_value(output)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 120


# --- what is run ----------------------------------------------------------------------------


def test_places_are_filled_word_by_word_and_other_braces_stay():
    command = Command("sh -c '{config} x' {json}{trial} ${slot} {other} {}")
    assert command.argv(PLACES) == [
        "sh",
        "-c",
        "/a b/1.json x",
        '{"x": "it\'s"}7',
        "$2",
        "{other}",
        "{}",
    ]


def test_a_shell_gets_what_is_put_in_as_one_word_each(tmp_path):
    command = Command("printf '%s|' {config} {json} | cat; echo {trial}", shell=True)
    done = subprocess.run(command.argv(PLACES), capture_output=True, text=True)
    assert done.stdout == '/a b/1.json|{"x": "it\'s"}|7\n'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("true", r"'true' has no {config}"),
        ("", "has no {config}"),
        ("true {confg}", "has no {config}"),
        ("true '{config}", "cannot be split into words: No closing quotation"),
        ("no_such_program {config}", "no_such_program: is not on the PATH"),
        ("./none.sh {config}", "none.sh: there is no such file"),
        ("./plain.sh {config}", "plain.sh: cannot be run: chmod \\+x"),
        ("plain.sh {config}", "is not on the PATH: write ./plain.sh"),
    ],
)
def test_a_command_that_cannot_work_is_refused(
    tmp_path, monkeypatch, template, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.sh").write_text("echo 1")
    with pytest.raises(ConfigError, match=message):
        Command(template)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_is_above_zero(timeout):
    with pytest.raises(ConfigError, match="--timeout"):
        Command("true {config}", timeout=timeout)


# --- how it ends ----------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    """Starts a line of shell as an attempt."""
    attempts = []
    with Reaper() as reaper:

        def call(line, timeout=None, shell=True, **places):
            attempt = Attempt(
                Command(f"{line} # {{config}}", shell=shell, timeout=timeout),
                PLACES | places,
                output=tmp_path / "out",
                errors=tmp_path / "err",
                reaper=reaper,
            )
            attempts.append(attempt)
            return attempt

        yield call
        end_all(attempts)


def wait(attempt):
    deadline = time.monotonic() + 120  # the machine may be busy
    while (outcome := attempt.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return outcome


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
    except OSError:
        return False
    return state.split()[0] != "Z"


def wait_for(condition):
    deadline = time.monotonic() + 120  # the machine may be busy
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo boom >&2; exit 3", "exit code 3: boom"),
        ("echo 0.5; echo boom >&2; exit 1", "exit code 1: boom"),
        ("echo boom >&2", "printed nothing on standard output"),
        ("echo boom >&2; echo nan", "printed nan on its last line, 'nan'"),
        ("echo boom >&2; echo done", "printed no number on its last line, 'done'"),
        ("echo boom >&2; kill -SEGV $$", "killed by SIGSEGV"),
        ("echo boom >&2; kill -9 $$", "killed by SIGKILL (by the system when"),
    ],
)
def test_a_failure_has_a_reason_and_the_end_of_its_errors(start, line, reason):
    outcome = wait(start(line))
    assert outcome.value is None
    assert outcome.reason.startswith(reason)
    assert outcome.stderr == "boom"


def test_a_success_has_a_value_and_its_time(start):
    outcome = wait(start("echo noise >&2; sleep 0.2; echo 0.25"))
    assert outcome[:3] == (0.25, None, "")
    assert 0.2 <= outcome.seconds < 10


def test_only_the_end_of_long_outputs_is_read(start):
    outcome = wait(start("yes 1 | head -c 300000; echo; echo 5"))
    assert outcome.value == 5
    outcome = wait(start("yes boom | head -c 300000 >&2; exit 1"))
    assert len(outcome.stderr) < 5000


def test_what_is_no_program_fails_without_stopping_the_search(start, tmp_path):
    script = tmp_path / "nonsense"
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(0o755)
    outcome = wait(start(str(script), shell=False))
    assert outcome.value is None
    assert outcome.reason.startswith("exit code ")
    assert "nonsense" in outcome.stderr


def test_a_line_that_is_too_long_fails_without_stopping_the_search(start):
    outcome = wait(start("true {json}", shell=False, json="x" * 3_000_000))
    assert outcome[:3] == (None, "cannot be started: Argument list too long", "")


def test_a_command_reads_nothing_from_the_terminal(start):
    assert wait(start("wc -c")).value == 0


def test_running_out_of_time_ends_the_whole_group(start, tmp_path):
    outcome = wait(start(f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout=0.3))
    assert outcome.reason == "no end within 0.3 s (--timeout)"
    assert not alive((tmp_path / "pid").read_text().strip())


def test_what_ignores_the_request_to_end_is_killed(start, monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    outcome = wait(start("trap '' TERM; while :; do sleep 0.05; done", timeout=0.3))
    assert outcome.reason.startswith("no end within")


def test_nothing_of_a_finished_command_is_left_behind(start, tmp_path):
    outcome = wait(start(f"sleep 60 & echo $! > {tmp_path}/pid; echo 1"))
    assert outcome.value == 1
    pid = (tmp_path / "pid").read_text().strip()
    wait_for(lambda: not alive(pid))


def test_a_second_interrupt_kills_at_once(start, tmp_path, monkeypatch):
    attempt = start(
        f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    sleep, calls = time.sleep, []

    def interrupt(seconds):
        calls.append(seconds)
        if len(calls) == 1:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(module.time, "sleep", interrupt)
    begin = time.monotonic()
    end_all([attempt])
    assert time.monotonic() - begin < module.GRACE_S
    assert not alive((tmp_path / "pid").read_text().strip())


SEARCHER = """
import sys, time
from zoo_jax.methods.weaknas.command import Attempt, Command, Reaper
if sys.argv[1:] == ["deaf"]:
    Reaper.watch = lambda self, pid: time.sleep(60)
with Reaper() as reaper:
    for name in "ab":
        Attempt(
            Command("sh -c 'sleep 60 & echo $! $$ > {config}; wait'"),
            dict(config=name, json="", trial="0", slot="0"),
            output=name + ".out", errors=name + ".err", reaper=reaper,
        )
    time.sleep(60)
"""


def launch(root, folder, *argv):
    return subprocess.Popen(
        [sys.executable, "-c", SEARCHER, *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_commands_of_a_killed_searcher_are_killed(tmp_path, root, signum):
    searcher = launch(root, tmp_path)
    names = [tmp_path / name for name in "ab"]
    wait_for(lambda: all(p.exists() and p.read_text().endswith("\n") for p in names))
    pids = [pid for p in names for pid in p.read_text().split()]
    assert all(map(alive, pids))
    searcher.send_signal(signum)
    searcher.wait()
    wait_for(lambda: not any(map(alive, pids)))


def test_no_command_runs_before_it_can_be_killed(tmp_path, root):
    searcher = launch(root, tmp_path, "deaf")
    wait_for((tmp_path / "a.err").exists)
    time.sleep(0.3)
    searcher.kill()
    searcher.wait()
    time.sleep(0.3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.err", "a.out"]
