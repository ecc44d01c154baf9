"""Every config: loads in all its forms, and its tiny form runs through the real binaries."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from zoo_jax.core import registry
from zoo_jax.core.config import flatten
from zoo_jax.train.settings import LOOP_KEYS

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "experiments" / "configs").rglob("*.py"))
NAMES = [str(f.relative_to(ROOT)) for f in FILES]


def get_config(file, arg):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(arg)


@pytest.mark.parametrize("name", NAMES)
def test_config_is_a_record(name):
    module, config = get_config(ROOT / name, "")
    assert module.__doc__, (
        "a config says what it reproduces, at what cost, by which command"
    )
    assert config.task in name
    method = registry.get(config.task)
    assert set(config) <= LOOP_KEYS | set(method.CONFIG_KEYS)
    assert flatten(config)
    _, tiny = get_config(ROOT / name, "tiny")
    assert set(tiny) == set(config)
    assert tiny.steps <= 20


# Every file can run; these do so each time, at least one of each method, the others with the slow
# tests: compiling their programs takes longer than all else.
QUICK = (
    *("deblurgan_v2/evaluate.py", "deep_k_means/digits_cnn.py"),
    *("deep_k_means/mnist5k_cnn.py", "gradient_harmonization/pretrain.py"),
    *("u_said/photos.py", "u_said/published.py"),
    *("ug2/srnet.py", "weaknas/nas_bench_graph.py"),
)
RUNS = [
    pytest.param(n, marks=() if n.endswith(QUICK) else pytest.mark.slow) for n in NAMES
]


@pytest.mark.parametrize("name", RUNS)
def test_tiny_form_runs_through_the_binaries(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, config = get_config(ROOT / name, "tiny")
    binary = "run" if config.procedure else "train"
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"experiments.{binary}"),
            f"--config={name}:tiny",
            f"--workdir={tmp_path / 'run'}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["finished"]
    if config.procedure:
        assert json.loads((tmp_path / "run" / "result.json").read_text())["scalars"]
        return
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == config.steps
