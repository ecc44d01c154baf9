import csv

import pytest
from absl.testing import flagsaver

from experiments.results import collect_sharing
from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.files import write_json


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "study"
    values = {v: 0.5 for v in collect_sharing.VALUES}
    errors = {f"{v}_se": 0.015625 for v in collect_sharing.VALUES}
    mean = {"arm": "plain", "budget": "k04", "seeds": 3, "dense_bytes": 1000.0}
    mean |= values | errors | {"bytes": 50.0, "ratio": 20.0}
    matched = {
        "arm": "plain",
        "at_20x": 0.75,
        "at_20x_se": 0.25,
        "at_30x": float("nan"),
    }
    tables = [
        {"name": "means", "rows": [mean]},
        {"name": "matched", "rows": [matched | {"at_30x_se": float("nan")}]},
    ]
    scalars = {"dense/accuracy": 0.96875, "dense/accuracy_se": 0.0078125}
    write_json(folder / "result.json", {"scalars": scalars, "tables": tables})
    facts = {"finished": True, "hardware": "1 x cpu", "revision": "abc"}
    write_json(folder / "run.json", facts)
    write_json(folder / "config.json", {"study": {"stream": "test"}})
    (folder / "figures").mkdir()
    (folder / "figures" / "sharing_study.png").write_bytes(b"picture")
    return folder


def collect(tmp_path, pair):
    out = tmp_path / "out.csv"
    with flagsaver.flagsaver(workdirs=[pair], out=str(out), figures=str(tmp_path)):
        collect_sharing.main([])
    return list(csv.DictReader(out.read_text().splitlines()))


def test_means_become_rows_behind_the_dense_networks(workdir, tmp_path, capsys):
    dense, plain = collect(tmp_path, f"MNIST-5k={workdir}")
    assert (dense["arm"], dense["accuracy"], dense["bytes"]) == (
        "dense",
        "0.96875",
        "1000",
    )
    assert (plain["dataset"], plain["split"], plain["arm"]) == (
        "MNIST-5k",
        "test",
        "plain",
    )
    assert (plain["accuracy"], plain["accuracy_se"]) == ("0.5", "0.015625")
    assert plain["revision"] == "abc"
    copied = tmp_path / "deep_k_means_sharing_mnist5k.png"
    assert copied.read_bytes() == b"picture"
    printed = capsys.readouterr().out
    assert "| 50.00 ± 1.56 | 50 | 20.0 |" in printed
    assert "| plain | 75.00 ± 25.00 |  |" in printed  # no file at 30x: blank


def test_unfinished_studies_and_pairs_without_a_name_are_named(workdir, tmp_path):
    with pytest.raises(ConfigError, match="takes NAME=FOLDER"):
        collect(tmp_path, str(workdir))
    write_json(
        workdir / "run.json", {"finished": False, "hardware": "h", "revision": "r"}
    )
    with pytest.raises(DataError, match="has not finished"):
        collect(tmp_path, f"a={workdir}")
    with pytest.raises(DataError, match="is no finished study"):
        collect(tmp_path, f"a={tmp_path / 'nowhere'}")
