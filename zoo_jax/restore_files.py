"""Restores pictures and videos in files: whole outputs, folders that can be gone on with."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from zoo_jax.core.errors import MediaError, ZooError
from zoo_jax.core.files import PathLike, read_json_lines
from zoo_jax.data import picture as pictures
from zoo_jax.data import video as videos
from zoo_jax.data.video_writer import VideoWriter, require_crf, write_video
from zoo_jax.restore_plan import Job, kind_of, plan_jobs
from zoo_jax.restorer import Restorer

RECORD = "restore.jsonl"  # beside the outputs: what each of them was made from, and how
MAX_DAMAGES = 10  # of a video, passed over and reported


def restore_files(
    restorer: Restorer,
    inputs: Sequence[PathLike],
    output: PathLike,
    *,
    compare: bool = False,
    force: bool = False,
    max_damages: int = MAX_DAMAGES,
    crf: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Restores pictures and videos; each output appears when it is complete.

    Outputs have the format of their inputs. Pictures keep depth, transparency, profile and
    EXIF data, and grey ones stay grey. Videos keep frame times and sound. In a folder, an
    output that was made from the same input in the same way is kept, and a bad input stops
    nobody else.

    Args:
      restorer: The network.
      inputs: Files, folders and patterns, as `plan_jobs` takes them.
      output: A file or a folder.
      compare: Write what was beside what is: before on the left, after on the right.
      force: Replace outputs that exist.
      max_damages: Of each video: see `VideoReader`.
      crf: Of videos: see `write_video`.
      report: Gets a line for each file.

    Returns:
      ``files``, one dict each with ``input``, ``output``, ``status`` (restored, kept or
      failed), ``notes`` and more; ``restored``, ``kept``, ``failed`` and ``ignored`` counts.

    Raises:
      ZooError: before anything is written, or for a single file that cannot be restored.
      OSError: if the disk is full or the folder cannot be written.
    """
    require_crf(crf)
    plan = plan_jobs(inputs, output)
    if plan.folder is None:
        target = plan.jobs[0].target
        if target.exists() and not force:
            raise ZooError(
                f"{target}: exists; choose another -o, or replace it with --force"
            )
    _require_writable(plan.folder or plan.jobs[0].target.parent)
    how = _How(restorer, compare=compare, max_damages=max_damages, crf=crf)
    with (
        contextlib.nullcontext() if plan.folder is None else _Record(plan.folder, how)
    ) as record:
        run = _Run(how, record, force, report)
        with _bar(total=len(plan.jobs), desc="files", unit="file") as bar:
            for job in plan.jobs:
                run.add(job)
                bar.update()
            run.flush()
    counts = {
        status: sum(file["status"] == status for file in run.files)
        for status in ("restored", "kept", "failed")
    }
    return {"files": run.files, **counts, "ignored": plan.ignored}


# --- how one picture or video is restored ---------------------------------------------------


class _How:
    """A network and options; restores what it is given."""

    def __init__(
        self, restorer: Restorer, *, compare: bool, max_damages: int, crf: int | None
    ):
        self.restorer = restorer
        self._compare, self._max_damages, self._crf = compare, max_damages, crf

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what an output looks like."""
        return self.restorer.settings | {"compare": self._compare, "crf": self._crf}

    def read(self, job: Job) -> pictures.Picture:
        """Decodes a picture. Raises `ZooError` if it cannot be restored or written."""
        picture = pictures.read_picture(job.source)
        pictures.require_format(job.target, transparent=picture.alpha is not None)
        if self.restorer.channels == 1 and picture.pixels.shape[-1] == 3:
            raise MediaError(
                f"{job.source}: is in colour, and {self.restorer.model.name} restores grey"
                " pictures"
            )
        return picture

    def restore(self, batch: Sequence[pictures.Picture]) -> list[pictures.Picture]:
        """Restores pictures of one size and depth."""
        x = np.stack([_to_unit(p.pixels, self.restorer.channels) for p in batch])
        out = []
        for before, y in zip(batch, self.restorer(x), strict=True):
            pixels, alpha = _from_unit(y, like=before.pixels), before.alpha
            if self._compare:
                pixels = np.concatenate([before.pixels, pixels], axis=1)
                alpha = (
                    None if alpha is None else np.concatenate([alpha, alpha], axis=1)
                )
            out.append(before._replace(pixels=pixels, alpha=alpha))
        return out

    def restore_video(self, job: Job) -> dict[str, Any]:
        """Decodes, restores and encodes batch by batch. Returns facts of the video."""
        if self.restorer.channels != 3:
            raise MediaError(
                f"{job.source}: {self.restorer.model.name} restores grey pictures, no videos"
            )
        with videos.VideoReader(job.source, max_damages=self._max_damages) as reader:
            info = reader.info
            with write_video(
                job.target,
                like=info,
                size=(info.width * (1 + self._compare), info.height),
                audio=reader.audio,
                metadata=reader.metadata,
                crf=self._crf,
            ) as writer:
                frames = self._stream(reader, writer, job.source.name)
        notes = [*writer.notes, *(f"{kind} left out" for kind in reader.left_out)]
        if reader.damages:
            notes.append(f"{reader.damages} damages were passed over")
        if info.rotation:
            notes.append(f"turned by {info.rotation} degrees, now stored upright")
        size = {"width": info.width, "height": info.height}
        return size | {"frames": frames, "notes": notes}

    def _stream(
        self, reader: videos.VideoReader, writer: VideoWriter, name: str
    ) -> int:
        """Passes a video through; returns how many frames it has.

        While a batch is restored, the one before is encoded and the next one decoded.
        """
        count, total = 0, _expected_frames(reader.info)
        decoded: list[videos.Frame] = []
        running: tuple[list[videos.Frame], Future] | None = None

        def finish() -> None:
            if running:
                frames, future = running
                for frame, image in zip(frames, future.result(), strict=True):
                    writer.add_frame(image, frame.time, frame.duration)
                bar.update(len(frames))

        with (
            ThreadPoolExecutor(1) as pool,
            _bar(total=total, desc=name, unit="frame", leave=False) as bar,
        ):
            for event in reader.read():
                if not isinstance(event, videos.Frame):
                    writer.add_audio(event)
                    continue
                decoded.append(event)
                count += 1
                if len(decoded) == self.restorer.batch:
                    finish()
                    running = decoded, pool.submit(self._restore_frames, decoded)
                    decoded = []
            finish()
            if decoded:
                running = decoded, pool.submit(self._restore_frames, decoded)
                finish()
        return count

    def _restore_frames(self, frames: Sequence[videos.Frame]) -> list[np.ndarray]:
        before = np.stack([frame.image for frame in frames])
        after = _from_unit(self.restorer(before), like=before)
        return list(np.concatenate([before, after], axis=2) if self._compare else after)


def _to_unit(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Bytes as they are, since the network converts them; 16 bits as floats."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.float32) / np.float32(65535)
    return np.repeat(pixels, channels // pixels.shape[-1], axis=-1)


def _from_unit(y: np.ndarray, *, like: np.ndarray) -> np.ndarray:
    """Rounds to the depth of `like`; grey, by the luma of ITU-R 601-2, if that is grey."""
    if like.shape[-1] == 1 and y.shape[-1] == 3:
        y = y @ np.array([[0.299], [0.587], [0.114]], np.float32)
    top = np.float32(np.iinfo(like.dtype).max)
    return np.rint(np.clip(y, 0, 1) * top).astype(like.dtype)


def _expected_frames(info: videos.VideoInfo) -> int | None:
    """For the progress bar."""
    if info.frames is None and info.duration is not None and info.rate:
        return round(info.duration * info.rate)
    return info.frames


# --- many files -----------------------------------------------------------------------------


class _Run:
    """Goes through files; pictures of one size wait for each other up to a batch.

    With a record, a bad file is noted in `files` and the others go on; without one, its error
    is raised.
    """

    def __init__(
        self,
        how: _How,
        record: "_Record | None",
        force: bool,
        report: Callable[[str], None],
    ):
        self.files: list[dict[str, Any]] = []
        self._how, self._record = how, record
        self._force, self._report = force, report
        self._waiting: list[tuple[Job, str, pictures.Picture]] = []

    def add(self, job: Job) -> None:
        """Restores a file, or lets it wait."""
        with self._noted(job):
            digest = _digest(job.source)
            if self._record and job.target.exists() and not self._force:
                self._record.require_same(job, digest)
                self._note(job, "kept")
            elif kind_of(job.source) == "video":
                start = time.perf_counter()
                facts = self._how.restore_video(job)
                self._restored(job, digest, start, facts)
            else:
                picture = self._how.read(job)
                if self._waiting and _shape(self._waiting[0][2]) != _shape(picture):
                    self.flush()
                self._waiting.append((job, digest, picture))
                if len(self._waiting) == self._how.restorer.batch:
                    self.flush()

    def flush(self) -> None:
        """Restores the pictures that wait."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        start = time.perf_counter()
        try:
            done = self._how.restore([picture for _, _, picture in batch])
        except ZooError as error:
            for job, _, _ in batch:
                with self._noted(job):
                    raise error
            return
        for (job, digest, before), after in zip(batch, done, strict=True):
            with self._noted(job):
                notes = [*after.notes, *pictures.write_picture(job.target, after)]
                height, width, _ = before.pixels.shape
                if min(height, width) < self._how.restorer.minimum:
                    notes.append("below the smallest size of the network: padded")
                facts = {"width": width, "height": height, "notes": notes}
                self._restored(job, digest, start, facts)

    def _restored(
        self, job: Job, digest: str, start: float, facts: dict[str, Any]
    ) -> None:
        if self._record:
            self._record.add(job, digest)
        seconds = round(time.perf_counter() - start, 3)
        self._note(job, "restored", **facts, seconds=seconds)

    def _note(self, job: Job, status: str, **facts: Any) -> None:
        source, target = str(job.source), str(job.target)
        file = {"input": source, "output": target, "status": status, **facts}
        self.files.append(file)
        self._report(_line(file))

    @contextlib.contextmanager
    def _noted(self, job: Job) -> Iterator[None]:
        """Turns the error of one file into a line, where others may go on."""
        try:
            yield
        except (ZooError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EROFS,
            )
            if self._record is None or full:
                raise
            said = (
                str(error) if isinstance(error, ZooError) else f"{job.target}: {error}"
            )
            self._note(job, "failed", error=" ".join(said.split()))


def _line(file: Mapping[str, Any]) -> str:
    """What is said of a file while others go on."""
    if file["status"] == "failed":
        return f"FAILED {file['error']}"
    what = file["status"]
    if what == "restored":
        frames = f", {file['frames']} frames" if "frames" in file else ""
        size = f"{file['width']}x{file['height']}"
        what = "; ".join([f"{size}{frames}, {file['seconds']:.2f} s", *file["notes"]])
    return f"{file['input']} -> {file['output']}: {what}"


class _Record:
    """Which outputs of a folder are finished: one JSON line each, written behind the output."""

    def __init__(self, folder: pathlib.Path, how: _How):
        self._folder, self._path = folder, folder / RECORD
        text = json.dumps(how.settings, sort_keys=True)
        self._settings = hashlib.sha256(text.encode()).hexdigest()
        self._known: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            try:
                lines = read_json_lines(self._path)
                self._known = {line["output"]: line for line in lines}
            except (ValueError, KeyError, TypeError):
                raise ZooError(
                    f"{self._path}: is damaged; remove it, and --force replaces outputs"
                ) from None

    def __enter__(self) -> "_Record":
        self._file = self._path.open("ab")
        # A torn last line, as a killed run leaves it, would spoil the next one.
        self._file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def require_same(self, job: Job, digest: str) -> None:
        """Raises `ZooError` unless the output is what this run would make of the input."""
        line = self._known.get(self._name(job), {})
        if "size" not in line or line["size"] != job.target.stat().st_size:
            raise ZooError(f"{job.target}: exists and was not made here: see --force")
        if line["input"] != digest:
            raise ZooError(f"{job.target}: was made of another input: see --force")
        if line["settings"] != self._settings:
            raise ZooError(f"{job.target}: was made with other options: see --force")

    def add(self, job: Job, digest: str) -> None:
        """Notes a finished output."""
        size = job.target.stat().st_size
        name = self._name(job)
        line = {
            "output": name,
            "size": size,
            "input": digest,
            "settings": self._settings,
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._known[name] = line

    def _name(self, job: Job) -> str:
        return job.target.relative_to(self._folder).as_posix()


# --- what the parts share -------------------------------------------------------------------


def _shape(picture: pictures.Picture) -> tuple[tuple[int, ...], np.dtype]:
    return picture.pixels.shape, picture.pixels.dtype


def _require_writable(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _digest(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from None


def _bar(**options: Any) -> tqdm:
    return tqdm(disable=None, **options)  # on a terminal; silence in a log file
