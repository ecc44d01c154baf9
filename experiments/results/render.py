"""Writes the tables of measured numbers into the READMEs, from one CSV per method.

  python -m experiments.results.render           # rewrite what stands between the markers
  python -m experiments.results.render --check   # exit 1 if a committed table differs

A table stands between ``<!-- results: <method> -->`` and ``<!-- end -->``. A blank cell of
the CSV stays blank: a number that nobody measured is not guessed.
"""

import csv
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from experiments import common
from zoo_jax.core.errors import DataError, closest
from zoo_jax.core.files import atomic_write

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = (
    *("config", "dataset", "split", "metric", "paper_value", "paper_where"),
    *("our_value", "our_std", "seeds", "status", "weights", "params_m", "gmacs"),
    *("examples_per_s", "hardware", "revision"),
)
NUMBERS = (
    *("paper_value", "our_value", "our_std", "seeds", "params_m", "gmacs"),
    "examples_per_s",
)
STATUS = ("trained", "converted-weights", "small-scale", "not-run")
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

_CHECK = flags.DEFINE_bool("check", False, "Change nothing; fail if a table differs.")


def main(argv: Sequence[str]) -> int:
    """Renders every README that has a marker."""
    del argv
    stale = []
    for page in (ROOT / "README.md", *sorted(ROOT.glob("zoo_jax/methods/*/README.md"))):
        old = page.read_text(encoding="utf-8")
        new = render_page(old, ROOT / "experiments/results")
        if new == old:
            continue
        stale.append(str(page.relative_to(ROOT)))
        if not _CHECK.value:
            with atomic_write(page) as f:
                f.write(new)
    if _CHECK.value and stale:
        print(
            f"error: tables differ from experiments/results in {', '.join(stale)}:"
            " run python -m experiments.results.render and commit",
            file=sys.stderr,
        )
        return 1
    print("rewritten: " + ", ".join(stale) if stale else "results tables: up to date")
    return 0


def render_page(page: str, folder: pathlib.Path) -> str:
    """Returns a README with every results block made anew.

    Args:
      page: Its text.
      folder: Where ``<method>.csv`` lie.

    Raises:
      DataError: for a block that is not closed, or whose CSV is missing or malformed.
    """
    opened, closed = page.count("<!-- results:"), len(BLOCK.findall(page))
    if opened != closed:
        raise DataError(
            f"{opened} results blocks are opened and {closed} are whole: each needs"
            " '<!-- results: METHOD -->' and '<!-- end -->' on lines of their own"
        )
    return BLOCK.sub(
        lambda m: m[1] + render_table(read_results(folder / f"{m[2]}.csv")) + m[4], page
    )


def read_results(path: pathlib.Path) -> list[dict[str, str]]:
    """Reads and checks one method's numbers.

    Raises:
      DataError: naming the file, the line and what is wrong.
    """
    try:
        with path.open(encoding="utf-8", newline="") as f:
            reader = csv.DictReader(f, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(f"{path}: the first line must be {','.join(COLUMNS)}")
            rows = []
            for row in reader:
                _check_row(row, f"{path}:{reader.line_num}")
                rows.append(row)
            return rows
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a results table: {error}") from None


def _check_row(row: Mapping[str | None, str | None], where: str) -> None:
    if None in row or None in row.values():
        raise DataError(f"{where}: not {len(COLUMNS)} cells")
    for name in NUMBERS:
        try:
            float(row[name] or 0)
        except ValueError:
            raise DataError(f"{where}: {name}={row[name]!r} is not a number") from None
    if row["status"] not in STATUS:
        hint = closest(row["status"], STATUS)
        raise DataError(f"{where}: unknown status {row['status']!r}: {hint}")
    if (row["status"] == "not-run") != (row["our_value"] == ""):
        raise DataError(
            f"{where}: our_value={row['our_value']!r} does not go with status"
            f" {row['status']!r}: a number that was not measured is blank and not-run"
        )
    if row["our_value"] and not (row["revision"] and row["hardware"]):
        raise DataError(f"{where}: a measured number needs revision and hardware")


def render_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table: paper and ours side by side, with the status word."""
    if not rows:
        return "No number has been measured yet.\n"
    head = ("config", "data", "metric", "paper", "ours", "seeds", "status", "revision")
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|--:|--:|--:|---|---|"]
    for row in rows:
        paper = row["paper_value"]
        if paper and row["paper_where"]:
            paper += f" ({row['paper_where']})"
        ours = row["our_value"] + (f" ± {row['our_std']}" if row["our_std"] else "")
        cells = (
            *(f"`{row['config']}`", f"{row['dataset']} {row['split']}", row["metric"]),
            *(paper, ours, row["seeds"], row["status"], row["revision"]),
        )
        lines.append("| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    common.run_main(main)
