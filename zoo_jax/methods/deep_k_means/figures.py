"""Pictures of a compression: what a byte buys, and where the rows lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_jax.task import Writer

MAX_POINTS = 4000  # of one scatter; more only darken it


def draw(
    writer: Writer,
    rows: Sequence[dict[str, Any]],
    pictures: Sequence[Any],
    *,
    stream: str,
) -> None:
    """Makes all figures.

    Args:
      writer: Keeps them.
      rows: The table of the compression, one entry per arm and budget.
      pictures: One `Rows` per entry.
      stream: Name of the data that accuracies were measured on.
    """
    writer.figure(
        "accuracy_against_bytes",
        _accuracy_against_bytes(rows),
        caption=f"Accuracy on '{stream}' against the size of the file. Lines: what was read "
        "back from the file, after training the centres. Open marks: right after the "
        "assignment and new batch-norm statistics. Dashed: the dense network of the arm.",
    )
    # The tightest budget shows most; all arms of one budget are drawn alike.
    smallest = min(rows, key=lambda row: row["bytes"])["budget"]
    chosen = [picture for picture in pictures if picture.budget == smallest]
    where = f"of {chosen[0].layer} under the budget '{smallest}'"
    writer.figure(
        "row_distances",
        _row_distances(chosen),
        caption=f"Distances of the rows {where} to their centres before they are replaced, "
        "in units of the root mean square length of a row.",
    )
    writer.figure(
        "row_scatter",
        _row_scatter(chosen),
        caption=f"The rows {where}, on their two principal axes, coloured by centre; "
        "crosses are the centres.",
    )


def _subplots(count: int, **options: Any) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * count, 3.4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, **options)[0]
    return figure, axes


def _accuracy_against_bytes(rows: Sequence[dict[str, Any]]) -> Any:
    figure, (axes,) = _subplots(1)
    figure.set_size_inches(6.0, 4.0)
    for index, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        own = sorted((r for r in rows if r["arm"] == arm), key=lambda r: r["bytes"])
        colour, size = f"C{index}", [row["bytes"] / 1000 for row in own]
        final = [100 * row["accuracy"] for row in own]
        axes.plot(size, final, "o-", color=colour, label=arm)
        early = [100 * row["norms"] for row in own]
        axes.plot(size, early, "o", color=colour, markerfacecolor="none")
        axes.axhline(100 * own[0]["dense"], color=colour, linestyle="--", linewidth=0.8)
    axes.set_xlabel("file size (kB)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _row_distances(pictures: Sequence[Any]) -> Any:
    figure, axes = _subplots(len(pictures), sharex=True, sharey=True)
    distances = []
    for picture in pictures:
        error = picture.samples - picture.centres[picture.labels]
        scale = np.sqrt(np.mean(np.sum(np.square(picture.samples), axis=1)))
        distances.append(np.sqrt(np.sum(np.square(error), axis=1)) / scale)
    top = max(np.quantile(d, 0.995) for d in distances) or 1.0
    for ax, picture, distance in zip(axes, pictures, distances, strict=True):
        ax.hist(np.minimum(distance, top), bins=50, range=(0, top))
        ax.set_title(picture.arm)
        ax.set_xlabel("distance to the centre")
    axes[0].set_ylabel("rows")
    return figure


def _row_scatter(pictures: Sequence[Any]) -> Any:
    figure, axes = _subplots(len(pictures), sharex=True, sharey=True)
    for ax, picture in zip(axes, pictures, strict=True):
        mean = picture.samples.mean(0)
        _, _, directions = np.linalg.svd(picture.samples - mean, full_matrices=False)
        axis = directions[:2].T  # d 2; d may be 1
        step = max(1, len(picture.samples) // MAX_POINTS)
        flat = (picture.samples[::step] - mean) @ axis
        centres = (picture.centres - mean) @ axis
        flat, centres = (
            np.pad(a, ((0, 0), (0, 2 - a.shape[1]))) for a in (flat, centres)
        )
        ax.scatter(*flat.T, c=picture.labels[::step], s=3, cmap="tab20", linewidths=0)
        ax.scatter(*centres.T, c="black", marker="x", s=20, linewidths=0.8)
        ax.set_title(picture.arm)
        ax.set_xlabel("first axis")
    axes[0].set_ylabel("second axis")
    return figure
