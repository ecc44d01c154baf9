"""The picture of a size study: accuracy against the bytes of the file."""

from collections.abc import Sequence
from typing import Any

from zoo_jax.task import Writer

BELOW = 0.3  # of the dense accuracy: what lost more is left out of the picture's range


def draw(writer: Writer, rows: Sequence[dict[str, Any]], *, stream: str) -> None:
    """Draws the rows of `size_study.summarise`."""
    writer.figure(
        "accuracy_against_bytes",
        _figure(rows),
        caption=f"Accuracy on '{stream}' against the size of the file. Open marks: the weights "
        "alone are replaced. Filled: after fine-tuning. Bars: one binomial standard error, and "
        "of several seeds the standard deviation where it is larger. Dashed: the dense network; "
        "solid line: the dense network after as many steps.",
    )


def _figure(rows: Sequence[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    dense = {row["tuned"]: row["accuracy"] for row in rows if row["way"] == "dense"}
    for tuned, accuracy in dense.items():
        style = "-" if tuned else "--"
        label = "dense, fine-tuned" if tuned else "dense"
        axes.axhline(100 * accuracy, color="0.4", ls=style, lw=0.9, label=label)
    for index, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        for tuned in (False, True):
            own = [r for r in rows if r["way"] == way and r["tuned"] == tuned]
            if way == "dense" or not own:
                continue
            own.sort(key=lambda row: row["bytes"])
            axes.errorbar(
                [row["bytes"] / 1000 for row in own],
                [100 * row["accuracy"] for row in own],
                yerr=[100 * max(row["se"], row["std"] or 0) for row in own],
                fmt="o-" if tuned else "o--",
                color=f"C{index}",
                markerfacecolor=f"C{index}" if tuned else "white",
                markersize=4,
                linewidth=1,
                capsize=2,
                label=f"{way}, fine-tuned" if tuned else way,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = sorted(
        {round(row["bytes"] / 1000) for row in rows if row["way"] == "budget"}
    )
    if ticks:
        axes.set_xticks(ticks)
    top = max(100 * row["accuracy"] for row in rows)
    lowest = min(100 * row["accuracy"] for row in rows)
    axes.set_ylim(max(lowest - 2, (1 - BELOW) * top), top + 2)
    axes.set_xlabel("file size (kB)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
