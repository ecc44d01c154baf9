"""Pictures of deblurring, and what quality costs."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def draw_trade_off(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draws PSNR against multiply-adds, one panel per stream.

    Args:
      rows: Dicts with ``stream``, ``arm``, ``gmacs``, ``psnr`` and ``psnr_std``; one without
        multiply-adds is the blurred input and becomes a line.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    streams = list(dict.fromkeys(row["stream"] for row in rows))
    figure = Figure(figsize=(3.6 * len(streams), 3.4), layout="constrained")
    panels = figure.subplots(1, len(streams), squeeze=False)[0]
    costs = [row["gmacs"] for row in rows if row["gmacs"]]
    # Labels of a logarithmic axis overlap where it holds less than a decade or so.
    spread = bool(costs) and max(costs) > 3 * min(costs)
    for ax, stream in zip(panels, streams, strict=True):
        for row in (row for row in rows if row["stream"] == stream):
            if not row["gmacs"]:
                ax.axhline(row["psnr"], color="0.5", linestyle="--", label=row["arm"])
                continue
            at = (row["gmacs"], row["psnr"])
            ax.errorbar(*at, yerr=row["psnr_std"], fmt="o", capsize=3)
            offset = {"xytext": (5, 5), "textcoords": "offset points"}
            ax.annotate(row["arm"], at, fontsize=8, **offset)
        if spread:
            ax.set_xscale("log")
        else:
            ax.locator_params(axis="x", nbins=5)
        ax.margins(x=0.3, y=0.15)
        ax.set_title(stream)
        ax.set_xlabel("multiply-adds of 256x256 (10⁹)")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    panels[0].set_ylabel("PSNR (dB)")
    return figure


def draw_pictures(
    batches: Iterable[Mapping[str, np.ndarray]],
    restorers: Mapping[str, Callable[[Mapping[str, Any]], Any]],
    *,
    count: int,
    zoom: int,
) -> Any:
    """Draws one row per picture and one column per version: blurred, restored, sharp.

    Args:
      batches: Dicts with ``image``, ``sharp`` [b, h, w, 3] in [0, 1] and ``mask`` [b].
      restorers: Name -> function of such a dict.
      count: Rows, spread evenly over the pictures.
      zoom: Side of the centre that is drawn, in pixels.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    rows = []
    for batch in batches:
        versions = {"blurred": batch["image"]}
        for name, restore in restorers.items():
            versions[name] = np.asarray(restore({"image": batch["image"]}))
        versions["sharp"] = batch["sharp"]
        kept = np.flatnonzero(np.asarray(batch["mask"]) > 0)
        rows += [{name: np.asarray(v[i]) for name, v in versions.items()} for i in kept]
    chosen = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
    columns = list(rows[0])
    figure = Figure(
        figsize=(1.9 * len(columns), 2.1 * len(chosen)), layout="constrained"
    )
    axes = figure.subplots(len(chosen), len(columns), squeeze=False)
    for (i, line), column in itertools.product(enumerate(chosen), range(len(columns))):
        name, ax = columns[column], axes[i, column]
        image, sharp = rows[line][name], rows[line]["sharp"]
        top, left = (max(n - zoom, 0) // 2 for n in image.shape[:2])
        centre = image[top : top + zoom, left : left + zoom]
        ax.imshow(np.clip(centre, 0, 1), interpolation="nearest")
        error = np.mean(np.square(image - sharp))
        quality = "" if name == "sharp" else f" {-10 * np.log10(error):.1f}"
        ax.set_title(f"{name}{quality}", fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
    return figure
