"""Whole runs that are killed, stopped, starved or contested end as if nothing had happened.

The long version, with its results, is tests/long/fault_injection.py. That a batch that is not finite
leaves no trace is tested in test_loop.py.
"""

import random
import shutil
import signal
import time

import pytest
from fault_harness import (
    Runner,
    differences,
    fill_disk,
    flip_random_bit,
    kill,
    newest_step,
    steps_logged,
)

from zoo_jax.train.checkpoint import read_checkpoint

RUNNER = Runner()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    RUNNER.finish(workdir)
    assert read_checkpoint(workdir / "checkpoints").step == RUNNER.steps
    return workdir


def test_a_run_killed_again_and_again_ends_as_if_undisturbed(undisturbed, tmp_path):
    rng = random.Random(0)
    for first, last in ((3, 12), (13, 24), (25, 34)):
        run = RUNNER.until(tmp_path, rng.randrange(first, last))
        time.sleep(rng.uniform(0, 0.02))
        assert kill(run)
    decayed = newest_step(tmp_path)
    flip_random_bit(decayed, rng)
    said = RUNNER.finish(tmp_path)
    assert differences(tmp_path, undisturbed) == []
    assert f"step {decayed.name} in '{decayed.parent}' is damaged" in said
    assert f"set aside as {decayed.name}.bad-1" in said
    assert not (tmp_path / "checkpoints" / ".saving").exists()


def test_sigterm_saves_the_current_step_and_ends_in_time(undisturbed, tmp_path):
    run = RUNNER.until(tmp_path, 7)
    started = time.monotonic()
    run.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert time.monotonic() - started < 10
    assert code == 128 + signal.SIGTERM
    done = steps_logged(tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints").step == done < RUNNER.steps
    assert said.splitlines()[-1].startswith(f"stopped after {done} of 40 steps")
    RUNNER.finish(tmp_path)
    assert differences(tmp_path, undisturbed) == []


def test_a_full_disk_ends_a_run_with_one_line_and_it_can_go_on(undisturbed, tmp_path):
    run = RUNNER.until(tmp_path, 5)
    fill_disk(run)
    code, said = run.end()
    assert code == 2
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("error: could not save step ")
    assert ": File too large; step " in last
    assert read_checkpoint(tmp_path / "checkpoints").step >= 2
    RUNNER.finish(tmp_path)
    assert differences(tmp_path, undisturbed) == []
    assert not list((tmp_path / "checkpoints").glob("*.bad-*"))


def test_a_second_writer_is_sent_away_and_does_no_harm(undisturbed, tmp_path):
    first = RUNNER.until(tmp_path, 1)
    first.send_signal(
        signal.SIGSTOP
    )  # so that it does not end before the second starts
    code, said = RUNNER.start(tmp_path).end()
    first.send_signal(signal.SIGCONT)
    assert code == 2
    assert f"in use by process {first.pid} on " in said.splitlines()[-1]
    assert "Traceback" not in said
    assert first.end()[0] == 0
    assert differences(tmp_path, undisturbed) == []


def test_these_comparisons_can_fail(undisturbed, tmp_path):
    """A run of other length, or with a changed log, is not taken for equal."""
    shutil.copytree(undisturbed, tmp_path / "log")
    log = tmp_path / "log" / "metrics.csv"
    log.write_text(log.read_text().replace("0.", "1.", 1))
    assert differences(tmp_path / "log", undisturbed) == ["metrics.csv"]
    shutil.copytree(undisturbed, tmp_path / "state")
    shutil.rmtree(newest_step(tmp_path / "state"))
    found = differences(tmp_path / "state", undisturbed)
    assert any("params" in leaf for leaf in found)
    assert any("step or place" in leaf for leaf in found)
