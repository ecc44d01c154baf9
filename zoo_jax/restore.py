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
    model = models.create_model(
        args.model, weights=args.weights, dtype=args.dtype, **parse_pairs(args.set)
    )
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
