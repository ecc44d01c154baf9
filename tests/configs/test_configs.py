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


# Programs that others of the list run as well, on other data; and studies whose own tests run them.
SLOW = {
    "deblurgan_v2/dvd_inception.py": "gopro_inception.py",
    "deblurgan_v2/dvd_mobilenet.py": "gopro_mobilenet.py",
    "deblurgan_v2/mix_inception.py": "gopro_inception.py",
    "deblurgan_v2/mix_mobilenet.py": "gopro_mobilenet.py",
    "gradient_harmonization/finetune.py": "tests/methods/gradient_harmonization",
    "gradient_harmonization/study.py": "tests/colabs, the tour",
    "u_said/segmentation.py": "tests/methods/u_said/test_u_said_segmentation.py",
    "ug2/photos.py": "tests/methods/ug2/test_labelled_photos.py",
    "u_said/camvid.py": "tests/methods/u_said/test_u_said_study.py",
    "ug2/cifar.py": "tests/methods/ug2/test_ug2_study.py",
}
RUNS = [
    pytest.param(n, marks=[pytest.mark.slow] if n.endswith(tuple(SLOW)) else [])
    for n in NAMES
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
