"""Pictures of conflicts between losses, and of what curing them brings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

_BINS = np.linspace(-1, 1, 41)


def draw_conflicts(reports: Sequence[Mapping[str, Any]]) -> Any:
    """Draws histograms of cosines, one panel per step of the training.

    Args:
      reports: Dicts with ``step``, ``cosine`` [n] of the triplets, ``wrong`` [n] (a known wrong
        partner; all False if nothing is known) and ``batch_cosine`` [m], one per batch.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(reports), 3.0), layout="constrained")
    panels = figure.subplots(1, len(reports), squeeze=False, sharey=True)[0]
    for ax, report in zip(panels, reports, strict=True):
        cosine, wrong = np.asarray(report["cosine"]), np.asarray(report["wrong"], bool)
        parts = {"right partners": ~wrong, "a wrong partner": wrong}
        if not wrong.any():
            parts = {"triplets": ~wrong}
        for label, which in parts.items():
            _histogram(ax, cosine[which], label)
        for at in np.asarray(report["batch_cosine"]):
            ax.axvline(at, color="0.3", linewidth=0.7, alpha=0.6)
        ax.axvline(np.nan, color="0.3", linewidth=0.7, label="whole batches")
        ax.axvline(0, color="0.7", linestyle=":")
        share = np.mean(cosine < 0) if cosine.size else float("nan")
        ax.set_title(f"step {report['step']}: {100 * share:.0f} % conflict", fontsize=9)
        ax.set_xlabel("cosine of the two gradients")
    panels[0].set_ylabel("density")
    panels[0].legend(fontsize=7)
    return figure


def _histogram(ax: Any, values: Float[np.ndarray, "n"], label: str) -> None:
    if values.size:
        ax.hist(values, bins=_BINS, density=True, alpha=0.5, label=label)


def draw_detection(
    cosine: Float[np.ndarray, "n"],
    wrong: Bool[np.ndarray, "n"],
    shuffled: Bool[np.ndarray, "n"],
) -> Any:
    """Draws how well low cosines find wrong partners, beside flags that were shuffled.

    Args:
      cosine: One per triplet.
      wrong: Which have a wrong partner.
      shuffled: The same flags in another order.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    from zoo_jax.metrics.detection import auroc

    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    ax = figure.subplots()
    order = np.argsort(cosine, kind="stable")
    for label, flags in (("wrong partners", wrong), ("shuffled flags", shuffled)):
        hits = np.asarray(flags, bool)[order]
        rates = [
            np.concatenate([[0], np.cumsum(h)]) / max(h.sum(), 1) for h in (hits, ~hits)
        ]
        area = auroc(-cosine, flags)
        ax.plot(rates[1], rates[0], label=f"{label}, area {area:.2f}")
    ax.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    ax.set_xlabel("share of right triplets below the threshold")
    ax.set_ylabel("share of wrong triplets below it")
    ax.legend(fontsize=8, loc="lower right")
    return figure


def draw_arms(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], *, baseline: str
) -> Any:
    """Draws the difference of every arm to the baseline, one panel per metric.

    Args:
      rows: Dicts with ``arm`` and, for every metric, ``<metric>_gain``, ``..._gain_low`` and
        ``..._gain_high``.
      metrics: Names.
      baseline: The arm that is subtracted.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    others = [row for row in rows if row["arm"] != baseline]
    height = 1.2 + 0.32 * len(others)
    figure = Figure(figsize=(2.9 * len(metrics), height), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    y = np.arange(len(others))[::-1]
    for ax, metric in zip(panels, metrics, strict=True):
        gain, low, high = (
            np.array([row[f"{metric}_gain{end}"] for row in others])
            for end in ("", "_low", "_high")
        )
        ax.errorbar(gain, y, xerr=[gain - low, high - gain], fmt="o", capsize=3)
        ax.axvline(0, color="0.5", linestyle=":")
        ax.set_title(metric.replace("_", " "), fontsize=9)
        ax.set_xlabel(f"difference to {baseline}", fontsize=8)
        ax.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(y, [row["arm"] for row in others], fontsize=8)
    return figure
