"""Two processes with one device each against one process with two devices."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import optax
import pytest
import toys

from zoo_jax.core.errors import DeviceError
from zoo_jax.core.files import read_json, read_json_lines
from zoo_jax.train.loop import fit
from zoo_jax.train.mesh import initialize_distributed, make_mesh

SCRIPT = pathlib.Path(__file__).with_name("two_processes.py")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_two(root, workdir, steps):
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(workdir), str(steps)],
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


def finish(processes, code):
    outputs = [p.communicate(timeout=180)[0] for p in processes]
    assert [p.returncode for p in processes] == [code, code], "\n".join(outputs)


def test_two_processes_give_the_loss_curve_of_two_devices(tmp_path, root):
    finish(start_two(root, tmp_path / "two", 4), 0)
    (tmp_path / "one").mkdir()
    config = toys.toy_config(log_every=1, steps=4, eval={}, checkpoint={})
    fit(
        toys.classifier(optax.sgd(0.1)),
        config,
        workdir=tmp_path / "one",
        mesh=make_mesh(2),
    )
    one, two = (read_json_lines(tmp_path / n / "metrics.jsonl") for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert read_json(tmp_path / "two" / "run.json")["processes"] == 2


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path, root):
    processes = start_two(root, tmp_path / "x", 100_000)
    metrics = tmp_path / "x" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert all(p.poll() is None for p in processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    finish(processes, 128 + signal.SIGTERM)
    last = read_json_lines(metrics)[-1]["step"]
    assert [p.name for p in (tmp_path / "x" / "checkpoints").glob("[0-9]*")] == [
        str(last)
    ]


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
