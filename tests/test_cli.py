"""The command line: what it prints, what it leaves on disk, and how it fails."""

import errno
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import zoo_jax
from zoo_jax import cli, convert, models

NAME = "deep_k_means/digits_cnn"
SMALL = dict(widths=(3,), strides=(2,), num_classes=4)
SET = ["--set", "widths=(3,)", "--set", "strides=(2,)", "--set", "num_classes=4"]


@pytest.fixture(scope="module")
def model():
    return zoo_jax.create_model(NAME, seed=3, **SMALL)


@pytest.fixture
def published(model, tmp_path):
    """A published file of a small network."""
    table = models.model_table(NAME, model.module)
    np.savez(tmp_path / "w.npz", **convert.invert(table, model.variables))
    return tmp_path / "w.npz"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command line in `tmp_path`: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call


def fails(result, message):
    """Exit code 2 and one line that starts as promised."""
    code, _, err = result
    assert code == 2
    assert err.startswith("zoo-jax: error: ")
    assert err.count("\n") == 1
    assert message in err


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# --- help and mistakes on the command line --------------------------------------------------


@pytest.mark.parametrize("command", list(cli._COMMANDS))
def test_every_help_shows_command_lines(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"  zoo-jax {command} " in out or f"  zoo-jax {command}\n" in out


def test_every_command_is_in_the_help(run):
    code, out, _ = run("--help")
    assert code == 0
    for name, command in cli._COMMANDS.items():
        assert name in out
        assert command.summary in " ".join(out.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["convrt"], "invalid choice: 'convrt'"),
        (["models", "--jso", "x"], "--jso"),
        (["convert", "w.npz"], "--model"),
        (["convert", "--model", "x", "w.npz", "-o", "o"], "unknown model 'x'"),
        (["convert", "--model", NAME, "no.npz", "-o", "o"], "no.npz: there is no such"),
        (
            ["convert", "--model", NAME, "w.npz", "-o", "o", "--set", "widths"],
            "--set takes KEY=VALUE",
        ),
        (
            ["convert", "--model", NAME, "w.npz", "-o", "o", "--set", "widht=3"],
            "did you mean 'widths'",
        ),
        (
            [
                "export",
                "--model",
                NAME,
                "--weights",
                "w.npz",
                "-o",
                "o",
                "--batch",
                "x",
            ],
            "--batch is a number or 'symbolic', not 'x'",
        ),
        (
            [
                "export",
                "--model",
                NAME,
                "--weights",
                "w.npz",
                "-o",
                "o",
                "--batch",
                "0",
            ],
            "must be at least 1, got 0",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path, argv, message):
    table = models.model_table(NAME, models.build_module(NAME))
    variables = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        models.abstract_variables(NAME, models.build_module(NAME)),
    )
    np.savez(tmp_path / "w.npz", **convert.invert(table, variables))
    fails(run(*argv), message)
    assert tree(tmp_path) == ["w.npz"]


# --- models ---------------------------------------------------------------------------------


def test_models_lists_every_network_with_its_size(run, tmp_path):
    code, out, err = run("models", "--json", "m.json")
    assert (code, err) == (0, "")
    rows = {
        r["name"]: r for r in json.loads((tmp_path / "m.json").read_text())["models"]
    }
    assert tuple(rows) == zoo_jax.list_models()
    # Counted by hand from the published layer sizes.
    assert rows["deep_k_means/wide_resnet_16_4"]["parameters"] == 2_751_146
    assert rows["deep_k_means/lenet_caffe_5"]["parameters"] == 431_080
    assert "2,751,146  1x32x32x3" in out


# --- convert --------------------------------------------------------------------------------


def test_a_converted_folder_is_the_published_network(run, model, published, tmp_path):
    argv = ["convert", "--model", NAME, *SET, published, "-o", "deep/out"]
    code, out, err = run(*argv, "--json", "c.json")
    assert (code, err) == (0, "")
    assert "conv1.weight -> params/conv1/kernel" in out
    assert "7 matched" in out
    assert tree(tmp_path / "deep") == [
        "out",
        "out/model.json",
        "out/variables.safetensors",
    ]
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["ok"]
    assert ["linear.bias", "params/linear/bias"] in result["matched"]
    got = zoo_jax.create_model(NAME, weights=tmp_path / "deep/out")
    assert got.module == model.module
    jax.tree.map(np.testing.assert_array_equal, got.variables, model.variables)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "deep/out").stat().st_mode & 0o777 == 0o777 & ~umask


def test_keys_that_do_not_fit_are_printed_and_nothing_is_written(
    run, published, tmp_path
):
    arrays = dict(np.load(published)) | {"extra": np.zeros(2)}
    del arrays["linear.bias"]
    np.savez(published, **arrays)
    argv = [
        "convert",
        "--model",
        NAME,
        *SET,
        published,
        "-o",
        "out",
        "--json",
        "c.json",
    ]
    code, out, err = run(*argv)
    fails((code, out, err), "missing: linear.bias")
    assert "1 in the file have no place in the network:\n  extra" in out
    assert "1 are missing in the file:\n  linear.bias" in out
    assert "6 matched" in out
    result = json.loads((tmp_path / "c.json").read_text())
    assert (result["ok"], result["unmatched"], result["missing"]) == (
        False,
        ["extra"],
        ["linear.bias"],
    )
    assert tree(tmp_path) == ["c.json", "w.npz"]


def test_only_a_converted_folder_is_replaced_and_only_when_forced(
    run, published, tmp_path
):
    argv = ["convert", "--model", NAME, *SET, published, "-o", "out"]
    (tmp_path / "out").mkdir()  # an empty folder is no obstacle
    assert run(*argv)[0] == 0
    fails(run(*argv), "replace it with --force")
    (tmp_path / "out" / "old").touch()
    assert run(*argv, "--force")[0] == 0
    assert tree(tmp_path / "out") == ["model.json", "variables.safetensors"]
    (tmp_path / "out" / "model.json").unlink()
    fails(run(*argv, "--force"), "no converted model")
    assert tree(tmp_path / "out") == ["variables.safetensors"]
    fails(run(*argv[:-1], "w.npz"), "is a file")
    assert tree(tmp_path) == ["out", "out/variables.safetensors", "w.npz"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device: free some space"),
        (errno.EACCES, "Permission denied: choose a place"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_is_one_line_and_keeps_the_old_folder(
    run, published, tmp_path, monkeypatch, number, message
):
    argv = ["convert", "--model", NAME, *SET, published, "-o", "out", "--force"]
    assert run(*argv)[0] == 0
    before = {p: (tmp_path / p).read_bytes() for p in tree(tmp_path) if "." in p}

    def full(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    fails(run(*argv), message)
    monkeypatch.undo()
    assert {
        p: (tmp_path / p).read_bytes() for p in tree(tmp_path) if "." in p
    } == before


def test_an_interrupt_leaves_nothing(run, published, tmp_path, monkeypatch):
    def interrupt(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    argv = ["convert", "--model", NAME, *SET, published, "-o", "out"]
    assert run(*argv)[::2] == (130, "zoo-jax: interrupted\n")
    assert tree(tmp_path) == ["w.npz"]


def test_a_failed_swap_puts_the_old_folder_back(run, published, tmp_path, monkeypatch):
    argv = ["convert", "--model", NAME, *SET, published, "-o", "out", "--force"]
    assert run(*argv)[0] == 0
    (tmp_path / "out" / "mark").touch()
    rename = os.rename

    def unlucky(source, target, **kw):
        if os.path.basename(source) == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target, **kw)

    monkeypatch.setattr(os, "rename", unlucky)
    fails(run(*argv), "Input/output error")
    assert "out/mark" in tree(tmp_path)
    assert not [p for p in tree(tmp_path) if p.startswith(".")]


# --- export ---------------------------------------------------------------------------------


def test_export_writes_a_program_and_its_description(run, model, published, tmp_path):
    argv = [
        "export",
        "--model",
        NAME,
        *SET,
        "--weights",
        published,
        "-o",
        "m.stablehlo",
    ]
    code, out, err = run(*argv, "--batch", "2", "--platforms", "cpu,tpu")
    assert (code, err) == (0, "")
    assert "input 2 x 28 x 28 x 1" in out
    facts = json.loads((tmp_path / "m.stablehlo.json").read_text())
    assert facts["platforms"] == ["cpu", "tpu"]
    program = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    x = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    np.testing.assert_allclose(program.call(x), model(x), rtol=1e-5, atol=1e-5)


# --- as a process ---------------------------------------------------------------------------


def test_the_module_runs_as_a_program(published, tmp_path):
    argv = ["convert", "--model", NAME, *SET, published.name, "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "zoo_jax.cli", *argv],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(models.__file__).rsplit("/", 2)[0]},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote out" in done.stdout


def test_a_mistake_of_the_user_shows_no_traceback(tmp_path):
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04 and then nonsense")
    argv = ["convert", "--model", NAME, "w.npz", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "zoo_jax.cli", *argv],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(models.__file__).rsplit("/", 2)[0]},
        capture_output=True,
        text=True,
    )
    fails((done.returncode, done.stdout, done.stderr), "w.npz: is no intact .npz")
