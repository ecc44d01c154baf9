"""What ``zoo-jax score`` prints and writes."""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_jax.core.files import atomic_write
from zoo_jax.methods.ug2 import page
from zoo_jax.methods.ug2.ratings import RatingSummary
from zoo_jax.methods.ug2.score import METRICS, RAW, Scores

PAGE, TABLE, PICTURES = "index.html", "scores.csv", "pictures.csv"


def write_report(
    out: pathlib.Path,
    scores: Scores | None,
    facts: Mapping[str, Any],
    ratings: RatingSummary | None,
    board: Sequence[Mapping[str, str]],
) -> None:
    """Writes the page and the tables into a folder, each of them whole or not at all."""
    if scores is not None:
        _write_csv(out / TABLE, scores.rows)
        _write_csv(out / PICTURES, scores.pictures)
    title = f"Scores of {pathlib.Path(facts['data']).name}" if facts else "Scores"
    text = page.render(
        scores, title=title, facts=facts, ratings=ratings, leaderboard=board
    )
    with atomic_write(out / PAGE) as file:
        file.write(text)


def _write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def print_scores(scores: Scores) -> None:
    """One table per collection and recogniser: score, delta, and its interval."""
    found = {
        (r["collection"], r["recogniser"], r["restorer"], r["metric"]): r
        for r in scores.rows
    }
    groups: dict[tuple[str, str], list[str]] = {}
    for collection, recogniser, restorer, _ in found:
        names = groups.setdefault((collection, recogniser), [])
        if restorer not in names:
            names.append(restorer)
    width = max(len("restorer"), *(len(row["restorer"]) for row in scores.rows))
    for (collection, recogniser), names in groups.items():
        some = found[collection, recogniser, RAW, METRICS[0]]
        print(f"{recogniser}, {collection}: {some['n']} pictures")
        head = "".join(f"  {metric:<31}" for metric in METRICS)
        print(f"  {'restorer':{width}}{head}".rstrip())
        for name in names:
            cells = "".join(
                f"  {_cell(found[collection, recogniser, name, m]):<31}"
                for m in METRICS
            )
            print(f"  {name:{width}}{cells}".rstrip())


def _cell(row: Mapping[str, Any]) -> str:
    text = f"{row['score']:.3f}"
    if row["restorer"] == RAW:
        return text
    text += f" {row['delta']:+.3f}"
    if np.isnan(row["low"]):
        return text
    return f"{text} [{row['low']:+.3f}, {row['high']:+.3f}]"


def print_ratings(ratings: RatingSummary) -> None:
    """One line per pair of treatments, and who was left out."""
    for p in ratings.preferences:
        print(
            f"{p.b} against {p.a}: {p.score:+.3f} [{p.low:+.3f}, {p.high:+.3f}] of -2 to 2,"
            f" {p.votes} votes by {p.raters} raters"
        )
    if ratings.careless or ratings.too_fast:
        print(
            f"left out: {ratings.too_fast} judgements that were too fast, careless raters:"
            f" {', '.join(ratings.careless) or 'none'}"
        )


def ratings_json(ratings: RatingSummary) -> dict[str, Any]:
    """As JSON values."""
    return {
        "preferences": [p._asdict() for p in ratings.preferences],
        "careless": list(ratings.careless),
        "too_fast": ratings.too_fast,
    }
