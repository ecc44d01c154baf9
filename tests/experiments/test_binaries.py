"""The binaries as a user meets them: what they make, and one clear line for each mistake."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = "--config=experiments/configs/deep_k_means/digits_cnn.py:tiny"


def call(binary, *arguments, env=None, blocks=None):
    command = [sys.executable, "-m", f"experiments.{binary}", *map(str, arguments)]
    if blocks is not None:  # files larger than so many blocks cannot be written
        command = ["bash", "-c", f'ulimit -f {blocks} && exec "$@"', "bash", *command]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_one_line(done, *patterns):
    """Exit code 2, no traceback, and one line ``error: ...`` that says what and how."""
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    for pattern in patterns:
        assert re.search(pattern, lines[0]), lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("binaries") / "trained"
    done = call("train", TINY, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


def test_a_run_leaves_its_record(trained):
    run = json.loads((trained / "run.json").read_text())
    assert run["finished"] is True
    assert run["command"][:3] == ["python", "-m", "experiments.train"]
    assert run["versions"]["jax"]
    for name in (
        "config.json",
        "metrics.jsonl",
        "metrics.csv",
        "perf.jsonl",
        "checkpoints",
    ):
        assert (trained / name).exists(), name
    assert list((trained / "tensorboard").glob("events*"))


def test_a_finished_run_is_left_alone(trained):
    before = (trained / "metrics.jsonl").stat().st_mtime_ns
    done = call("train", TINY, f"--workdir={trained}")
    assert done.returncode == 0
    assert "finished already" in done.stderr
    assert (trained / "metrics.jsonl").stat().st_mtime_ns == before


def test_evaluating_a_workdir_gives_what_training_measured_last(trained, tmp_path):
    out = tmp_path / "result.json"
    done = call("evaluate", TINY, f"--checkpoint={trained}", f"--json={out}")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    lines = [
        json.loads(x) for x in (trained / "metrics.jsonl").read_text().splitlines()
    ]
    logged = {k: v for line in lines for k, v in line.items() if k in found}
    assert found == pytest.approx(logged, abs=1e-6)
    assert found


def test_the_benchmark_prints_and_appends_a_row(tmp_path):
    table = tmp_path / "rows.csv"
    for _ in range(2):
        done = call("benchmark", TINY, "--steps=2", "--rounds=1", f"--csv={table}")
        assert done.returncode == 0, done.stderr[-3000:]
    rows = table.read_text().splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("config,params_m,gmacs,compile_s,step_s")
    assert "loop_share_of_bare" in done.stdout


MISTAKES = {
    "config key": (
        ["train", TINY, "--config.optim.lrr=1", "--workdir={tmp}/x"],
        [r"unknown config key 'optim\.lrr'", r"did you mean 'optim\.lr'"],
    ),
    "method": (
        ["train", TINY, "--config.task=deep_kmeans", "--workdir={tmp}/x"],
        ["unknown method 'deep_kmeans'", "did you mean 'deep_k_means'"],
    ),
    "config argument": (
        ["train", TINY.replace("tiny", "tinny")],
        ["unknown config argument 'tinny'", "did you mean 'tiny'"],
    ),
    "config file": (
        ["train", "--config=experiments/configs/nothing.py", "--workdir={tmp}/x"],
        ["no config file", "experiments/configs"],
    ),
    "flag": (
        ["train", TINY, "--wrkdir=x"],
        ["unknown flag --wrkdir", "did you mean 'workdir'"],
    ),
    "missing flag": (["train", TINY], ["--workdir is required: Folder"]),
    "missing data": (
        [
            "train",
            "--config=experiments/configs/deep_k_means/cifar10_wrn.py",
            "--workdir={tmp}/x",
        ],
        ["no_data/tfds/cifar10", "prepare_data --dataset=cifar10"],
    ),
    "too many devices": (
        ["train", TINY, "--config.mesh.devices=99", "--workdir={tmp}/x"],
        [r"mesh\.devices=99, but there are 8"],
    ),
    "unwritable workdir": (
        ["train", TINY, "--workdir=/proc/nothing/x"],
        ["/proc/nothing/x"],
    ),
    "no checkpoint": (
        ["evaluate", TINY, "--checkpoint={tmp}"],
        ["no checkpoint folder"],
    ),
    "no such procedure": (
        ["run", TINY, "--config.procedure=compres", "--workdir={tmp}/x"],
        ["no procedure 'compres'", "did you mean 'compress'"],
    ),
    "unknown data set": (
        ["prepare_data", "--dataset=cifar100"],
        ["cifar100", "cifar10"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name, tmp_path):
    (binary, *arguments), patterns = MISTAKES[name]
    (tmp_path / "no_data").mkdir()
    done = call(
        binary,
        *(a.format(tmp=tmp_path) for a in arguments),
        env={"ZOO_DATA": str(tmp_path / "no_data")},
    )
    assert_one_line(done, *patterns)
    assert not list(tmp_path.rglob("checkpoints/*"))


def test_more_clusters_than_samples_are_one_line_with_the_numbers(tmp_path):
    config = tmp_path / "many.py"
    config.write_text(
        "from experiments.configs.deep_k_means import digits_cnn\n"
        "def get_config(arg=None):\n"
        "    c = digits_cnn.get_config('tiny,stage=retrain')\n"
        "    layers = [dict(path='network/conv2/kernel', num_clusters=10**6)]\n"
        "    c.optim.kmeans.layers = layers\n"
        "    return c\n"
    )
    done = call("train", f"--config={config}", f"--workdir={tmp_path / 'x'}")
    assert_one_line(done, "conv2/kernel", "1000000", "samples")
    assert not list(tmp_path.rglob("checkpoints/*"))


def test_a_workdir_of_another_config_is_refused_with_the_keys(trained):
    done = call("train", TINY, "--config.seed=5", f"--workdir={trained}")
    assert_one_line(done, r"seed: 0 -> 5", "--allow_config_change")


def test_weights_that_are_none_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not safetensors at all")
    done = call("evaluate", TINY, f"--checkpoint=deep_k_means/digits_cnn:{path}")
    assert_one_line(done, "weights.safetensors")


def test_a_full_disk_is_one_line(tmp_path):
    done = call("train", TINY, f"--workdir={tmp_path / 'x'}", blocks=6)
    assert_one_line(done, "File too large|No space|could not save|disk")
