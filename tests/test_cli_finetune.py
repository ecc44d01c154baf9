"""zoo-jax compress --finetune: trained centres in a file that keeps its budget."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import zoo_jax
from zoo_jax import cli, convert, models
from zoo_jax.core.files import write_json
from zoo_jax.core.tree import named_leaves
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import open_source
from zoo_jax.methods.deep_k_means.artefact import load_compressed
from zoo_jax.methods.deep_k_means.compress_file import expand

NAME = "deep_k_means/digits_cnn"
SMALL = dict(widths=(4, 24), strides=(2, 2), num_classes=4)
CONFIG = """
from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config


def get_config(arg=None):
    opt = parse_arg(arg, steps=6, lr=0.01, widths="4-24", drop="", task="deep_k_means")
    images = dict(name="synthetic_images", height=28, width=28, channels=1, num_classes=4)
    images["transform"] = [dict(name="to_float")]
    c = base_config(task=opt.task, seed=3, steps=opt.steps)
    widths = [int(w) for w in opt.widths.split("-")]
    c.model = dict(name="digits_cnn", widths=widths, strides=[2, 2], num_classes=4)
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(name="adam", lr=opt.lr)
    c.data = dict(
        train=dict(images, size=40, batch_size=8),
        test=dict(images, size=30, split="test", batch_size=16),
    )
    c.eval = dict(test=dict(stream="test", every=0))
    if opt.drop == "train":
        del c.data["train"]
    elif opt.drop:
        del c[opt.drop]
    return c
"""


@pytest.fixture(scope="module")
def model():
    return zoo_jax.create_model(NAME, seed=3, **SMALL)


@pytest.fixture
def here(tmp_path, monkeypatch, model):
    """A folder with the network as w.npz, and a config."""
    monkeypatch.chdir(tmp_path)
    arrays = convert.invert(models.model_table(NAME, model.module), model.variables)
    np.savez("w.npz", **arrays)
    (tmp_path / "c.py").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def run(capsys, here):
    def call(*argv):
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call


def accuracy(weights):
    """On the config's test stream, in another way than the command measures it."""
    net = zoo_jax.create_model(NAME, weights=weights, **SMALL)
    spec = dict(name="synthetic_images", split="test", size=30, num_classes=4)
    source = open_source(spec | dict(height=28, width=28, channels=1))
    transform = [dict(name="to_float")]
    (batch,) = eval_batches(source, batch_size=30, transform=transform)
    return float((np.argmax(net(batch["image"]), 1) == batch["label"]).mean())


def finetune(run, *more, config="c.py", source="w.npz", out="o.zdkm"):
    return run(
        *("compress", source, "-o", out, "--target-ratio", 4, "--json", "r.json"),
        *("--finetune", config, *more),
    )


def test_the_file_holds_trained_centres_and_keeps_its_size(run, here, model):
    code, out, err = finetune(run, config="c.py:steps=12")
    assert (code, err) == (0, "")
    report = json.loads((here / "r.json").read_text())
    stages = report["finetune"]
    assert (stages["config"], stages["steps"]) == ("c.py:steps=12", 12)
    assert report["bytes"] == (here / "o.zdkm").stat().st_size <= report["target_bytes"]
    # The numbers are those of the networks themselves.
    assert stages["dense"]["test/accuracy"] == pytest.approx(accuracy("w.npz"))
    assert stages["tuned"]["test/accuracy"] == pytest.approx(accuracy("o.zdkm"))
    assert stages["tuned"]["test/nll"] < stages["assigned"]["test/nll"] - 0.05
    for name in ("accuracy", "nll"):
        (line,) = (t.split() for t in out.splitlines() if t.startswith(f"test/{name}"))
        shown = [stages[s][f"test/{name}"] for s in ("dense", "assigned", "tuned")]
        assert line[1:] == [f"{value:.4f}" for value in shown]
    # The same kernels are shared as without training, with other centres; the rest moved.
    run("convert", "--model", NAME, *SETTING, "w.npz", "-o", "folder")
    run("compress", "folder", "-o", "plain.zdkm", "--target-ratio", 4)
    before, _ = expand("plain.zdkm")
    after, _ = expand("o.zdkm")
    assert before.keys() == after.keys()
    rows = {row["path"]: row for row in report["layers"]}
    for key, array in after.items():
        assert array.shape == before[key].shape
        assert (array != before[key]).any(), key
        if rows.get(key, {}).get("num_clusters") and rows[key]["samples"] == "scalar":
            assert len(np.unique(array)) <= rows[key]["num_clusters"]


SETTING = [
    a for k, v in SMALL.items() for a in ("--set", f"{k}={str(v).replace(' ', '')}")
]


def test_indices_are_those_of_the_assignment(run):
    finetune(run, config="c.py:lr=1e-30", out="still.zdkm")
    finetune(run, config="c.py:steps=9", out="moved.zdkm")
    still, moved = (
        named_leaves(load_compressed(f"{n}.zdkm")[0]) for n in ("still", "moved")
    )
    key = "params/conv2/kernel"
    assert not np.array_equal(still[key], moved[key])
    a, b = (np.unique(x[key], return_inverse=True)[1] for x in (still, moved))
    # Equal before and after, up to the order of the values.
    assert len(set(zip(a.ravel(), b.ravel(), strict=True))) == len(set(b.ravel()))


@pytest.mark.parametrize("kind", ["converted", "run"])
def test_our_own_weights_are_taken_too(run, here, model, kind):
    if kind == "run":
        write_run(model)
    else:
        run("convert", "--model", NAME, *SETTING, "w.npz", "-o", kind)
    # A list of layers, since the name of the input counts in a budget.
    spec = [{"path": "params/*/kernel", "num_clusters": 9, "samples": "scalar"}]
    write_json("s.json", spec)
    for source, out in (("w.npz", "a"), (kind, "b")):
        code, _, err = run(
            *("compress", source, "-o", out, "--spec", "s.json", "--finetune", "c.py")
        )
        assert (code, err) == (0, "")
    left, right = expand("a")[0], expand("b")[0]
    for key, array in left.items():
        np.testing.assert_array_equal(array, right[key], err_msg=key)
    assert len(np.unique(left["params/conv2/kernel"])) == 9


def write_run(model):
    from zoo_jax.train.checkpoint import Checkpointer

    variables = dict(model.variables)
    params = {"network": variables.pop("params")}
    state = {
        "step": np.int32(20),
        "params": params,
        "model_state": {"network": variables},
    }
    with Checkpointer("run/checkpoints") as checkpointer:
        checkpointer.save(20, jax.device_get(state), iterator={}, meta={})
    section = {"name": "digits_cnn", **SMALL}
    write_json("run/config.json", {"task": "deep_k_means", "model": section})


MISTAKES = [
    ("none.py", [], "no config file 'none.py'"),
    ("w.npz", [], "w.npz: is no Python file"),
    ("broken.py", [], "broken.py: gives no config: ZeroDivisionError"),
    ("empty.py", [], "empty.py: gives no config: AttributeError"),
    ("c.py:stepz=3", [], "did you mean 'steps'"),
    ("c.py:task=", [], "unknown method ''"),
    ("c.py:task=deep_k_mean", [], "did you mean 'deep_k_means'"),
    ("c.py:drop=model", [], "the config has no model"),
    ("c.py:drop=eval", [], "the config has no eval"),
    ("c.py:drop=data", [], "the config has no data"),
    ("c.py:drop=train", [], "no data.train"),
    ("c.py:steps=0", [], "steps=0: it must be at least 1"),
    ("c.py", ["--layout", "torch"], "--layout goes without --finetune"),
]


@pytest.mark.parametrize(("config", "more", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, here, config, more, message):
    (here / "broken.py").write_text("1 / 0")
    (here / "empty.py").write_text("")
    before = sorted(p.name for p in here.iterdir())
    code, _, err = finetune(run, *more, config=config)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert sorted(p.name for p in here.iterdir() if p.name != "__pycache__") == before


def test_a_config_may_build_on_another_of_the_folder_it_is_run_from(run, here):
    # As under `python -m`; the installed command has only its own folder on the path.
    (here / "base_of_it.py").write_text(CONFIG)
    lines = "import base_of_it\ndef get_config(arg=None):\n    return "
    (here / "on_it.py").write_text(f"{lines}base_of_it.get_config('steps=1')\n")
    before = list(sys.path)
    code, _, err = run(
        *("compress", "w.npz", "-o", "o.zdkm", "--target-ratio", 4),
        *("--finetune", "on_it.py"),
    )
    assert (code, err) == (0, "")
    assert sys.path == before


def test_weights_of_another_network_are_refused(run, here):
    code, _, err = finetune(run, config="c.py:widths=6-24")
    assert (code, err.count("\n")) == (2, 1)
    assert "w.npz" in err
    assert "conv1" in err
    assert not (here / "o.zdkm").exists()


def test_ctrl_c_leaves_nothing(here):
    """In a process of its own, while it trains."""
    command = [sys.executable, "-m", "zoo_jax.cli", "compress", "w.npz", "-o", "o.zdkm"]
    command += ["--target-ratio", "4", "--finetune", "c.py:steps=100000"]
    scratch = here / "scratch"
    scratch.mkdir()
    env = os.environ | {"TMPDIR": str(scratch)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.time() + 300
    while not list(scratch.glob("*/fine-tuning/metrics.jsonl")):
        assert process.poll() is None, process.stderr.read()
        assert time.time() < deadline
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "zoo-jax: interrupted\n")
    assert not list(scratch.iterdir())
    names = {p.name for p in here.iterdir()} - {"__pycache__"}
    assert names == {"w.npz", "c.py", "scratch"}
