"""Pictures of denoising: noisy, denoised, clean, side by side."""

from collections.abc import Mapping, Sequence
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
