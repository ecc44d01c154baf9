"""Means over seeds: right numbers, and no row from a run that did not finish."""

import csv
import json
import subprocess
import sys

import pytest


def make_run(folder, seed, value, finished=True):
    folder.mkdir()
    run = {"finished": finished, "hardware": "h", "revision": f"r{seed}"}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    result = {"scalars": {"a/accuracy": value, "a/nll": 1.0}}
    (folder / "result.json").write_text(json.dumps(result))
    return str(folder)


def collect(root, out, *workdirs):
    return subprocess.run(
        [
            *(sys.executable, "-m", "experiments.results.collect"),
            "--config=experiments/configs/deep_k_means/digits_cnn.py:tour",
            "--split=test",
            "--metrics=*/accuracy*",
            f"--workdirs={','.join(workdirs)}",
            f"--out={out}",
        ],
        cwd=root,
        capture_output=True,
        text=True,
    )


def test_rows_are_means_over_seeds_and_replace_older_ones(root, tmp_path):
    values = [0.9, 0.94, 0.95]
    runs = [make_run(tmp_path / str(i), i, v) for i, v in enumerate(values)]
    out = tmp_path / "toy.csv"
    for chosen in (runs[:1], runs):
        done = collect(root, out, *chosen)
        assert done.returncode == 0, done.stderr
    with out.open(newline="") as f:
        (row,) = csv.DictReader(f)
    assert row["config"] == "deep_k_means/digits_cnn.py:tour"
    assert float(row["our_value"]) == pytest.approx(0.93)
    assert float(row["our_std"]) == pytest.approx(0.026)
    assert (row["seeds"], row["revision"], row["paper_value"]) == ("3", "r0/r1/r2", "")


def test_a_procedure_that_goes_over_seeds_itself_is_one_run(root, tmp_path):
    run = make_run(tmp_path / "a", 0, 0.9)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    result["scalars"] |= {"a/accuracy_std": 0.0123, "a/accuracy_seeds": 5.0}
    result["scalars"] |= {"b/accuracy": 0.5}
    (tmp_path / "a" / "result.json").write_text(json.dumps(result))
    out = tmp_path / "toy.csv"
    done = collect(root, out, run)
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as f:
        rows = [(r["metric"], r["our_std"], r["seeds"]) for r in csv.DictReader(f)]
    assert rows == [("a/accuracy", "0.012", "5"), ("b/accuracy", "", "1")]


def test_unfinished_and_repeated_runs_are_refused(root, tmp_path):
    good = make_run(tmp_path / "a", 0, 0.9)
    half = make_run(tmp_path / "b", 1, 0.9, finished=False)
    again = make_run(tmp_path / "c", 0, 0.9)
    for other, reason in ((half, "has not finished"), (again, "each may count once")):
        done = collect(root, tmp_path / "toy.csv", good, other)
        assert done.returncode == 2
        assert reason in done.stderr
        assert not (tmp_path / "toy.csv").exists()
