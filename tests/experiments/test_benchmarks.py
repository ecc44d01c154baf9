"""Benchmarks beside others: the order of measuring, the table, and the binary on tiny sizes."""

import csv
import json
import os
import subprocess
import sys

import pytest

from experiments.benchmarks.side_by_side import Measured, Row, in_turn, show, store


def test_ours_and_theirs_take_turns():
    calls = []
    functions = {
        name: lambda number, name=name: calls.append((number, name)) or number
        for name in ("ours", "theirs")
    }
    times = in_turn(functions, 3)
    assert calls == [(n, name) for n in range(3) for name in ("ours", "theirs")]
    for measured, results in times.values():
        assert results == [0, 1, 2]
        assert 0 < measured.least <= measured.median <= measured.most


def test_the_table_holds_medians_ratios_and_blanks(tmp_path, capsys):
    rows = [
        Row(
            what="search",
            unit="s",
            ours=Measured.of([0.002, 0.004, 0.003]),
            other="theirs",
            theirs=Measured.of([0.006]),
            limit=0.001,
            limit_is="memory",
        ),
        Row(what="size", unit="bytes", ours=Measured.of([12345])),
    ]
    show(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "what ours instead theirs ratio limit remark".split()
    assert lines[1].split() == "search 3 ms theirs 6 ms 0.5 1 ms (memory)".split()
    assert lines[2].split() == "size 12,345 bytes".split()
    for _ in range(2):  # a second run replaces the first
        store(
            rows,
            {"revision": "abc"},
            json=str(tmp_path / "a.json"),
            csv_file=str(tmp_path / "deep" / "a.csv"),
        )
    assert json.loads((tmp_path / "a.json").read_text())[0]["ours_max"] == 0.004
    with (tmp_path / "deep" / "a.csv").open() as f:
        first, second = csv.DictReader(f)
    assert (first["ours"], first["ratio"], first["revision"]) == ("0.003", "0.5", "abc")
    assert (second["theirs"], second["ratio"], second["limit"]) == ("", "", "")


def call(root, *arguments, of="deep_k_means"):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.benchmarks.{of}", *arguments],
        cwd=root,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize(
    "parts",
    # Two training steps take long to compile.
    ["kmeans,files", pytest.param("regulariser", marks=pytest.mark.slow)],
)
def test_the_benchmark_of_deep_k_means_measures_its_parts(parts, root, tmp_path):
    pytest.importorskip("sklearn")
    table = tmp_path / "a.csv"
    done = call(root, "--tiny", "--rounds=1", f"--parts={parts}", f"--csv={table}")
    assert done.returncode == 0, done.stderr[-3000:]
    with table.open() as f:
        rows = list(csv.DictReader(f))
    kinds = {row["what"].split(",")[0] for row in rows}
    if parts == "regulariser":
        assert kinds == {
            "training step",
            "regulariser's update",
            "regulariser's refresh",
        }
    else:
        assert {"k-means", "nearest centre", "compress", "size", "load"} <= kinds
        assert "scikit-learn" in {row["other"] for row in rows}
    for row in rows:
        assert row["what"] in done.stdout
        assert 0 <= float(row["ours_min"]) <= float(row["ours"]), row
        assert float(row["ours"]) <= float(row["ours_max"])
        assert row["hardware"]
        assert row["cores"] == "1"
    sizes = [row for row in rows if row["what"].startswith("size")]
    for row in sizes:
        assert float(row["limit"]) < float(row["ours"]) < float(row["theirs"])
    if "kmeans" in parts:  # without faiss a note says so; with it there are rows
        noted = "faiss is not installed" in done.stderr
        assert noted != any(row["other"].startswith("faiss") for row in rows)


@pytest.mark.slow
def test_the_benchmark_of_weaknas_measures_fits_rankings_and_searches(root, tmp_path):
    pytest.importorskip("sklearn")
    table = tmp_path / "a.csv"
    done = call(root, "--tiny", "--rounds=1", f"--csv={table}", of="weaknas")
    assert done.returncode == 0, done.stderr[-3000:]
    with table.open() as f:
        fit, rank, search = csv.DictReader(f)
    assert fit["what"] == "fit, 4x8, 30 labels"
    # limit = 3 x multiply-adds x labels x epochs / rate; ranking: multiply-adds x cells / rate
    epochs = int(fit["remark"].split()[0])
    ratio = float(fit["limit"]) / float(rank["limit"])
    assert ratio == pytest.approx(3 * 30 * epochs / 125, rel=1e-3)
    assert search["other"] == "scikit-learn's loop"
    assert all(float(row["ours"]) > 0 for row in (fit, rank, search))


@pytest.mark.slow  # compiles a training step of the pyramid
def test_the_benchmark_of_deblurgan_v2_compares_equal_networks(root, tmp_path):
    """It times nothing unless both networks give the same picture."""
    pytest.importorskip("torch")
    table = tmp_path / "a.csv"
    done = call(root, "--tiny", "--rounds=1", f"--csv={table}", of="deblurgan_v2")
    assert done.returncode == 0, done.stderr[-3000:]
    with table.open() as f:
        rows = list(csv.DictReader(f))
    assert {"forward, 64x64", "training step, 64x64"} == {row["what"] for row in rows}
    forward, *_, training = (float(row["limit"]) for row in rows)
    assert training == pytest.approx(3 * forward, rel=1e-3)
    assert all(float(row["ours"]) > 0 < float(row["theirs"]) for row in rows)


@pytest.mark.parametrize(
    "part", ["images", pytest.param("networks", marks=pytest.mark.slow)]
)
def test_the_benchmark_of_recognition_compares_equal_networks(part, root, tmp_path):
    """It times nothing unless both networks give the same scores."""
    if part == "networks":
        pytest.importorskip("torch")
    table = tmp_path / "a.csv"
    options = ("--tiny", "--rounds=1", f"--parts={part}", f"--csv={table}")
    done = call(root, *options, of="recognition")
    assert done.returncode == 0, done.stderr[-3000:]
    with table.open() as f:
        rows = list(csv.DictReader(f))
    kinds = {row["what"].rpartition(",")[0] for row in rows}
    if part == "images":
        assert kinds == {"CLAHE", "NIQE"}
        assert all(float(row["ours"]) > 0 for row in rows)
        return
    networks = ("vgg16", "resnet50", "inception_v3", "fpn_segmentation", "dncnn")
    assert kinds == {f"{n}, forward" for n in networks} | {"dncnn, training step"}
    assert all(float(row["ours"]) > 0 < float(row["theirs"]) for row in rows)
    step, *others = (float(r["limit"]) for r in rows[::-1] if "dncnn" in r["what"])
    assert others
    assert all(step == pytest.approx(3 * limit, rel=1e-3) for limit in others)


@pytest.mark.parametrize(
    "part",
    # Six training steps take long to compile.
    ["aggregate", pytest.param("step", marks=pytest.mark.slow)],
)
def test_the_benchmark_of_gradient_harmonization_measures_its_parts(
    part, root, tmp_path
):
    """It times nothing unless PyTorch comes to the same update."""
    pytest.importorskip("torch")
    table = tmp_path / "a.csv"
    arguments = ("--tiny", "--rounds=1", f"--parts={part}", f"--csv={table}")
    done = call(root, *arguments, of="gradient_harmonization")
    assert done.returncode == 0, done.stderr[-3000:]
    with table.open() as f:
        rows = list(csv.DictReader(f))
    assert all(float(row["ours"]) > 0 < float(row["theirs"]) for row in rows)
    if part == "step":
        kinds = {row["what"].split(" tokens, ")[1] for row in rows}
        assert {"embedding", "batch", "triplet, ghost", "triplet, two passes"} <= kinds
        assert all(row["remark"].startswith("memory ") for row in rows)
    else:
        assert {"PyTorch", "PyTorch, a loop"} <= {row["other"] for row in rows}
        noted = "TorchJD left out" in done.stderr
        assert noted or "TorchJD" in {row["other"] for row in rows}


def test_an_unknown_part_is_one_line(root):
    done = call(root, "--parts=kmean")
    assert done.returncode == 2
    assert "unknown part 'kmean': did you mean 'kmeans'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # four processes and four programs to compile
def test_the_benchmark_of_restore_measures_processes_and_tiles(root, tmp_path):
    pytest.importorskip("skimage")
    table = tmp_path / "a.csv"
    done = call(root, "--tiny", f"--csv={table}", of="restore")
    assert done.returncode == 0, done.stderr[-3000:]
    with table.open() as f:
        rows = list(csv.DictReader(f))
    peaks = [float(row["ours"]) for row in rows if row["what"].endswith("peak")]
    assert len(peaks) == 4
    assert all(1e8 < peak < 1e11 for peak in peaks)  # bytes of a process with jax
    alone, merged, known = (float(r["ours"]) for r in rows if r["unit"] == "dB")
    assert alone < merged < known
