"""What ``zoo-jax search`` shows of repeated searches against a table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.methods.weaknas.evaluation import Record, Summary
from zoo_jax.methods.weaknas.spaces import Pool

Summaries = Mapping[str, Summary]  # by column


def format_curves(queries: Int[np.ndarray, "q"], summaries: Summaries) -> list[str]:
    """A line per recorded number of queries: mean and standard error of each column."""

    def cell(summary: Summary, at: int) -> str:
        mean, stderr = summary.mean[at], summary.stderr[at]
        return f"{mean:.4g}" + (f" ± {stderr:.2g}" if math.isfinite(stderr) else "")

    rows = [["queries", *(column.replace("_", " ") for column in summaries)]]
    rows += [
        [str(count), *(cell(summary, at) for summary in summaries.values())]
        for at, count in enumerate(queries)
    ]
    return [f"{row[0]:>7}" + "".join(f"  {x:>16}" for x in row[1:]) for row in rows]


def recommend(
    pool: Pool,
    record: Record,
    label: Float[np.ndarray, "m"],
    judge: Float[np.ndarray, "m"],
) -> dict[str, dict[str, Any]]:
    """What the first search would have a user take.

    Args:
      pool: What was searched.
      record: Of the searches.
      label: What they were told.
      judge: What they are judged by.

    Returns:
      ``best_label``, the queried with the best label, and ``predicted_best``: each with
      ``index``, ``architecture``, ``label`` and ``judge`` (None where it is not known).
    """

    def number(value: np.floating) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    asked = record.asked[0]
    told = np.where(np.isnan(label[asked]), -np.inf, label[asked])
    chosen = {
        "best_label": int(asked[told.argmax()]),
        "predicted_best": int(record.predicted_top[0, -1]),
    }
    return {
        what: {
            "index": index,
            "architecture": pool.describe(index),
            "label": number(label[index]),
            "judge": number(judge[index]),
        }
        for what, index in chosen.items()
    }


def draw_curves(
    path: PathLike, title: str, queries: Int[np.ndarray, "q"], summaries: Summaries
) -> None:
    """Writes a PNG: the mean of each column over queries, with its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (column, summary) in enumerate(summaries.items()):
        name, color = column.replace("_", " "), f"C{number}"
        axes.plot(queries, summary.mean, color=color, label=name)
        axes.fill_between(
            queries, summary.low, summary.high, color=color, alpha=0.2, lw=0
        )
    axes.set(title=title, xlabel="queries", ylabel="judged value")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path, "wb") as f:
        figure.savefig(f, format="png", dpi=120)
