"""``zoo-jax rate``: a page on which people judge pairs of pictures."""

import argparse
import pathlib
from typing import Any

from zoo_jax.core.errors import ConfigError, ZooError
from zoo_jax.core.files import atomic_write
from zoo_jax.methods.ug2.rating_page import read_pairs, render_rating_page


def rate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax rate``."""
    add = parser.add_argument
    add("--a", required=True, metavar="DIR", help="pictures, e.g. as they were")
    add("--b", required=True, metavar="DIR", help="the same names, enhanced")
    add(
        "--names",
        metavar="A,B",
        help="of the two in the ratings (default: those of the folders)",
    )
    add("-o", "--output", default="rate.html", metavar="OUT.html", help="the page")
    add("--question", default="Which picture is better?", metavar="TEXT")
    add("--limit", type=int, metavar="N", help="so many pairs, evenly spaced")
    add(
        "--checks",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="identical pairs per pair, which find careless raters (default: 0.1)",
    )
    add("--seed", type=int, default=0, help="of the raters' orders")
    add("--force", action="store_true", help="replace OUT")


def rate_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the page and returns what it holds."""
    out = pathlib.Path(args.output)
    if out.is_dir():
        raise ZooError(f"{out}: is a folder; name a file such as {out / 'rate.html'}")
    if out.exists() and not args.force:
        raise ZooError(f"{out}: exists; choose another -o, or add --force")
    names = _names(args)
    pairs = read_pairs(args.a, args.b, limit=args.limit)
    page = render_rating_page(
        pairs,
        names=names,
        title=args.question,
        checks=args.checks,
        seed=args.seed,
    )
    with atomic_write(out) as file:
        file.write(page)
    size = out.stat().st_size
    print(f"wrote {out}: {len(pairs)} pairs, {size / 1e6:.1f} MB")
    print(
        "open it in a browser; evaluate what it saves by zoo-jax score --ratings FILE"
    )
    return {
        "output": str(out),
        "pairs": [pair.key for pair in pairs],
        "names": list(names),
        "bytes": size,
    }


def _names(args: argparse.Namespace) -> tuple[str, str]:
    if args.names is None:
        a, b = (pathlib.Path(folder).resolve().name for folder in (args.a, args.b))
        if a == b:
            raise ConfigError(f"both folders are called {a!r}: add --names A,B")
        return a, b
    a, comma, b = args.names.partition(",")
    if not comma or "," in b:
        raise ConfigError(f"--names takes two names, A,B, not {args.names!r}")
    return a.strip(), b.strip()
