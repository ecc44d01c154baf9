"""The tour: complete, in an order that works, and well-behaved when something stops it."""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

import zoo_jax
from experiments import tour
from zoo_jax.core.config import flatten

STEPS = [(name, step) for name, steps in tour.TOUR.items() for step in steps]


def load_config(root, step):
    file, _, argument = step.config.partition(":")
    path = root / "experiments/configs" / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def test_every_method_has_a_tour():
    assert set(tour.TOUR) == set(zoo_jax.list_methods())


@pytest.mark.parametrize("name", tour.TOUR)
def test_steps_read_only_what_earlier_ones_wrote(root, name):
    written = set()
    for step in tour.TOUR[name]:
        config = load_config(root, step)
        assert config.task == name
        read = {
            value
            for value in flatten(config).values()
            if isinstance(value, str) and value.startswith(tour.WORKDIRS)
        }
        assert read <= written, f"{step.config} reads {read - written}"
        workdir = f"{tour.WORKDIRS}/{step.workdir}"
        assert step.workdir.split("/")[0] == name
        assert workdir not in written
        written.add(workdir)


@pytest.mark.parametrize("step", [s for _, s in STEPS], ids=lambda s: s.workdir)
def test_procedures_go_to_run_and_trainings_to_train(root, step):
    assert step.binary == ("run" if load_config(root, step).procedure else "train")


def start(code: str, root) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom experiments import tour\n{code}"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_first_failure_ends_it_with_its_exit_code(root):
    process = start(
        """
from absl import flags
tour.Step.arguments = property(lambda self: ["-c", self.config])
good, bad = "print('ran', flush=True)", "raise SystemExit(7)"
steps = [tour.Step(f"step {c}", "train", c, "w") for c in (good, bad, good)]
tour.TOUR = {"toy": tuple(steps)}
flags.FLAGS(["tour", "--method=toy"])
sys.exit(tour.main([]))
""",
        root,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 7, err
    assert out.splitlines().count("ran") == 1
    assert "[2/3] toy: step raise" in out
    assert "stopped with exit code 7" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_child_once_and_its_saving_is_awaited(root, number):
    child = f"""
import signal, sys, time
seen = []
signal.signal({int(number)}, lambda *_: seen.append(1))
print("ready", flush=True)
while not seen:
    time.sleep(0.02)
time.sleep(0.3)
print("saved after", len(seen), flush=True)
sys.exit(128 + {int(number)})
"""
    process = start(f"sys.exit(tour._call(['-c', {child!r}]))", root)
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, number)  # as a terminal does for Ctrl-C
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "saved after 1" in out


def test_an_unknown_method_is_one_line(root):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.tour", "--method=deep_kmeans"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: no tour of 'deep_kmeans': did you mean 'deep_k_means'?"
    ]
