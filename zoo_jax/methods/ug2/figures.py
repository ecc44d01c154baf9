"""Figures of the study of recognition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from zoo_jax.methods.ug2.perturb import perturb


def draw_curves(
    found: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    levels: Mapping[str, Sequence[float]],
    recogniser: str,
) -> Any:
    """M1 against the level, one panel per perturbation and one line per arm.

    Args:
      found: Arm -> what was measured with every seed, see `study_report`.
      levels: Of every perturbation.
      recogniser: Whose answers.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.0 * len(levels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    for ax, (name, of_name) in zip(axes, levels.items(), strict=True):
        for arm, runs in found.items():
            curve = np.mean([run[f"{name}/{recogniser}"] for run in runs], axis=(0, 2))
            style = dict(color="black", linewidth=2.2) if arm == "raw" else {}
            ax.plot(range(len(of_name)), curve, marker=".", label=arm, **style)
        ax.set_xticks(range(len(of_name)), [f"{level:g}" for level in of_name])
        ax.set_title(name)
    axes[0].set_ylabel(f"M1 of {recogniser}")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(found), 8),
        frameon=False,
    )
    return figure


def draw_versions(
    images: UInt8[np.ndarray, "n h w 3"],
    levels: Mapping[str, Sequence[float]],
    restorers: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    *,
    count: int,
) -> Any:
    """A row per perturbation and picture: clean, spoilt to the middle level, restored by each arm.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    columns = ["clean", "spoilt", *restorers]
    rows = [(name, i) for name in levels for i in chosen]
    figure = Figure(figsize=(1.3 * len(columns), 1.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, i) in zip(axes, rows, strict=True):
        level = levels[name][len(levels[name]) // 2]
        spoilt = perturb(images[i : i + 1], name, level) / np.float32(255)
        versions = [images[i] / 255, spoilt[0]]
        versions += [
            np.clip(restore(spoilt)[0], 0, 1) for restore in restorers.values()
        ]
        for ax, title, version in zip(line, columns, versions, strict=True):
            ax.imshow(version, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            if (name, i) == rows[0]:
                ax.set_title(title, fontsize=8)
        line[0].set_ylabel(f"{name} {level:g}", fontsize=8)
    return figure
