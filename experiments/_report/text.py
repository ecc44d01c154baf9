"""Words and numbers that the page and the terminal show alike."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._report.workdir import Run

SUMMARY = ("method", "run", "status", "numbers", "time")


def number(value: Any) -> str:
    """Four significant digits; whole numbers in full with thousands parted; blank for None.

    >>> [number(v) for v in (0.98765, 1234567, 1234567.8, 16.0, None, float("nan"), "0.1")]
    ['0.9877', '1,234,567', '1,234,568', '16', '', 'nan', '0.1']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def duration(seconds: Any) -> str:
    """``"3 h 07 min"``, ``"4 min 05 s"`` or ``"12 s"``; blank for anything but a number.

    >>> [duration(s) for s in (12.3, 245, 11220, None)]
    ['12 s', '4 min 05 s', '3 h 07 min', '']
    """
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def command(run: Run) -> str:
    """The command line that made the run, ready to paste; blank if it is not known."""
    words = run.facts.get("command")
    line = shlex.join(map(str, words)) if isinstance(words, list) else ""
    return line.replace(" --", " \\\n  --") if len(line) > 88 else line


def config_name(run: Run) -> str:
    """``"mnist5k_cnn.py:tour,stage=pretrain"`` out of the command; blank if not known."""
    words = run.facts.get("command")
    for word in words if isinstance(words, list) else ():
        if str(word).startswith("--config="):
            return str(word).removeprefix("--config=").rsplit("/", 1)[-1]
    return ""


def pairs(values: Mapping[str, float], limit: int = 4) -> str:
    """``"accuracy 0.98, ratio 11.2, ..."``."""
    shown = [f"{name} {number(value)}" for name, value in list(values.items())[:limit]]
    return ", ".join(shown) + (", ..." if len(values) > limit else "")


def summary_row(run: Run) -> tuple[str, ...]:
    """One run as the columns of `SUMMARY`."""
    return (
        run.method,
        run.path.name,
        run.status,
        pairs(run.headline),
        duration(run.facts.get("wall_s")),
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A procedure's table as lines of text, its columns in the order of the first row.

    >>> print(table([{"arm": "plain", "ratio": 17.1555}, {"arm": "labels"}]))
    arm     ratio
    ------  -----
    plain   17.16
    labels
    """
    header = list(rows[0]) if rows else []
    return aligned(header, [[number(row.get(c)) for c in header] for row in rows])


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of text with columns that line up.

    >>> print(aligned(("a", "b"), [("x", "1"), ("long", "2")]))
    a     b
    ----  -
    x     1
    long  2
    """
    cells = [[c if c.isprintable() else repr(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [list(header), ["-" * w for w in widths], *cells]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
