r"""Turns a data set as published into the form that training reads, and checks its counts.

  python -m experiments.prepare_data --dataset=cifar10 --source_dir=$ZOO_DATA/cifar10

Sets of videos and sounds take two steps: a manifest of their clips, then shards of decoded
clips. The second can be stopped and called again.

  python -m experiments.prepare_data --manifest_of=ucf101/1 --source_dir=$ZOO_DATA/ucf101
  python -m experiments.prepare_data --clips=$ZOO_DATA/ucf101/ucf101-1.jsonl --split=train \
    --data_dir=$ZOO_DATA/prepared/ucf101_train

docs/data.md shows how the published files must lie on disk.
"""

import sys
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from experiments import common
from zoo_jax.core.errors import ConfigError

_DATASET = flags.DEFINE_string("dataset", None, "E.g. cifar10, mnist or gopro/linear.")
_MANIFEST_OF = flags.DEFINE_string(
    "manifest_of",
    None,
    "E.g. ucf101/1, howto100m or captioned_folder (your own videos).",
)
_CLIPS = flags.DEFINE_string("clips", None, "The manifest whose clips to prepare.")
_SOURCE = flags.DEFINE_string(
    "source_dir", None, "Folder of the published files; by default below $ZOO_DATA."
)
_TARGET = flags.DEFINE_string(
    "data_dir",
    None,
    "Where to write; by default below $ZOO_DATA. With --manifest_of, the JSONL file.",
)
_SPLIT = flags.DEFINE_string("split", None, "Of the clips: only lines of this split.")
_MODALITIES = flags.DEFINE_list(
    "modalities", ["video", "audio"], "What of the clips is stored."
)
_FRAME_RATE = flags.DEFINE_float("frame_rate", 10, "Pictures per second.")
_AUDIO_RATE = flags.DEFINE_integer("audio_rate", 48_000, "Samples per second.")
_SHORT_SIDE = flags.DEFINE_integer("short_side", 256, "Pixels; 0 keeps the size.")
_MOST_SECONDS = flags.DEFINE_float("most_seconds", 60, "Longer clips are cut there.")
_SILENCE = flags.DEFINE_bool("silence", False, "Keep clips without sound.")
_SHARD = flags.DEFINE_integer("clips_per_shard", 256, "Clips of one file.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes that decode clips.")
_MAX_SKIPPED = flags.DEFINE_float(
    "max_skipped", 0.01, "Share of the clips that may be unreadable."
)


def main(argv: Sequence[str]) -> None:
    """Prepares and prints the number of examples per split."""
    del argv
    given = [f.name for f in (_DATASET, _MANIFEST_OF, _CLIPS) if f.value]
    if len(given) != 1:
        raise ConfigError(
            "give one of --dataset, --manifest_of and --clips, got "
            f"{' and '.join('--' + name for name in given) or 'none'}"
        )
    if _CLIPS.value:
        prepare_clips()
    elif _MANIFEST_OF.value:
        make_manifest()
    else:
        from zoo_jax.data.tfds import prepare_dataset

        counts = prepare_dataset(
            _DATASET.value, source_dir=_SOURCE.value, data_dir=_TARGET.value
        )
        for split, count in counts.items():
            print(f"{_DATASET.value} {split}: {count} examples")


def make_manifest() -> None:
    """Writes the manifest of an official set and says what is missing."""
    from zoo_jax.data.builders.clips.make import make_manifest
    from zoo_jax.data.folder import data_root

    name = _MANIFEST_OF.value
    source = _SOURCE.value or data_root() / name.partition("/")[0]
    report = make_manifest(name, source_dir=source, out=_TARGET.value)
    for split, count in sorted(report.rows.items()):
        print(f"{name} {split}: {count} in the annotations")
    if report.missing:
        print(f"{len(report.missing)} files are not there, e.g. {report.missing[0]}")
    print(f"{report.path}: {report.lines} lines")


def prepare_clips() -> None:
    """Decodes the clips of a manifest into shards, with a bar."""
    from zoo_jax.data.clip_shards import Form, prepare_clips

    if not _TARGET.value:
        raise ConfigError("--clips needs --data_dir, the folder of the shards")
    form = Form(
        modalities=tuple(_MODALITIES.value),
        frame_rate=_FRAME_RATE.value,
        audio_rate=_AUDIO_RATE.value,
        short_side=_SHORT_SIDE.value or None,
        most_seconds=_MOST_SECONDS.value,
        may_be_silent=_SILENCE.value,
    )
    with tqdm(unit="clip", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        prepared = prepare_clips(
            _CLIPS.value,
            _TARGET.value,
            split=_SPLIT.value,
            form=form,
            clips_per_shard=_SHARD.value,
            workers=_WORKERS.value,
            max_skipped=_MAX_SKIPPED.value,
            progress=progress,
        )
    for bad in prepared.skipped:
        print(f"left out: {bad['error']}")
    print(
        f"{_TARGET.value}: {prepared.clips} clips, {len(prepared.skipped)} left out, "
        f"{prepared.without_text} have no text"
    )


if __name__ == "__main__":
    common.run_main(main)
