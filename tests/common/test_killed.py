"""Training survives a kill: the end is that of an undisturbed run, bit for bit.

Two that carry more than one network and one stream of pictures: a game of two players with a
pool of scores, and clips of pictures, sound and words whose gradients are realigned.
"""

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

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "experiments" / "configs"
# Config -> parts of the state that must be in what is compared.
CASES = {
    "deblurgan_v2/gopro_mobilenet.py:tiny,generator=plain_residual,critics=patch": (
        *("params/generator", "params/patch", "opt_state/disc", "patch/pool"),
    ),
    "gradient_harmonization/pretrain.py:tiny,arm=both": (
        *("params/backbone", "params/heads", "opt_state", "mu/backbone"),
    ),
}


def start(config, workdir):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.train"),
            f"--config={CONFIGS / config}",
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
@pytest.mark.parametrize("config", CASES)
def test_a_killed_run_ends_as_if_undisturbed(config, tmp_path):
    finish(start(config, tmp_path / "whole"))
    run = start(config, tmp_path / "cut")
    for line in run.stderr:
        logged = re.search(r"step (\d+) of", line)
        if logged and int(logged[1]) >= 8:
            break
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL  # it had not ended by itself
    assert "going on after step" in finish(start(config, tmp_path / "cut"))
    found = read_checkpoint(tmp_path / "whole" / "checkpoints")
    assert found.step == 14
    names = named_leaves(found.state)
    for part in CASES[config]:
        assert any(part in name for name in names), part
    assert differences(tmp_path / "cut", tmp_path / "whole") == []
