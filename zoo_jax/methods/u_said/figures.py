"""Pictures of denoising: noisy, denoised, clean, side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def side_by_side(
    pictures: Sequence[tuple[str, Mapping[str, np.ndarray], Mapping[str, Any]]],
    *,
    zoom: int,
) -> Any:
    """Draws one row per picture and one column per version.

    Args:
      pictures: Name, version -> image [h, w, 3] in [0, 1], and version -> dict with its
        ``psnr``, where it has one.
      zoom: Side of the centre that is drawn, in pixels.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    columns = list(pictures[0][1])
    figure = Figure(
        figsize=(2.4 * len(columns), 2.6 * len(pictures)), layout="constrained"
    )
    axes = figure.subplots(len(pictures), len(columns), squeeze=False)
    for row, (name, versions, values) in zip(axes, pictures, strict=True):
        for ax, column in zip(row, columns, strict=True):
            image = versions[column]
            top, left = (max(n - zoom, 0) // 2 for n in image.shape[:2])
            ax.imshow(
                image[top : top + zoom, left : left + zoom], interpolation="nearest"
            )
            psnr = values.get(column, {}).get("psnr")
            ax.set_title(column if psnr is None else f"{column}  {psnr:.2f} dB")
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(name)
    return figure


def draw_trade_off(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Gain in mean IoU with its interval against the change of PSNR, one panel per noise level.

    Args:
      rows: ``sigma``, ``arm``, ``psnr``, ``gain``, ``gain_low``, ``gain_high``. Pictures that
        nobody denoised, ``noisy`` and ``clean``, are far off and left out.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    sigmas = sorted({row["sigma"] for row in rows})
    figure = Figure(figsize=(4.2 * len(sigmas), 3.8), layout="constrained")
    axes = figure.subplots(1, len(sigmas), squeeze=False)[0]
    for ax, sigma in zip(axes, sigmas, strict=True):
        ax.axhline(0, color="0.7", linewidth=0.8)
        for row in rows:
            if row["sigma"] != sigma or row["arm"] in ("noisy", "clean"):
                continue
            # A percentile interval need not contain the value itself.
            (line,) = ax.plot(row["psnr"], row["gain"], "o", label=row["arm"])
            ends = (row["gain_low"], row["gain_high"])
            ax.vlines(row["psnr"], *ends, color=line.get_color(), linewidth=1)
        ax.set_title(f"sigma {sigma:g}")
        ax.set_xlabel("PSNR in dB")
    axes[0].set_ylabel("gain in mean IoU, points")
    axes[-1].legend(fontsize="small")
    return figure


def draw_segmentations(
    batches: Any,
    versions: Mapping[str, Callable[[Mapping[str, Any]], Any]],
    see: Callable[[Any], Any],
    *,
    count: int,
    num_classes: int,
) -> Any:
    """Draws pictures, spread evenly over a stream, above what a judge sees in them.

    Args:
      batches: With ``segmentation``, the true classes [b, h, w].
      versions: Name -> batch to pictures [b, h, w, 3] in [0, 1].
      see: Pictures -> classes [b, h, w].
      count: How many pictures.
      num_classes: Of the judge; other numbers are drawn white.

    Returns:
      A matplotlib figure.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    palette = colormaps["tab20"].resampled(num_classes)

    def coloured(labels: np.ndarray) -> np.ndarray:
        known = (labels >= 0) & (labels < num_classes)
        return np.where(known[..., None], palette(np.where(known, labels, 0)), 1.0)

    columns = []  # one per picture: name -> (picture, classes)
    for batch in batches:
        shown = {name: np.asarray(version(batch)) for name, version in versions.items()}
        seen = {name: np.asarray(see(image)) for name, image in shown.items()}
        for i in np.flatnonzero(np.asarray(batch["mask"]) > 0):
            pair = {name: (shown[name][i], seen[name][i]) for name in shown}
            columns.append((pair, batch["segmentation"][i]))
    at = np.linspace(0, len(columns) - 1, min(count, len(columns))).round().astype(int)
    width = len(versions) + 1
    figure = Figure(figsize=(1.9 * width, 3.0 * len(at)), layout="constrained")
    axes = figure.subplots(2 * len(at), width, squeeze=False)
    for row, index in enumerate(at):
        pair, truth = columns[index]
        for column, (name, (image, classes)) in enumerate(pair.items()):
            axes[2 * row, column].imshow(image)
            axes[2 * row, column].set_title(name, fontsize="small")
            axes[2 * row + 1, column].imshow(coloured(classes))
        axes[2 * row, -1].set_title("truth", fontsize="small")
        axes[2 * row + 1, -1].imshow(coloured(truth))
    for ax in axes.flat:
        ax.set_axis_off()
    return figure
