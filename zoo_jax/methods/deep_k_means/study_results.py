"""What a comparison over seeds publishes: means with standard errors, and its figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from zoo_jax.task import Writer

Row = Mapping[str, Any]

STAGES = {
    "assigned": "right after the assignment",
    "norms": "new batch-norm statistics",
    "accuracy": "from the file, centres trained",
}
_METRICS = (
    *("retrained", *STAGES, "lost", "nll", "bytes", "ratio", "relative_sse"),
    *("index_bytes", "dense_bytes"),
)


def publish(
    writer: Writer,
    rows: Sequence[Row],
    dense: Sequence[Row],
    *,
    stream: str,
    ratios: Sequence[float],
) -> dict[str, float]:
    """Writes the tables and the figure of a study. Returns its numbers.

    Args:
      writer: Keeps them.
      rows: One per arm, budget and seed.
      dense: One per seed: accuracy of the pre-trained network.
      stream: Name of the data that accuracies were measured on.
      ratios: Dense bytes over file bytes at which arms are compared.
    """
    reference = {row["seed"]: row["accuracy"] for row in dense}
    rows = [{**row, "lost": reference[row["seed"]] - row["accuracy"]} for row in rows]
    accuracies = [row["accuracy"] for row in dense]
    scalars = {
        "dense/accuracy": float(np.mean(accuracies)),
        "dense/accuracy_se": standard_error(accuracies),
        "dense/nll": float(np.mean([row["nll"] for row in dense])),
    }
    means = []
    for arm, budget in dict.fromkeys((row["arm"], row["budget"]) for row in rows):
        own = [r for r in rows if (r["arm"], r["budget"]) == (arm, budget)]
        mean: dict[str, Any] = {"arm": arm, "budget": budget, "seeds": len(own)}
        for metric in _METRICS:
            values = [row[metric] for row in own]
            mean[metric] = float(np.mean(values))
            mean[f"{metric}_se"] = standard_error(values)
        for metric in ("accuracy", "lost", "bytes", "ratio"):
            for name in (metric, f"{metric}_se"):
                scalars[f"{arm}/{budget}/{name}"] = mean[name]
        means.append(mean)
    writer.table("seeds", list(rows), caption=_SEEDS.format(stream=stream))
    writer.table("means", means, caption=_MEANS)
    matched = [
        {"arm": arm, **at_ratios([r for r in rows if r["arm"] == arm], ratios)}
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    for row in matched:
        for name, value in row.items():
            if name != "arm" and np.isfinite(value):
                scalars[f"{row['arm']}/{name}"] = value
    writer.table("matched", matched, caption=_MATCHED)
    writer.figure(
        "sharing_study",
        draw(means, scalars["dense/accuracy"], scalars["dense/accuracy_se"]),
        caption=f"Accuracy on '{stream}' against bytes of the file, mean and standard error "
        f"over {len(dense)} seeds, at three stages. Dashed, with its error: the pre-trained "
        "dense network. All arms train equally long, except 'none', which is not re-trained.",
    )
    return scalars


_SEEDS = (
    "Every file. Accuracy on the stream '{stream}' of the dense network after re-training "
    "(retrained), right after the assignment, after new batch-norm statistics, and of the "
    "file that was read back after training the centres; lost: what the last one is below "
    "the pre-trained network of its seed. ratio: bytes of the dense float32 safetensors "
    "file over bytes of the file."
)
_MEANS = "Means over seeds and, under names in _se, their standard errors."
_MATCHED = (
    "Accuracy of the files at equal bytes, as mean and standard error over seeds: each "
    "seed's accuracies are interpolated, linearly in log bytes, between its two files around "
    "the ratio. Blank (nan) where an arm has no file on one of the sides: nothing is "
    "extrapolated."
)


def standard_error(values: Sequence[float]) -> float:
    """Standard deviation (n - 1) over the square root of n.

    >>> standard_error([1.0, 3.0])
    1.0
    """
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def at_ratios(rows: Sequence[Row], ratios: Sequence[float]) -> dict[str, float]:
    """Accuracy of one arm where its files would be so many times smaller than dense ones.

    Args:
      rows: Of one arm, all budgets and seeds.
      ratios: Dense bytes over file bytes.

    Returns:
      ``at_<ratio>x`` and ``at_<ratio>x_se``; NaN where a seed has no files on both sides.

    >>> rows = [{"seed": s, "ratio": r, "accuracy": a}
    ...         for s, r, a in [(0, 10, 1.0), (0, 40, 0.5), (1, 10, 0.5), (1, 40, 0.5)]]
    >>> {k: round(v, 3) for k, v in at_ratios(rows, [20]).items()}
    {'at_20x': 0.625, 'at_20x_se': 0.125}
    """
    curves = [
        sorted((r["ratio"], r["accuracy"]) for r in rows if r["seed"] == seed)
        for seed in dict.fromkeys(row["seed"] for row in rows)
    ]
    out = {}
    for ratio in ratios:
        values = [_interpolate(np.array(curve, float), ratio) for curve in curves]
        out[f"at_{ratio:g}x"] = float(np.mean(values))
        out[f"at_{ratio:g}x_se"] = standard_error(values)
    return out


def _interpolate(curve: Float[np.ndarray, "budgets 2"], ratio: float) -> float:
    ratios, accuracies = curve.T
    return float(
        np.interp(np.log(ratio), np.log(ratios), accuracies, left=np.nan, right=np.nan)
    )


def draw(means: Sequence[Row], dense: float, dense_se: float) -> Any:
    """Accuracy against bytes at three stages; a curve per arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    axes = figure.subplots(1, len(STAGES), sharex=True)
    for ax, (stage, title) in zip(axes, STAGES.items(), strict=True):
        ax.axhspan(
            100 * (dense - dense_se),
            100 * (dense + dense_se),
            color="0.85",
            linewidth=0,
        )
        ax.axhline(100 * dense, color="0.3", linestyle="--", linewidth=0.8)
        for index, arm in enumerate(dict.fromkeys(row["arm"] for row in means)):
            own = sorted(
                (r for r in means if r["arm"] == arm), key=lambda r: r["bytes"]
            )
            ax.errorbar(
                [row["bytes"] / 1000 for row in own],
                [100 * row[stage] for row in own],
                yerr=[100 * row[f"{stage}_se"] for row in own],
                marker="os^vDPX"[index % 7],
                markersize=4,
                linewidth=1,
                capsize=2,
                label=arm.replace("_", "-"),
            )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("file size (kB)")
        ax.grid(alpha=0.3)
    # Differences at the end are points, those before it tens of points; an arm that has
    # failed must not hide them, and runs out of the picture.
    reached = [100 * row["accuracy"] for row in means]
    kept = [a for a in reached if a > 100 * dense - 6] or reached
    axes[-1].set_ylim(min(kept) - 1, max(*kept, 100 * dense) + 1)
    axes[0].set_ylabel("accuracy (%)")
    axes[0].legend(fontsize=8)
    return figure
