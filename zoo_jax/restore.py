"""``zoo-jax restore``: deblurs or denoises pictures and videos in files."""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, get_args

from tqdm import tqdm

from zoo_jax import models
from zoo_jax.core.config import parse_pairs
from zoo_jax.core.errors import WeightsError
from zoo_jax.restore_files import MAX_DAMAGES, restore_files
from zoo_jax.restore_plan import plan_jobs
from zoo_jax.restorer import Padding, Restorer

DTYPES = ("float32", "bfloat16", "float16")
_LISTED = 20  # failures on the screen; the JSON report has all


def restore_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax restore``."""
    parser.add_argument(
        "--weights", required=True, metavar="W", help="file or folder, as for convert"
    )
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="pictures, videos, folders of them, or patterns",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="file, or folder"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="run larger pictures in tiles of NxN pixels: less memory",
    )
    parser.add_argument(
        "--overlap", type=int, metavar="N", help="pixels that tiles share"
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="run N together (default: 1)"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="compute in (default: float32)",
    )
    parser.add_argument(
        "--pad",
        default="reflect",
        metavar="KIND",
        help=f"{', '.join(get_args(Padding))} (default: reflect)",
    )
    parser.add_argument(
        "--bucket",
        type=int,
        metavar="N",
        help="pad to multiples of N: many sizes share one compilation",
    )
    parser.add_argument(
        "--compare", action="store_true", help="write before and after side by side"
    )
    parser.add_argument(
        "--crf", type=int, metavar="N", help="loss of written videos; 0 is none"
    )
    parser.add_argument(
        "--max-damages",
        type=int,
        default=MAX_DAMAGES,
        metavar="N",
        help=f"pass over so many damages in a video (default: {MAX_DAMAGES})",
    )
    parser.add_argument("--force", action="store_true", help="replace outputs")


def restore_command(args: argparse.Namespace) -> dict[str, Any]:
    """Restores files; ``exit_code`` of the result is 1 if some of many failed."""
    plan_jobs(args.input, args.output)  # mistakes in names show before weights are read
    model = _load_model(args)
    restorer = Restorer(
        model,
        pad=args.pad,
        tile=args.tile,
        overlap=args.overlap,
        batch=args.batch,
        bucket=args.bucket,
    )
    with _terminated():
        result = restore_files(
            restorer,
            args.input,
            args.output,
            compare=args.compare,
            force=args.force,
            max_damages=args.max_damages,
            crf=args.crf,
            report=tqdm.write,
        )
    failed = [file["error"] for file in result["files"] if file["status"] == "failed"]
    print(
        f"restored {result['restored']}, kept {result['kept']}, failed {len(failed)}"
        f" -> {args.output}"
    )
    if failed:
        print(
            f"zoo-jax: {len(failed)} of {len(result['files'])} failed:", file=sys.stderr
        )
        for line in failed[:_LISTED]:
            print(f"  {line}", file=sys.stderr)
        if len(failed) > _LISTED:
            print(f"  and {len(failed) - _LISTED} more: see --json", file=sys.stderr)
    facts = {"model": args.model, "output": args.output, **result}
    return facts | {"exit_code": int(bool(failed))}


def _load_model(args: argparse.Namespace) -> models.Model:
    try:
        return models.create_model(
            args.model, weights=args.weights, dtype=args.dtype, **parse_pairs(args.set)
        )
    except WeightsError:
        fitting = _fitting_models(args.model, args.weights)
        if not fitting:
            raise
    raise WeightsError(
        f"{args.weights}: holds weights of {' or '.join(fitting)}, not of {args.model}:"
        " change --model"
    )


def _fitting_models(name: str, weights: str) -> list[str]:
    """Other restoring networks of the same method that published weights fit."""
    from zoo_jax.convert import match

    try:
        source = models.load_source(None, weights)
    except WeightsError:
        return []
    fitting = []
    for other, entry in models.MODELS.items():
        siblings = other.split("/")[0] == name.split("/")[0] and other != name
        if not (siblings and entry.restorer and entry.table and source.published):
            continue
        module = models.build_module(other)
        template = models.abstract_variables(other, module)
        table = models.source_table(other, module, template, source)
        if not match(table, source.arrays, template).problems():
            fitting.append(other)
    return fitting


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Lets SIGTERM end the block as an exception, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
