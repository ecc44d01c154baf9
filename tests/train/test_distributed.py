"""Two processes with one device each against one process with two devices."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import optax
import pytest
import toys

from zoo_jax.core.errors import DeviceError
from zoo_jax.train.loop import fit
from zoo_jax.train.mesh import initialize_distributed, make_mesh

SCRIPT = pathlib.Path(__file__).with_name("two_processes.py")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_give_the_loss_curve_of_two_devices(tmp_path, root):
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / "two")],
            cwd=root,
            env={
                **os.environ,
                "JAX_NUM_CPU_DEVICES": "1",
                "ZOO_COORDINATOR": f"127.0.0.1:{port}",
                "ZOO_NUM_PROCESSES": "2",
                "ZOO_PROCESS_ID": str(i),
                "PYTHONPATH": str(root),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [p.communicate(timeout=180)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)

    (tmp_path / "one").mkdir()
    config = toys.toy_config(log_every=1, steps=4)
    fit(
        toys.classifier(optax.sgd(0.1)),
        config,
        workdir=tmp_path / "one",
        mesh=make_mesh(2),
    )

    def curve(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    for a, b in zip(curve("one"), curve("two"), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    run = json.loads((tmp_path / "two" / "run.json").read_text())
    assert run["processes"] == 2


def test_missing_facts_about_the_processes_are_named(monkeypatch):
    monkeypatch.delenv("ZOO_COORDINATOR", raising=False)
    monkeypatch.setenv("ZOO_NUM_PROCESSES", "2")
    with pytest.raises(DeviceError, match=r"--coordinator.*--process_id"):
        initialize_distributed("explicit")
    monkeypatch.setenv("ZOO_NUM_PROCESSES", "two")
    with pytest.raises(DeviceError, match="'two' is not a number"):
        initialize_distributed("explicit")
    with pytest.raises(DeviceError, match="'maybe'"):
        initialize_distributed("maybe")
    initialize_distributed("none")
