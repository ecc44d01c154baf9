"""Prepared clips: the media of a manifest, decoded once, in files for random access.

Shard `k` always holds the same stretch of the manifest, appears whole or not at all, and has a
report beside it; so a preparation that was killed goes on with the first shard that lacks its
report, and ends with the same files. `clips.json` is written last: without it nothing reads.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.core.files import PathLike, read_json, write_json
from zoo_jax.data.clip_manifest import Clip, label_classes, read_manifest
from zoo_jax.data.clip_window import Window, clip_span, pictures_within, read_clip
from zoo_jax.data.folder import resolve
from zoo_jax.data.media import decode_image
from zoo_jax.data.words import Vocabulary

INDEX, STARTED, WORDS = "clips.json", "started.json", "vocabulary.txt"
_VERSION = 1


class Form(NamedTuple):
    """How clips are stored."""

    modalities: tuple[str, ...] = ("video", "audio")
    frame_rate: float = 10
    audio_rate: int = 48_000
    short_side: int | None = 256
    quality: int = 95  # of JPEG
    least_seconds: float = 3.2  # to which the span of a caption is made longer
    most_seconds: float = 60.0  # longer clips are cut there
    may_be_silent: bool = False
    context: int = 4


FORM = Form()


class StoredClip(NamedTuple):
    """What a record holds."""

    pictures: list[bytes] | None  # JPEG
    sound: Float32[np.ndarray, "s"] | None
    facts: dict[str, Any]  # name, texts, label


class Prepared(NamedTuple):
    """What a preparation has made."""

    clips: int
    skipped: list[dict[str, Any]]  # clip, error
    without_text: int  # of all clips of the manifest


def prepare_clips(
    manifest: PathLike,
    out_dir: PathLike,
    *,
    root: PathLike | None = None,
    split: str | None = None,
    form: Form = FORM,
    clips_per_shard: int = 256,
    workers: int = 0,
    max_skipped: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Decodes the clips of a manifest and writes them as shards of array_record files.

    Call it again with the same arguments after an interruption: finished shards stay. Another
    `max_skipped` or number of workers may be given then.

    Args:
      manifest: See `read_manifest`; a relative path is below ``$ZOO_DATA``.
      out_dir: Folder of the shards, made if it is absent.
      root: Folder of the media; default that of the manifest.
      split: Only lines of this split: prepare each into a folder of its own.
      form: How clips are stored.
      clips_per_shard: Of the manifest; skipped ones leave a shard shorter.
      workers: Processes that decode; 0 decodes in this one. They change no byte.
      max_skipped: The share of clips that may be unreadable. Each is reported with its reason.
      progress: Called with the number of clips done and that of all.

    Raises:
      ConfigError: for a value out of range.
      DataError: for a wrong manifest, too many unreadable clips, or a folder with shards of
        another manifest or form.
    """
    _check(form, clips_per_shard, workers, max_skipped)
    everything = read_manifest(manifest, root=root, context=form.context)
    kind = label_classes(everything)  # and words: of all splits, so that they agree
    clips = everything
    if split is not None:
        clips = read_manifest(manifest, root=root, split=split, context=form.context)
    out_dir = pathlib.Path(out_dir).expanduser()
    out_dir.mkdir(parents=True, exist_ok=True)
    shards = [
        clips[i : i + clips_per_shard] for i in range(0, len(clips), clips_per_shard)
    ]
    started = {
        "version": _VERSION,
        "form": form._asdict() | {"modalities": list(form.modalities)},
        "clips_per_shard": clips_per_shard,
        "clips": len(clips),
        "manifest": _digest(clips),
    }
    _start(out_dir / STARTED, started)
    most = int(max_skipped * len(clips))
    reports, done = [], 0
    with _mapper(workers) as mapper:
        for number, shard in enumerate(shards):
            path = out_dir / shard_name(number, len(shards))
            report = _finished(path)
            if report is None:
                advance = None
                if progress:
                    advance = functools.partial(_advance, progress, done, len(clips))
                report = _write_shard(path, shard, form, mapper, advance)
            reports.append(report)
            done += len(shard)
            if progress:
                progress(done, len(clips))
            skipped = [bad for r in reports for bad in r["skipped"]]
            if len(skipped) > most:
                first = "; ".join(bad["error"] for bad in skipped[:3])
                raise DataError(
                    f"{len(skipped)} of {len(clips)} clips cannot be read, more than the "
                    f"{most} that max_skipped={max_skipped:g} allows. First: {first}"
                )
    count = sum(r["clips"] for r in reports)
    if not count:
        raise DataError(f"{manifest}: none of its {len(clips)} clips can be read")
    words = Vocabulary.build(t for clip in everything for t in clip.texts[:1])
    words.write(out_dir / WORDS)
    index = {
        **started,
        "clips": count,
        "shards": [
            {"file": shard_name(i, len(shards)), "clips": r["clips"]}
            for i, r in enumerate(reports)
        ],
        "classes": list(kind) if isinstance(kind, tuple) else kind,
        "labels": [label for r in reports for label in r["labels"]],
        "skipped": skipped,
    }
    write_json(out_dir / INDEX, index)
    return Prepared(count, skipped, sum(not clip.texts for clip in clips))


def shard_name(number: int, count: int) -> str:
    """The file of one shard."""
    return f"clips-{number:05d}-of-{count:05d}.array_record"


# --- records --------------------------------------------------------------------------------


def encode_clip(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]] | None,
    sound: Float32[np.ndarray, "s"] | None,
    facts: dict[str, Any],
    *,
    quality: int = 95,
) -> bytes:
    """One record: an npz of JPEGs in a row, 16-bit sound, and facts as JSON."""
    arrays: dict[str, np.ndarray] = {
        "facts": np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    }
    if pictures is not None:
        files = [_jpeg(picture, quality) for picture in pictures]
        arrays["jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays["ends"] = np.cumsum([len(f) for f in files], dtype=np.int64)
    if sound is not None:
        arrays["sound"] = np.rint(sound * 32_767).astype(np.int16)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def decode_record(data: bytes, where: str) -> StoredClip:
    """What `encode_clip` has written; pictures stay JPEGs.

    Raises:
      MediaError: for bytes that are no whole record.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            pictures = sound = None
            if "ends" in arrays:
                ends, jpeg = arrays["ends"].tolist(), arrays["jpeg"]
                starts = [0, *ends[:-1]]
                pictures = [
                    jpeg[a:b].tobytes() for a, b in zip(starts, ends, strict=True)
                ]
            if "sound" in arrays:
                sound = arrays["sound"].astype(np.float32) / np.float32(32_767)
    except Exception as error:  # whatever a damaged zip trips over
        raise MediaError(f"{where}: a damaged record: {error}") from None
    return StoredClip(pictures, sound, facts)


def decode_pictures(
    stored: StoredClip, chosen: Sequence[int], where: str
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Pictures of these numbers. Raises `MediaError`."""
    out = []
    for number in chosen:
        try:
            out.append(decode_image(stored.pictures[number]))
        except MediaError as error:
            raise MediaError(f"{where}: picture {number}: {error}") from None
    return out


def _jpeg(picture: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return out.getvalue()


# --- shards ---------------------------------------------------------------------------------


def _encode(form: Form, clip: Clip) -> bytes | str:
    """The record of a clip, or why there is none."""
    window = Window(
        frames=max(round(form.least_seconds * form.frame_rate), 1),
        frame_rate=Fraction(form.frame_rate).limit_denominator(1001),
        audio_rate=form.audio_rate,
    )

    def choose(duration: Fraction | None) -> tuple[Fraction, int]:
        start, end = clip_span(clip, duration, window)
        most = Fraction(form.most_seconds)
        seconds = most if end is None else min(end - start, most)
        if seconds <= 0:
            raise MediaError(f"{clip.place}: the clip lies outside the file")
        return start, pictures_within(seconds, window)

    try:
        taken = read_clip(
            clip,
            choose,
            window,
            modalities=form.modalities,
            short_side=form.short_side,
            may_be_silent=form.may_be_silent,
        )
    except MediaError as error:
        return str(error)
    label = list(clip.label) if isinstance(clip.label, tuple) else clip.label
    facts = {"name": clip.name, "texts": list(clip.texts), "label": label}
    return encode_clip(taken.pictures, taken.sound, facts, quality=form.quality)


def _write_shard(
    path: pathlib.Path,
    clips: Sequence[Clip],
    form: Form,
    mapper: Callable[..., Iterator[bytes | str]],
    advance: Callable[[int], None] | None,
) -> dict[str, Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.with_name(f".{path.name}.part")
    labels, skipped = [], []
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    try:
        made = mapper(functools.partial(_encode, form), clips)
        for number, (clip, record) in enumerate(zip(clips, made, strict=True), start=1):
            if isinstance(record, str):
                skipped.append({"clip": clip.name, "error": record})
            else:
                writer.write(record)
                label = clip.label
                labels.append(list(label) if isinstance(label, tuple) else label)
            if advance:
                advance(number)
    finally:
        writer.close()
    os.replace(temporary, path)
    report = {"clips": len(labels), "labels": labels, "skipped": skipped}
    write_json(_report_path(path), report)  # last: it says that the shard is whole
    return report


def _finished(path: pathlib.Path) -> dict[str, Any] | None:
    report = _report_path(path)
    if not path.is_file() or not report.is_file():
        return None
    return read_json(report)


def _report_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".json")


def _start(path: pathlib.Path, started: dict[str, Any]) -> None:
    if path.is_file():
        before = read_json(path)
        changed = sorted(k for k in started if before.get(k) != started[k])
        if changed:
            raise DataError(
                f"{path.parent}: holds clips that were prepared from another "
                f"{' and '.join(changed)}: take another folder, or empty this one"
            )
        return
    write_json(path, started)


def _digest(clips: Sequence[Clip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(clip).encode())
    return digest.hexdigest()


def _advance(
    progress: Callable[[int, int], None], before: int, total: int, done: int
) -> None:
    progress(before + done, total)


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, in this process or in others, with results in order."""
    if not workers:
        yield map
        return
    import concurrent.futures
    import multiprocessing

    with concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_follow_parent,
    ) as pool:
        try:
            yield functools.partial(pool.map, chunksize=1)
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for work for ever."""
    import multiprocessing.connection
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _check(form: Form, clips_per_shard: int, workers: int, max_skipped: float) -> None:
    if not form.modalities or not set(form.modalities) <= {"video", "audio"}:
        raise ConfigError(
            f"modalities must be of video and audio, got {list(form.modalities)}"
        )
    positive = {
        "clips_per_shard": clips_per_shard,
        "frame_rate": form.frame_rate,
        "audio_rate": form.audio_rate,
        "short_side": form.short_side or 1,
        "least_seconds": form.least_seconds,
        "most_seconds": form.most_seconds,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{name} must be positive, got {value}")
    if not 1 <= form.quality <= 100:
        raise ConfigError(f"quality must be in 1..100, got {form.quality}")
    if workers < 0 or not 0 <= max_skipped <= 1:
        raise ConfigError(
            f"workers must not be negative and max_skipped in [0, 1], got {workers}, "
            f"{max_skipped}"
        )


def open_index(folder: PathLike) -> tuple[pathlib.Path, dict[str, Any]]:
    """The folder of prepared clips, and what its index says.

    Raises:
      DataError: if nothing is prepared there, or not to the end, or shards are missing.
    """
    folder = resolve(folder)
    command = (
        "python -m experiments.prepare_data --clips=<manifest> --data_dir=<folder>"
    )
    if not (folder / INDEX).is_file():
        what = (
            "only in part prepared" if (folder / STARTED).is_file() else "not prepared"
        )
        raise DataError(f"{folder}: clips are {what}: run {command}")
    index = read_json(folder / INDEX)
    if index.get("version") != _VERSION:
        raise DataError(
            f"{folder}: prepared in version {index.get('version')}, this reads {_VERSION}: "
            f"run {command}"
        )
    missing = [s["file"] for s in index["shards"] if not (folder / s["file"]).is_file()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} shards are missing, first {missing[0]}"
        )
    return folder, index
