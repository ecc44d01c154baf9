"""Training against a discriminator survives a kill: the end is that of an undisturbed run, bit for bit."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from fault_harness import differences

from zoo_jax.core.tree import named_leaves
from zoo_jax.train.checkpoint import read_checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONFIG = "experiments/configs/deblurgan_v2/gopro_mobilenet.py"


def start(workdir):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.train"),
            f"--config={CONFIG}:tiny,generator=plain_residual,critics=patch",
            *("--config.steps=14", "--config.checkpoint.every=3"),
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(run):
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 0, said[-2000:]
    return said


@pytest.mark.slow
def test_a_killed_game_ends_as_if_undisturbed(tmp_path):
    finish(start(tmp_path / "whole"))
    run = start(tmp_path / "cut")
    for line in run.stderr:
        logged = re.search(r"step (\d+) of", line)
        if logged and int(logged[1]) >= 8:
            break
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL  # it had not ended by itself
    assert "going on after step" in finish(start(tmp_path / "cut"))
    found = read_checkpoint(tmp_path / "whole" / "checkpoints")
    assert found.step == 14
    names = named_leaves(found.state)
    # Both networks, both optimisers, and the pool of scores are in what is compared.
    for part in ("params/generator", "params/patch", "opt_state/disc", "patch/pool"):
        assert any(part in name for name in names), part
    assert differences(tmp_path / "cut", tmp_path / "whole") == []
