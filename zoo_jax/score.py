"""``zoo-jax score``: does an enhancement help recognition, or please people?"""

import argparse
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

from zoo_jax import models
from zoo_jax.core.config import parse_pairs
from zoo_jax.core.errors import ConfigError, DataError, ZooError
from zoo_jax.core.types import RestoreFn
from zoo_jax.data.picture import Picture, write_picture
from zoo_jax.methods.ug2 import leaderboard
from zoo_jax.methods.ug2.class_map import ClassMap, class_map_of
from zoo_jax.methods.ug2.enhancers import make_enhancer
from zoo_jax.methods.ug2.pictures import Labelled, find_pictures
from zoo_jax.methods.ug2.ratings import evaluate_ratings, read_ratings
from zoo_jax.methods.ug2.recognisers import PREPROCESSING, make_recogniser
from zoo_jax.methods.ug2.score import RAW, Recognises, Scores, score
from zoo_jax.methods.ug2.synsets import SYNSETS
from zoo_jax.restorer import Restorer
from zoo_jax.score_report import (
    PAGE,
    print_ratings,
    print_scores,
    ratings_json,
    write_report,
)

IMAGES = "images"  # folder of restored pictures, one folder for each restorer
_OPTION = re.compile(r"[a-z_][a-z0-9_]*=.*")


def score_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax score``."""
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="labelled pictures: <class>/<picture>")
    add(
        "--restorers",
        metavar="R,...",
        default="",
        help="[ALIAS=]NAME[:WEIGHTS][:KEY=VALUE], parted by commas",
    )
    add(
        "--recognisers",
        metavar="N,...",
        default="",
        help="NAME:WEIGHTS or tflite:FILE, parted by commas",
    )
    add(
        "--entry",
        metavar="NAME=FOLDER",
        action="append",
        default=[],
        help="a folder of enhanced pictures; may be repeated",
    )
    add(
        "--class-map",
        metavar="FILE",
        help="which ImageNet classes are right for a label",
    )
    add(
        "--corrected-map",
        action="store_true",
        help="mend the crane in the published map of UG2",
    )
    add("--labels", metavar="FILE", help="classes of pictures with flat names")
    add("--side", type=int, metavar="N", help="make every picture a square of N pixels")
    add(
        "--preprocessing",
        choices=PREPROCESSING,
        default=PREPROCESSING[0],
        help="of the recognisers; official is that of the scorer of 2018",
    )
    add(
        "--variant",
        default="torchvision",
        metavar="V",
        help="whose weights the recognisers have: torchvision (default) or keras",
    )
    add(
        "--top",
        type=int,
        default=5,
        metavar="K",
        help="guesses that count (default: 5)",
    )
    add("--batch", type=int, default=16, metavar="N", help="pictures together")
    add("--leaderboard", metavar="CSV", help="append the results to this table")
    add("--note", default="", metavar="TEXT", help="for the leaderboard: who, or how")
    add(
        "--merge",
        metavar="CSV",
        action="append",
        default=[],
        help="append somebody's leaderboard to --leaderboard; may be repeated",
    )
    add(
        "--ratings",
        metavar="FILE",
        action="append",
        default=[],
        help="judgements by people as the rating page exports them; may be repeated",
    )
    add("-o", "--output", metavar="OUT", help="folder for the page and the tables")
    add(
        "--write-images",
        action="store_true",
        help="also write restored pictures to OUT, each folder a valid --entry",
    )
    add("--force", action="store_true", help="replace the page and tables in OUT")


def score_command(args: argparse.Namespace) -> dict[str, Any]:
    """Scores; ``exit_code`` of the result is 1 if some pictures could not be read."""
    _check_arguments(args)
    out = None if args.output is None else _free_folder(args.output, force=args.force)
    # Small files first: their mistakes show before networks are built.
    ratings = evaluate_ratings(read_ratings(args.ratings)) if args.ratings else None
    others = [row for path in args.merge for row in leaderboard.read_leaderboard(path)]
    if args.leaderboard and pathlib.Path(args.leaderboard).exists():
        leaderboard.read_leaderboard(args.leaderboard)
    scores, facts, added = None, {}, 0
    if args.data:
        pictures = find_pictures(args.data, labels=args.labels)
        class_map = _class_map(args, pictures)
        scores = _score(args, pictures, class_map, out)
        facts = _facts(args, pictures, scores)
        print_scores(scores)
    if ratings is not None:
        print_ratings(ratings)
    board: list[dict[str, str]] = []
    refused: DataError | None = None
    if args.leaderboard:
        new = others
        if scores is not None:
            new = others + leaderboard.make_entries(
                scores.rows,
                data=facts["fingerprint"],
                preprocessing=_preprocessing(args),
                note=args.note,
            )
        try:
            added = leaderboard.append(args.leaderboard, new)
        except DataError as error:  # told at the end: the scores themselves are good
            refused = error
        if pathlib.Path(args.leaderboard).exists():
            board = leaderboard.read_leaderboard(args.leaderboard)
        print(f"{added} rows added to {args.leaderboard}, which has {len(board)}")
    if out is not None:
        write_report(out, scores, facts, ratings, board)
        print(f"wrote {out / PAGE}")
    failures = scores.failures if scores is not None else []
    if failures:
        print(f"{len(failures)} of {len(pictures)} pictures were left out:")
        for failure in failures:
            print(f"  {failure.error}")
    if refused is not None:
        raise refused
    return {
        **facts,
        "scores": [] if scores is None else scores.rows,
        "left_out": [failure._asdict() for failure in failures],
        "ratings": None if ratings is None else ratings_json(ratings),
        "added": added,
        "exit_code": int(bool(failures)),
    }


# --- names on the command line --------------------------------------------------------------


class Spec(NamedTuple):
    """A restorer as it is named on the command line."""

    alias: str
    name: str
    weights: str | None
    options: dict[str, Any]


def parse_spec(text: str) -> Spec:
    """Reads ``[ALIAS=]NAME[:WEIGHTS][:KEY=VALUE]...``.

    >>> parse_spec("soft=clahe:clip_limit=2.0")
    Spec(alias='soft', name='clahe', weights=None, options={'clip_limit': 2.0})
    >>> parse_spec("u_said/dncnn:USAID.pth").alias
    'u_said/dncnn'

    Raises:
      ConfigError: for a name that is missing, or two files of weights.
    """
    head, *rest = text.split(":")
    alias, equals, name = head.partition("=")
    if not equals:
        name = alias
    pairs = [part for part in rest if _OPTION.fullmatch(part)]
    files = [part for part in rest if not _OPTION.fullmatch(part)]
    if not name or not alias or len(files) > 1 or "" in files:
        raise ConfigError(
            f"{text!r}: a restorer is written [ALIAS=]NAME[:WEIGHTS][:KEY=VALUE]..."
        )
    if not equals:  # options are part of the name, so that two settings can be compared
        alias = ":".join([name, *pairs])
    return Spec(alias, name, files[0] if files else None, parse_pairs(pairs))


def make_restorer(spec: Spec) -> RestoreFn:
    """An enhancer by its name, or a network of this library by its name with a ``/``.

    Raises:
      ZooError: for unknown names and options, and weights that are missing or do not fit.
    """
    options = dict(spec.options)
    if "/" not in spec.name:
        if spec.weights is not None:
            options["weights"] = spec.weights
        return jax.jit(make_enhancer(spec.name, **options))
    if spec.weights is None:
        raise ConfigError(f"{spec.name}: needs weights: write {spec.name}:FILE")
    model = models.create_model(spec.name, weights=spec.weights, **options)
    return functools.partial(_restore, Restorer(model))


def _restore(
    restorer: Restorer, x: Float[Array, "b h w 3"]
) -> Float[np.ndarray, "b h w 3"]:
    return restorer(np.asarray(x))


def _check_arguments(args: argparse.Namespace) -> None:
    if not (args.data or args.ratings or args.merge):
        raise ConfigError(
            "nothing to do: give --data FOLDER, --ratings FILE or --merge CSV"
        )
    if args.data and not args.recognisers:
        raise ConfigError("--data needs --recognisers, e.g. vgg16:vgg16.safetensors")
    needs_data = ("restorers", "recognisers", "entry", "class_map", "labels", "side")
    for name in needs_data if not args.data else ():
        if getattr(args, name):
            raise ConfigError(f"--{name.replace('_', '-')} needs --data FOLDER")
    for flag, other in (("merge", "leaderboard"), ("write_images", "output")):
        if getattr(args, flag) and not getattr(args, other):
            raise ConfigError(f"--{flag.replace('_', '-')} needs --{other}")
    if args.corrected_map and not args.class_map:
        raise ConfigError("--corrected-map needs --class-map FILE")
    for name in ("top", "batch", "side"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")


def _entries(texts: Sequence[str]) -> dict[str, str]:
    entries: dict[str, str] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ConfigError(f"--entry takes NAME=FOLDER, not {text!r}")
        if name in entries:
            raise ConfigError(f"--entry {name!r} is named twice")
        entries[name] = folder
    return entries


def _class_map(args: argparse.Namespace, pictures: Sequence[Labelled]) -> ClassMap:
    if args.class_map:
        return ClassMap.read(args.class_map, corrected=args.corrected_map)
    index = {synset: i for i, synset in enumerate(SYNSETS)}
    for picture in pictures:
        if picture.label not in index:
            raise DataError(
                f"{picture.path}: class {picture.label!r} is no WordNet id of ILSVRC: say with"
                " --class-map which ImageNet classes are right for it"
            )
    labels = {picture.label for picture in pictures}
    return class_map_of({label: [index[label]] for label in labels}, classes=1000)


# --- the run --------------------------------------------------------------------------------


def _score(
    args: argparse.Namespace,
    pictures: Sequence[Labelled],
    class_map: ClassMap,
    out: pathlib.Path | None,
) -> Scores:
    specs = [parse_spec(text) for text in args.restorers.split(",") if text]
    entries = _entries(args.entry)
    aliases = [spec.alias for spec in specs]
    for alias in aliases:
        if [RAW, *aliases, *entries].count(alias) > 1:
            raise ConfigError(f"{alias!r} is named twice: write ALIAS=NAME")
    restorers = {spec.alias: make_restorer(spec) for spec in specs}
    recognisers: list[Recognises] = [
        make_recogniser(
            name,
            preprocessing=args.preprocessing,
            batch=args.batch,
            **({} if name.startswith("tflite:") else {"variant": args.variant}),
        )
        for name in args.recognisers.split(",")
        if name
    ]
    return score(
        pictures,
        restorers,
        recognisers,
        class_map,
        entries=entries,
        k=args.top,
        side=args.side,
        batch=args.batch,
        sink=_writer(out / IMAGES) if out and args.write_images else None,
        progress=functools.partial(
            tqdm, desc="scoring", unit="batch", leave=False, disable=None
        ),
    )


def _writer(
    folder: pathlib.Path,
) -> Callable[[str, Labelled, UInt8[np.ndarray, "h w 3"]], None]:
    def write(name: str, picture: Labelled, image: np.ndarray) -> None:
        path = folder / re.sub(r"[^\w.=-]", "_", name) / f"{picture.key}.png"
        write_picture(path, Picture(image))

    return write


def _preprocessing(args: argparse.Namespace) -> str:
    """What decides scores beside pictures and networks, for the leaderboard."""
    more = [f"top-{args.top}"] if args.top != 5 else []
    more += [f"side {args.side}"] if args.side else []
    more += ["corrected map"] if args.corrected_map else []
    return ", ".join([args.preprocessing, *more])


def _facts(
    args: argparse.Namespace, pictures: Sequence[Labelled], scores: Scores
) -> dict[str, Any]:
    gone = {failure.key for failure in scores.failures}
    kept = [picture for picture in pictures if picture.key not in gone]
    return {
        "data": args.data,
        "fingerprint": leaderboard.fingerprint(kept),
        "pictures": len(kept),
        "videos": len({picture.video for picture in kept}),
        "classes": len({picture.label for picture in kept}),
        "class_map": args.class_map or "each class is its own WordNet id",
        "preprocessing": _preprocessing(args),
    }


def _free_folder(output: str, *, force: bool) -> pathlib.Path:
    out = pathlib.Path(output)
    if out.exists() and not out.is_dir():
        raise ZooError(f"{out}: is a file; choose another -o")
    if (out / PAGE).exists() and not force:
        raise ZooError(f"{out / PAGE}: exists; choose another -o, or add --force")
    return out
