"""``zoo-jax search-clips``: which clips of a folder go with a sentence or a sound."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from zoo_jax.core.errors import ConfigError
from zoo_jax.data.video import EXTENSIONS as VIDEOS
from zoo_jax.embed import (
    Entry,
    add_embedding_arguments,
    embed_all,
    facts_of,
    find_inputs,
    make_embedder,
    read_embeddings,
    write_embeddings,
)

INDEX = ".zoo_jax_clips.safetensors"


def search_clips_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax search-clips``."""
    add_embedding_arguments(parser)
    parser.add_argument("folder", metavar="FOLDER", help="of videos")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", metavar="SENTENCE", help="what is to be seen")
    query.add_argument("--sound", metavar="FILE", help="a sound, or a video with one")
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="rows to show (default: 10)"
    )
    parser.add_argument(
        "--index",
        metavar="FILE",
        help=f"where embeddings are kept (default: {INDEX} in FOLDER)",
    )
    parser.add_argument("--force", action="store_true", help="embed everything again")


def search_clips_command(args: argparse.Namespace) -> dict[str, Any]:
    """Embeds the videos that are new, ranks all, prints a table."""
    folder = pathlib.Path(args.folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder")
    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, got {args.top}")
    if args.sound:
        find_inputs([args.sound])  # before the model is read
    index = pathlib.Path(args.index) if args.index else folder / INDEX
    files = [p for p in find_inputs([folder])[0] if p.suffix.lower() in VIDEOS]
    if not files:
        raise ConfigError(f"{folder}: no video in it ({', '.join(sorted(VIDEOS))})")
    embedder, facts = make_embedder(args), facts_of(args)
    if args.text:
        space, query = "video_text", embedder.sentence(args.text)["text"]
    else:
        found = embedder.file(args.sound)
        if "audio" not in found:
            raise ConfigError(f"{args.sound}: has no sound")
        space, query = "video_audio", found["audio"]
    known = {} if args.force or not index.exists() else read_embeddings(index, facts)
    entries, failed, _ = embed_all(
        embedder,
        files,
        (),
        known=known,
        save=lambda some: write_embeddings(index, some, facts),
    )
    for line in failed:
        tqdm.write(f"zoo-jax: {line}")
    ranking = rank(entries, space, query)
    for row in ranking[: args.top]:
        print(f"{row['rank']:4d}  {row['cosine']:+.3f}  {row['clip']}")
    return {
        "query": args.text or args.sound,
        "space": space,
        "ranking": ranking,
        "failed": failed,
        "exit_code": int(bool(failed)),
    }


def rank(
    entries: Sequence[Entry], space: str, query: Float[np.ndarray, "d"]
) -> list[dict[str, Any]]:
    """All clips by falling cosine; equal ones share the worse rank, in order of their names."""
    clips = [e for e in entries if space in e.vectors]
    scores = {e.name: _cosine(e.vectors[space], query) for e in clips}
    order = sorted(scores, key=lambda name: (-scores[name], name))
    return [_row(name, scores) for name in order]


def _row(name: str, scores: Mapping[str, float]) -> dict[str, Any]:
    place = sum(score >= scores[name] for score in scores.values())
    return {"rank": place, "cosine": scores[name], "clip": name}


def _cosine(a: Float[np.ndarray, "d"], b: Float[np.ndarray, "d"]) -> float:
    norms = np.linalg.norm(a.astype(float)) * np.linalg.norm(b.astype(float))
    return float(a.astype(float) @ b.astype(float) / max(norms, 1e-12))
