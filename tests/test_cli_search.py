"""zoo-jax search: what it prints and writes, what it survives, and what it refuses."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from zoo_jax import cli
from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas.spaces import open_pool
from zoo_jax.methods.weaknas.trials import JOURNAL
from zoo_jax.train.workdir import lock_workdir

SPACE = """
def get_space():
    return {"width": [16, 32, 64], "act": ["relu", "gelu"], "depth": [2, 3, 4]}
"""
TRAIN = """
import json, pathlib, sys, time
config = json.loads(pathlib.Path(sys.argv[1]).read_text())
ran, wait = pathlib.Path("ran"), pathlib.Path("wait")
while wait.exists() and ran.exists() and ran.read_text().count("\\n") == int(wait.read_text()):
    time.sleep(0.02)
with open("ran", "a") as f:
    print(sys.argv[1], file=f)
if config["act"] == "relu" and config["depth"] == 4:
    sys.exit("diverged")
print("accuracy", config["width"] / 64 + config["depth"] / 10)
"""
SIZE = ["--budget", 7, "--first", 3, "--batch", 2]
COMMAND = ["search", "--space", "space.py", "--command"]
COMMAND += [f"{sys.executable} -I -S train.py {{config}}", *SIZE]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a space and a program that trains."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


@pytest.fixture
def run(capsys, here):
    """Runs a command line: (exit code, standard output, standard error)."""

    def call(*argv):
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call


def launch(*argv):
    return subprocess.Popen(
        [sys.executable, "-m", "zoo_jax.cli", *map(str, argv)],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(folder):
    lines = (folder / JOURNAL).read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == "end"]


def record(folder):
    """What must be the same however often the search was interrupted."""
    dropped = ("seconds", "time")
    kept = [{k: v for k, v in e.items() if k not in dropped} for e in ends(folder)]
    return sorted(kept, key=lambda e: (e["trial"], e["attempt"]))


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fails(result, message):
    code, _, err = result
    assert code == 2
    assert err.startswith("zoo-jax: error: ")
    assert err.count("\n") == 1
    assert message in err


# --- with a command -------------------------------------------------------------------------


def test_a_search_runs_every_trial_and_names_the_best(run, here):
    argv = [*COMMAND, "--parallel", 2, "-o", "out", "--json", "r.json"]
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    done = {e["trial"]: e for e in ends(here / "out")}
    assert sorted(done) == list(range(7))
    for event in done.values():
        config = event["config"]
        if config["act"] == "relu" and config["depth"] == 4:
            assert event["reason"] == "exit code 1: diverged"
        else:
            assert event["value"] == config["width"] / 64 + config["depth"] / 10
    assert len({e["index"] for e in done.values()}) == 7
    result = json.loads((here / "r.json").read_text())
    best = max((e["value"], -e["trial"]) for e in done.values() if e["value"])
    assert (result["best"]["value"], -result["best"]["trial"]) == best
    assert json.loads((here / "out" / "best.json").read_text()) == result["best"]
    assert [t["trial"] for t in result["trials"]] == list(range(7))
    assert result["failed"] == sum(e["state"] == "failed" for e in done.values())
    assert f"best of 7 trials: {best[0]:.6g}, trial {-best[1]}: width=" in out
    # Once more: nothing is run, the same is said.
    again = run(*argv)
    assert again[0] == 0
    assert again[1].splitlines()[-3:] == out.splitlines()[-3:]
    assert len((here / "ran").read_text().splitlines()) == 7


def test_a_search_cut_off_three_times_ends_like_an_undisturbed_one(run, here):
    assert run(*COMMAND, "-o", "whole")[0] == 0
    (here / "ran").unlink()
    signals = {1: signal.SIGKILL, 3: signal.SIGTERM, 4: signal.SIGINT}
    for count, signum in signals.items():
        (here / "wait").write_text(str(count))  # the trial after so many hangs
        searcher = launch(*COMMAND, "-o", "cut")
        wait_for((here / "cut" / "trials" / f"{count:05}.out").exists)
        time.sleep(0.1)
        searcher.send_signal(signum)
        out, err = searcher.communicate(timeout=120)
        assert sorted(e["trial"] for e in ends(here / "cut")) == list(range(count))
        if signum == signal.SIGKILL:
            assert searcher.returncode == -signum
            with (here / "cut" / JOURNAL).open("a") as f:
                f.write('{"event": "end", "tri')  # as if it had hit a write
        else:
            assert (searcher.returncode, err) == (130, "zoo-jax: interrupted\n")
            assert f"stopped: {count} of 7 trials" in out
            assert "the same command goes on" in out
    (here / "wait").unlink()
    assert run(*COMMAND, "-o", "cut", "--parallel", 2)[0] == 0
    assert record(here / "cut") == record(here / "whole")
    # Trials that hung have been ended: they would have run on once the file was gone.
    assert len((here / "ran").read_text().splitlines()) == 7


def test_a_second_searcher_and_other_settings_are_refused(run, here):
    argv = [*COMMAND, "-o", "out", "--minimize"]
    code, out, _ = run(*argv)
    assert code == 0
    values = [e["value"] for e in ends(here / "out") if e["value"] is not None]
    assert f"best of 7 trials: {min(values):.6g}, " in out
    assert "idle" not in out
    assert "--batch 2 is no multiple of --parallel 3" in run(*argv, "--parallel", 3)[1]
    before = (here / "out" / JOURNAL).read_bytes()
    with lock_workdir(here / "out"):
        fails(run(*argv), f"is in use by process {os.getpid()}")
    fails(run(*COMMAND, "-o", "out"), "minimize True, not False")
    fails(run(*argv, "--seed", 1), "seed 0, not 1")
    fails(run(*argv, "--budget", 5), "budget 7, not 5")
    fails(run(*argv, "--predictor", "mlp", "--policy", "greedy"), "'gp'}, not")
    (here / "space.py").write_text(SPACE.replace("64", "128"))
    fails(run(*argv), "begun with space 'space, 18 architectures, checksum")
    assert (here / "out" / JOURNAL).read_bytes() == before


MISTAKES = [
    (["--command", "true {config}", "--space", "space.py"], "needs -o DIR"),
    (["--command", "true", "--space", "space.py", "-o", "out"], "has no {config}"),
    (
        ["--command", "tru {config}", "--space", "space.py", "-o", "out"],
        "tru: is not on",
    ),
    (
        ["--command", "true {config}", "--space", "none.py", "-o", "out"],
        "none.py: there is no such file",
    ),
    (
        ["--command", "true {config}", "--space", "synthetc", "-o", "out"],
        "did you mean 'synthetic'",
    ),
    *(
        (
            ["--command", "true {config}", "--space", "space.py", "-o", "out", *extra],
            text,
        )
        for extra, text in [
            (["--parallel", "0"], "--parallel must be at least 1, got 0"),
            (["--retries", "-1"], "--retries must be at least 0, got -1"),
            (["--timeout", "0"], "--timeout must be above 0"),
            (["--budget", "19"], "budget=19 exceeds the 18"),
            (["--budget", "2"], "first=10, budget=2"),
            (["--batch", "0"], "batch=0"),
            (["--predictor", "random_forest"], "is for tables"),
            (["--predictor", "gcn"], "needs graphs"),
            (["--predictor", "gpp"], "did you mean 'gp'"),
            (["--policy", "thompson"], "needs an ensemble"),
            (["--repeats", "3"], "--repeats goes with a table, not with --command"),
            (["-o", "train.py"], "train.py: is a file"),
            (["-o", "."], "is not empty and no search"),
        ]
    ),
    (["--space", "space.py"], "space has no measurements"),
    (["--space", "synthetc"], "did you mean 'synthetic'"),
    (["--space", "nas_bench_graph", "--dataset", "corra"], "did you mean 'cora'"),
    (
        ["--space", "nas_bench_201", "--dataset", "cifar10", "--table", "no.npz"],
        "no table no.npz",
    ),
    *(
        (["--space", "synthetic", *extra], text)
        for extra, text in [
            (["--dataset", "x"], "has no argument 'dataset'"),
            (["--budget", "700"], "budget=700"),
            (["--budget", "5"], "budget=5 must"),
            (["--budget", "15"], "must be a multiple of batch=10"),
            (["--predictor", "mpl"], "did you mean 'mlp'"),
            (["--policy", "greddy"], "did you mean 'greedy'"),
            (["--predictor", "random_forest", "--policy", "ei"], "go with trees"),
            (
                ["--label", "tset"],
                "--label: synthetic has no 'tset': did you mean 'test'",
            ),
            (["--judge", "val"], "--judge: synthetic has no 'val'"),
            (["--top", "0"], "top_n must be 1 or more"),
            (["--repeats", "0"], "--repeats must be at least 1, got 0"),
            (["-o", "out"], "--output goes with --command"),
            (["--preset", "paperr"], "invalid choice: 'paperr'"),
            (["--budget", "ten"], "'ten'"),
        ]
    ),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, here, argv, message):
    before = sorted(here.rglob("*"))
    budget = 20 if "synthetic" in argv else 12
    fails(run("search", "--budget", budget, *argv), message)
    assert sorted(here.rglob("*")) == before


# --- against a table ------------------------------------------------------------------------

TABLE = ["search", "--space", "synthetic", "--preset", "best"]
TABLE += ["--budget", 12, "--first", 4, "--batch", 4]


def test_repeated_searches_are_averaged_under_three_rules(run, here):
    argv = [*TABLE, "--repeats", 3, "--json", "r.json", "--figure", "f.png"]
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    result = json.loads((here / "r.json").read_text())
    assert result["queries"] == [4, 8, 12]
    assert (result["predictor"], result["policy"]) == ({"name": "gp"}, "ei")
    best = result["best_test_mean"]
    pool = open_pool("synthetic")
    ceiling = pool.labels["test"].max()
    assert best == sorted(best)
    assert best[-1] <= ceiling
    assert best[0] > pool.labels["test"].mean()
    for rule in ("honest", "predicted"):
        assert (np.array(result[f"{rule}_mean"]) <= np.array(best) + 1e-4).all()
    assert all(0 < e < 20 for e in result["best_test_stderr"])
    found = result["first_search"]["best_label"]
    assert found["architecture"] == pool.describe(found["index"])
    assert found["judge"] == pytest.approx(
        pool.labels["test"][found["index"]], abs=1e-3
    )
    rows = [line.split("  ") for line in out.splitlines()]
    assert f"{best[1]:.4g} ± {result['best_test_stderr'][1]:.2g}" in "".join(out)
    assert [row[0].strip() for row in rows[:4] if row[0].strip()] == ["queries"]
    assert (here / "f.png").read_bytes().startswith(b"\x89PNG")
    # The same command finds the same, to the last digit.
    assert run(*argv)[0] == 0
    assert json.loads((here / "r.json").read_text()) == result


def test_one_search_has_no_standard_error(run, here):
    code, out, err = run(*TABLE, "--json", "r.json")
    assert (code, err) == (0, "")
    assert "±" not in out
    text = (here / "r.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["best_test_stderr"] == [None] * 3


def test_labels_that_are_missing_are_failed_trainings(run, here, monkeypatch):
    from zoo_jax.methods.weaknas import spaces

    def holey(*args, keep=300, **kwargs):
        pool = open_pool("synthetic")
        pool.labels["search"][keep:] = np.nan
        return pool

    monkeypatch.setattr(spaces, "open_pool", holey)
    code, out, _ = run(*TABLE)
    assert code == 0
    assert "# 325 of 625 have no 'search': they count as failed" in out
    monkeypatch.setattr(spaces, "open_pool", lambda *a, **k: holey(keep=0))
    fails(run(*TABLE), "all 625 values of 'search' of synthetic are NaN")


def test_trees_search_too(run, here):
    pytest.importorskip("sklearn")
    argv = ["search", "--space", "synthetic", "--budget", 10]
    code, out, err = run(*argv, "--predictor", "random_forest")
    assert (code, err) == (0, "")
    assert "predicted best of the first search:" in out


@pytest.mark.parametrize(
    ("argv", "section"),
    [
        ([], {"predictor": {"name": "mlp"}, "policy": "uniform", "top_n": 62}),
        (["--preset", "best"], {"predictor": {"name": "gp"}, "policy": "ei"}),
        (["--preset", "best", "--policy", "greedy"], {"policy": "greedy"}),
        (["--members", 3, "--top", 7], {"predictor": {"name": "mlp", "members": 3}}),
        (
            ["--top", 7, "--first", 5, "--batch", 3],
            {"top_n": 7, "first": 5, "batch": 3},
        ),
    ],
)
def test_a_preset_fills_in_what_is_not_said(run, here, monkeypatch, argv, section):
    from zoo_jax.methods.weaknas import searchers

    got = {}

    def make_runner(section, pool, label):
        got.update(section)
        raise ConfigError("enough")

    monkeypatch.setattr(searchers, "make_runner", make_runner)
    fails(run("search", "--space", "synthetic", "--budget", 20, *argv), "enough")
    assert section.items() <= got.items()
    assert got["method"] == "weak_predictor"


def test_a_space_takes_its_own_arguments_from_the_command_line(run):
    argv = ["search", "--space", "synthetic", "--set", "slots=3", "--set", "choices=2"]
    argv += ["--first", 2, "--batch", 2, "--predictor", "gp", "--json", "out.json"]
    assert run(*argv, "--budget", 8)[0] == 0  # 2 ** 3 architectures
    fails(run(*argv, "--budget", 10), "8")
    fails(run(*argv, "--budget", 8, "--set", "slot=3"), "no argument 'slot'")
    fails(run(*argv, "--budget", 8, "--set", "table=x.npz"), "use --table")
    fails(run(*argv, "--budget", 8, "--set", "slots"), "KEY=VALUE")
