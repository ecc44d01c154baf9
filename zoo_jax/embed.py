"""``zoo-jax embed``: embeddings of one's videos, sounds and sentences in one file."""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from zoo_jax import models
from zoo_jax.core.config import parse_pairs
from zoo_jax.core.errors import ConfigError, DataError, MediaError, WeightsError
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.data.audio import EXTENSIONS as SOUNDS
from zoo_jax.data.clip_augment import ClipCenterCrop
from zoo_jax.data.clips import Clips
from zoo_jax.data.video import EXTENSIONS as VIDEOS
from zoo_jax.data.words import Vocabulary

FORMATS = (".safetensors", ".npz")
SPACES = ("video_audio", "video_text", "audio", "text")
_SAVE_EVERY = 30.0  # seconds


class Entry(NamedTuple):
    """One file or sentence and its embeddings."""

    name: str
    stamp: str  # changes when the file does
    vectors: dict[str, Float[np.ndarray, "d"]]  # by space


class Embedder:
    """A trained VATT on files.

    Videos are cut to the square in the middle; `windows` windows, evenly spread from start to
    end, are embedded and averaged. The sound is that of the same windows.

    Args:
      model: Of `create_model`, with the two networks of VATT.
      vocabulary: The words that it was trained with; needed for sentences only.
      windows: How many per file.
      frame_rate: Pictures per second; VATT has 10.

    Raises:
      ConfigError: for a model that embeds no clips, or takes spectrograms.
    """

    def __init__(
        self,
        model: models.Model,
        vocabulary: Vocabulary | None = None,
        *,
        windows: int = 4,
        frame_rate: float = 10,
    ):
        backbone = getattr(model.module, "backbone", None)
        if backbone is None or not hasattr(backbone, "sound_patch"):
            raise ConfigError(
                f"{model.name} does not embed clips: choose gradient_harmonization/..."
            )
        if backbone.audio_input != "waveform":
            raise ConfigError("embedding works with networks that hear waveforms")
        if windows < 1:
            raise ConfigError(f"--windows must be at least 1, got {windows}")
        self.model, self.vocabulary, self._backbone = model, vocabulary, backbone
        frames, height, width = backbone.clip
        self._crop = ClipCenterCrop(size=(height, width), resize=min(height, width))
        self._reading = dict(
            frames=frames,
            frame_rate=frame_rate,
            audio_rate=round(backbone.sound[0] * frame_rate / frames),
            windows=windows,
            vocabulary=("<pad>", "<unk>"),
            no_audio="silence",
        )

        @jax.jit
        def apply(variables: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if "video" in inputs:
                video = inputs["video"].astype(np.float32) / 127.5 - 1
                inputs = {**inputs, "video": video}
            return model.module.apply(variables, **inputs, train=False)

        self._apply = apply

    def file(self, path: PathLike) -> dict[str, Float[np.ndarray, "d"]]:
        """Embeddings of a video (and of its sound, if it has one), or of a sound.

        Raises:
          MediaError: for a file that cannot be read.
        """
        path = pathlib.Path(path).absolute()
        kind = "video" if path.suffix.lower() in VIDEOS else "audio"
        modalities = ("video", "audio") if kind == "video" else ("audio",)
        source = Clips([{kind: str(path)}], modalities=modalities, **self._reading)
        windows = [source[i] for i in range(len(source))]
        inputs = {}
        if kind == "video":
            inputs["video"] = np.stack([self._crop(w, None)["video"] for w in windows])
        if all(w["audio_mask"] > 0 for w in windows):
            inputs["audio"] = np.stack([w["audio"] for w in windows])
        elif kind == "audio":
            raise MediaError(f"{path}: has no sound")
        found = jax.device_get(self._apply(self.model.variables, inputs))
        return {name: z.mean(axis=0) for name, z in found.items()}

    def sentence(self, text: str) -> dict[str, Float[np.ndarray, "d"]]:
        """The embedding of a sentence.

        Raises:
          ConfigError: without a vocabulary.
          DataError: if the model knows none of its words.
        """
        if self.vocabulary is None:
            raise ConfigError(
                "sentences need the words that the model was trained with: give --vocabulary"
                " (docs/embed.md says how to write the file)"
            )
        if not self.vocabulary.knows(text):
            raise DataError(f"{text!r}: the vocabulary has none of its words")
        ids = self.vocabulary.encode(text, length=self._backbone.words)
        if ids.max() >= self._backbone.vocabulary:
            raise ConfigError(
                f"the vocabulary has {len(self.vocabulary)} words, the model"
                f" {self._backbone.vocabulary}: it is that of another model"
            )
        found = jax.device_get(self._apply(self.model.variables, {"text": ids[None]}))
        return {"text": found["text"][0]}


def add_embedding_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every command which embeds has."""
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="gradient_harmonization/..."
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for convert"
    )
    parser.add_argument(
        "--weights", required=True, metavar="W", help="file or folder, as for convert"
    )
    parser.add_argument(
        "--vocabulary", metavar="FILE", help="words of the model, for sentences"
    )
    parser.add_argument(
        "--windows",
        type=int,
        default=4,
        metavar="N",
        help="windows per file, whose embeddings are averaged (default: 4)",
    )
    parser.add_argument(
        "--frame-rate",
        type=float,
        default=10,
        metavar="R",
        help="pictures per second that the model was trained with (default: 10)",
    )


def make_embedder(args: argparse.Namespace) -> Embedder:
    """The embedder of a command line."""
    model = models.create_model(
        args.model, weights=args.weights, **parse_pairs(args.set)
    )
    words = Vocabulary.read(args.vocabulary) if args.vocabulary else None
    return Embedder(model, words, windows=args.windows, frame_rate=args.frame_rate)


def embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax embed``."""
    add_embedding_arguments(parser)
    parser.add_argument(
        "input",
        nargs="*",
        metavar="INPUT",
        help="videos, sounds, folders of them, or .txt files with a sentence per line",
    )
    parser.add_argument(
        "--text", action="append", default=[], metavar="SENTENCE", help="repeatable"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help=" or ".join(FORMATS)
    )
    parser.add_argument("--force", action="store_true", help="replace OUT")


def embed_command(args: argparse.Namespace) -> dict[str, Any]:
    """Embeds files and sentences; ``exit_code`` of the result is 1 if some failed."""
    out = pathlib.Path(args.output)
    if out.suffix not in FORMATS:
        raise ConfigError(f"{out}: must end in {' or '.join(FORMATS)}")
    files, sentences = find_inputs(args.input, args.text)
    if not files and not sentences:
        raise ConfigError("give files, folders or --text: there is nothing to embed")
    embedder = make_embedder(args)
    facts = facts_of(args)
    known = {} if args.force or not out.exists() else read_embeddings(out, facts)
    entries, failed, kept = embed_all(
        embedder,
        files,
        sentences,
        known=known,
        save=lambda found: write_embeddings(out, found, facts),
    )
    for line in failed:
        tqdm.write(f"zoo-jax: {line}")
    print(f"embedded {len(entries) - kept}, kept {kept}, failed {len(failed)} -> {out}")
    counts = {s: sum(s in e.vectors for e in entries) for s in SPACES}
    return {
        "output": str(out),
        "counts": counts,
        "kept": kept,
        "failed": failed,
        "exit_code": int(bool(failed)),
    }


def find_inputs(
    given: Sequence[PathLike], texts: Sequence[str] = ()
) -> tuple[list[pathlib.Path], list[str]]:
    """Media files in order, those of folders sorted, and sentences.

    Raises:
      ConfigError: for an input that is not there, or of a kind that is not understood.
    """
    files: list[pathlib.Path] = []
    sentences = [text for text in texts if text.strip()]
    for path in map(pathlib.Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            files += [p for p in inside if p.suffix.lower() in VIDEOS | SOUNDS]
        elif not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        elif path.suffix.lower() in VIDEOS | SOUNDS:
            files.append(path)
        elif path.suffix.lower() == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            sentences += [line.strip() for line in lines if line.strip()]
        else:
            raise ConfigError(
                f"{path}: is neither a video, nor a sound, nor a .txt file of sentences"
            )
    return list(dict.fromkeys(files)), list(dict.fromkeys(sentences))


def embed_all(
    embedder: Embedder,
    files: Iterable[pathlib.Path],
    sentences: Iterable[str],
    *,
    known: Mapping[str, Entry],
    save: Callable[[list[Entry]], None],
) -> tuple[list[Entry], list[str], int]:
    """Embeds what is not known yet, and saves now and then.

    Args:
      embedder: The model.
      files: Media.
      sentences: Texts.
      known: Entries by name; one whose stamp is still right is kept.
      save: Called with all entries so far, whole or not at all.

    Returns:
      Entries in the order of the inputs, a line for each that failed, and how many were kept.
    """
    entries: list[Entry] = []
    failed: list[str] = []
    kept, saved = 0, time.monotonic()
    jobs: list[tuple[str, str, Callable[[], dict[str, np.ndarray]]]] = [
        (str(p), _stamp(p), lambda p=p: embedder.file(p)) for p in files
    ]
    jobs += [(t, "text", lambda t=t: embedder.sentence(t)) for t in sentences]
    for name, stamp, run in tqdm(jobs, "embedding", leave=False, disable=None):
        old = known.get(name)
        if old is not None and old.stamp == stamp:
            entries.append(old)
            kept += 1
            continue
        try:
            vectors = run()
        except DataError as error:
            failed.append(str(error))
            continue
        bad = [s for s, v in vectors.items() if not np.isfinite(v).all()]
        if bad:
            failed.append(f"{name}: its embedding is not finite")
            continue
        entries.append(Entry(name, stamp, vectors))
        if time.monotonic() - saved > _SAVE_EVERY:
            save(entries)
            saved = time.monotonic()
    save(entries)
    return entries, failed, kept


def _stamp(path: pathlib.Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """What makes embeddings comparable: other facts give other numbers."""
    return {
        "model": args.model,
        "set": sorted(args.set),
        "weights": str(pathlib.Path(args.weights).absolute()),
        "windows": args.windows,
        "frame_rate": args.frame_rate,
    }


def write_embeddings(
    path: PathLike, entries: Sequence[Entry], facts: Mapping[str, Any]
) -> None:
    """Writes arrays [n, d] by space, with the names of their rows; whole or not at all.

    Safetensors hold the names in their metadata (``rows``: space -> names), npz files in
    ``<space>_names``.
    """
    path = pathlib.Path(path)
    arrays, rows = {}, {}
    for space in SPACES:
        some = [e for e in entries if space in e.vectors]
        if some:
            arrays[space] = np.stack([e.vectors[space] for e in some]).astype(
                np.float32
            )
            rows[space] = [e.name for e in some]
    meta = {
        "format": "zoo-jax-embeddings",
        "facts": json.dumps(facts),
        "rows": json.dumps(rows),
        "stamps": json.dumps({e.name: e.stamp for e in entries}),
    }
    if path.suffix == ".npz":
        names = {f"{space}_names": np.array(names) for space, names in rows.items()}
        with atomic_write(path, "wb") as f:
            np.savez(f, **arrays, **names, meta=np.array(json.dumps(meta)))
        return
    from safetensors.numpy import save

    with atomic_write(path, "wb") as f:
        f.write(save(arrays, metadata=meta))


def read_embeddings(
    path: PathLike, facts: Mapping[str, Any] | None = None
) -> dict[str, Entry]:
    """Entries by name of a file of `write_embeddings`.

    Args:
      path: The file.
      facts: Those that it must have been made with; None takes any.

    Raises:
      WeightsError: for another file.
      ConfigError: for one that was made with other facts.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {s: file[s] for s in SPACES if s in file.files}
                meta = json.loads(str(file["meta"]))
        else:
            from safetensors import safe_open

            with safe_open(path, "numpy") as file:
                arrays = {s: file.get_tensor(s) for s in file.keys()}
                meta = file.metadata()
        rows, stamps = json.loads(meta["rows"]), json.loads(meta["stamps"])
        made_with = json.loads(meta["facts"])
    except Exception as error:
        raise WeightsError(
            f"{path}: is no file of embeddings ({type(error).__name__}): choose another"
            " file, or --force"
        ) from None
    if facts is not None and made_with != dict(facts):
        changed = sorted(k for k in facts if made_with.get(k) != facts[k])
        raise ConfigError(
            f"{path}: was made with another {', '.join(changed)}: choose another file, or"
            " --force"
        )
    entries: dict[str, Entry] = {}
    for space, names in rows.items():
        for name, vector in zip(names, arrays[space], strict=True):
            entry = entries.setdefault(name, Entry(name, stamps[name], {}))
            entry.vectors[space] = vector
    return entries
