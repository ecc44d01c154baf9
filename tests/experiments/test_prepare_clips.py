"""From a folder of captioned videos to batches by command, and how fast clips are read."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
from clips import write_clip

from zoo_jax.data.loader import train_batches
from zoo_jax.data.source import open_source

ROOT = pathlib.Path(__file__).resolve().parents[2]


def call(binary, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_ones_own_videos_become_batches(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in "abc":
        write_clip(
            raw / f"{name}.mp4", times=range(40), sound="aac" if name != "c" else None
        )
        text = f"1\n00:00:00,200 --> 00:00:00,900\nThe square {name}.\n"
        (raw / f"{name}.srt").write_text(text)
    done = call("prepare_data", "--manifest_of=captioned_folder", f"--source_dir={raw}")
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = raw / "captioned_folder.jsonl"
    assert f"{manifest}: 3 lines" in done.stdout
    shards = tmp_path / "shards"
    command = ["prepare_data", f"--clips={manifest}", f"--data_dir={shards}"]
    command += ["--audio_rate=8000", "--short_side=16"]
    done = call(*command)  # one has no sound
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "1 of 3 clips cannot be read, more than the 0" in line
    assert "c.mp4: has no sound" in line
    done = call(*command, "--max_skipped=0.5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "left out: " in done.stdout
    assert f"{shards}: 2 clips, 1 left out, 0 have no text" in done.stdout
    section = {"name": "prepared_clips", "root": str(shards), "frames": 4, "words": 4}
    source = open_source(section)
    with train_batches(source, batch_size=2, seed=0) as batches:
        batch = next(batches)
    assert batch["video"].shape == (2, 4, 16, 24, 3)
    assert batch["audio"].shape == (2, 3200)
    assert batch["text"].shape == (2, 5, 4)
    np.testing.assert_array_equal(batch["text_mask"], [1, 1])


def test_one_thing_at_a_time():
    done = call("prepare_data", "--dataset=mnist", "--clips=x")
    assert done.returncode == 2
    assert "error: give one of --dataset, --manifest_of and --clips, got" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_benchmark_measures_every_way_to_a_clip(tmp_path):
    table = tmp_path / "rows.csv"
    done = call("benchmarks.clip_decoding", "--tiny", "--rounds=1", f"--csv={table}")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["unit"] for row in rows} == {"clips/s/core"}
    assert [row["what"].split(":")[0] for row in rows] == [
        "files",
        "files, augmented",
        "files, pictures alone",
        "files, sound alone",
        "prepared shards",
        "prepared shards, augmented",
    ]
    assert all(float(row["ours"]) > 0 for row in rows)
