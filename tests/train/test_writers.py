"""What a run writes: the same numbers in three forms, whole after a restart."""

import csv

import matplotlib.pyplot as plt
import pytest
from tensorboardX.proto.event_pb2 import Event

from zoo_jax.core.errors import StorageError
from zoo_jax.core.files import read_json, read_json_lines
from zoo_jax.train.writers import RunWriter, SilentWriter, format_scalars


def read_events(folder):
    """Scalars of TensorBoard's record files: length, checksum, event, checksum."""
    out = []
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            out += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            at += 16 + size
    return out


def test_jsonl_csv_and_tensorboard_hold_the_same_numbers(tmp_path):
    writer = RunWriter(tmp_path)
    writer.scalars(1, {"train/loss": 0.1, "a,b": float("nan")})
    writer.scalars(2, {"train/loss": 1 / 3})
    writer.perf(2, {"steps_per_s": 5.0})
    writer.close()
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert lines[1] == {"step": 2, "train/loss": 1 / 3}
    with (tmp_path / "metrics.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(int(r["step"]), r["name"]) for r in rows] == [
        (1, "train/loss"),
        (1, "a,b"),
        (2, "train/loss"),
    ]
    assert float(rows[2]["value"]) == 1 / 3
    events = read_events(tmp_path / "tensorboard")
    assert (2, "train/loss", pytest.approx(1 / 3)) in events
    assert read_json_lines(tmp_path / "perf.jsonl") == [{"step": 2, "steps_per_s": 5.0}]


def test_a_resumed_run_forgets_later_steps_and_torn_lines(tmp_path):
    writer = RunWriter(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        writer.scalars(step, {"x": step})
        writer.perf(step, {"y": step})
    writer.close()
    for name in ("metrics.jsonl", "metrics.csv", "perf.jsonl"):
        with (tmp_path / name).open("a") as f:
            f.write('{"step": 4' if name.endswith("l") else "4,x")
    writer = RunWriter(tmp_path, start=2, tensorboard=False)
    writer.scalars(3, {"x": 30})
    writer.close()
    assert [m["x"] for m in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2, 30]
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,name,value\n1,x,1.0\n2,x,2.0\n3,x,30.0\n"
    )
    assert [m["step"] for m in read_json_lines(tmp_path / "perf.jsonl")] == [1, 2]


def test_results_keep_the_last_of_each_name(tmp_path):
    writer = RunWriter(tmp_path, tensorboard=False)
    writer.table("t", [{"a": 1}])
    writer.table("t", [{"a": 2}], caption="newer")
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    writer.figure("f", figure, caption="a line")
    writer.result({"x": 1})
    writer.close()
    result = read_json(tmp_path / "result.json")
    assert result["tables"] == [{"name": "t", "caption": "newer", "rows": [{"a": 2}]}]
    assert result["figures"] == [
        {"name": "f", "caption": "a line", "file": "figures/f.png"}
    ]
    assert (tmp_path / "figures" / "f.png").read_bytes().startswith(b"\x89PNG")
    assert not plt.get_fignums()


def test_a_full_disk_is_said_in_one_line(tmp_path):
    writer = RunWriter(tmp_path, tensorboard=False)
    writer._metrics.close()
    writer._metrics = open("/dev/full", "a")
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        writer.scalars(1, {"x": 1})
    writer.close()


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = SilentWriter()
    writer.scalars(1, {"x": 1})
    writer.perf(1, {"x": 1})
    writer.table("t", [{"a": 1}])
    writer.figure("f", plt.figure())
    writer.result({"x": 1})
    writer.close()
    assert not list(tmp_path.iterdir())
    assert not plt.get_fignums()


def test_numbers_are_short_on_the_screen():
    text = format_scalars({"a": 1 / 3, "b": float("inf"), "c": 12345.678})
    assert text == "a 0.3333, b inf, c 1.235e+04"
