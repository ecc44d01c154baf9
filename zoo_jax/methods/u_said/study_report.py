"""Numbers, tables and figures of the study, from what was measured picture by picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo_jax.core.types import Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.methods.u_said.figures import draw_trade_off
from zoo_jax.methods.u_said.judging import (
    IMAGE_METRICS,
    Measured,
    paired_interval,
    set_miou,
)
from zoo_jax.methods.u_said.segmentation import segment
from zoo_jax.metrics.segmentation import (
    class_counts,
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
    usage_entropy,
)
from zoo_jax.task import Writer

# One run of an arm: (split, sigma) -> what was measured.
Run = Mapping[tuple[str, float], Measured]


def compare(
    found: Mapping[str, Sequence[Run]], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per noise level and arm.

    Args:
      found: Arm -> one run per seed.
      options: Section ``study``, see `judge_study`.

    Returns:
      ``sigma``, ``arm``, ``seeds``; ``miou`` (points, 0 to 100), ``psnr``, ``ssim`` with their
      ``_std`` over seeds; ``gain`` and ``gain_tuned`` with ``_low`` and ``_high``; ``tuned``, the arm
      that won on the validation pictures.
    """

    def stacked(arm: str, split: str, sigma: float, metric: str) -> np.ndarray:
        return np.stack([run[split, sigma][metric] for run in found[arm]])

    def valid_miou(arm: str) -> float:
        return float(
            np.mean(
                [
                    set_miou(stacked(arm, "valid", sigma, "confused"))
                    for sigma in options["sigmas"]
                ]
            )
        )

    tuned = max(options["tuned"], key=valid_miou)
    rows = []
    for sigma in options["sigmas"]:
        for arm in found:
            confused = stacked(arm, "test", sigma, "confused")
            row = {"sigma": sigma, "arm": arm, "seeds": len(confused)}
            values = {"miou": 100 * set_miou(confused)} | {
                m: stacked(arm, "test", sigma, m).mean(axis=1) for m in IMAGE_METRICS
            }
            for metric, seeds in values.items():
                if not np.isfinite(seeds).all():
                    continue  # the PSNR of the clean pictures themselves
                row[metric] = float(seeds.mean())
                if len(seeds) > 1:
                    row[f"{metric}_std"] = float(seeds.std(ddof=1))
            for key, other in (("gain", options["baseline"]), ("gain_tuned", tuned)):
                base = stacked(other, "test", sigma, "confused")
                row[key] = row["miou"] - float((100 * set_miou(base)).mean())
                low, high = paired_interval(
                    confused,
                    base,
                    block=options["block"],
                    resamples=options["resamples"],
                )
                row[f"{key}_low"], row[f"{key}_high"] = 100 * low, 100 * high
            row["tuned"] = tuned
            rows.append(row)
    return rows


def network_quality(
    module: Any, variables: Variables, source: Any, loader: Mapping[str, Any]
) -> dict[str, float]:
    """What a segmentation network makes of clean pictures.

    Args:
      module: From `build_fpn_segmentation`.
      variables: Its own.
      source: Pictures with masks, uint8.
      loader: Keyword arguments of `eval_batches`.

    Returns:
      ``miou`` in points, ``pixel_accuracy``, ``usage_entropy`` in nats.
    """
    count = module.num_classes

    @jax.jit
    def look(batch):
        image = batch["image"].astype(jnp.float32) / 255
        seen = segment(module, variables, image)
        confused = confusion_matrix(seen, batch["segmentation"], num_classes=count)
        return confused, class_counts(seen, num_classes=count)

    parts = []
    for batch in eval_batches(source, **loader):
        keep = batch["mask"] > 0
        parts.append([np.asarray(x)[keep] for x in look(batch)])
    confused, used = (np.concatenate(part) for part in zip(*parts, strict=True))
    total = confused.sum(axis=0)
    return {
        "miou": 100 * float(mean_iou(total)),
        "pixel_accuracy": float(pixel_accuracy(total)),
        "usage_entropy": float(usage_entropy(used)),
    }


def scalars(
    rows: Sequence[Mapping[str, Any]], quality: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The numbers to keep, by name: see `judge_study`."""
    out = {}
    for row in rows:
        name = f"sigma{row['sigma']:g}/{row['arm']}"
        for metric in (m for m in ("miou", *IMAGE_METRICS) if m in row):
            out[f"{name}/{metric}"] = row[metric]
            out[f"{name}/{metric}_seeds"] = row["seeds"]
            if f"{metric}_std" in row:
                out[f"{name}/{metric}_std"] = row[f"{metric}_std"]
        for gain in ("gain", "gain_tuned"):
            for end in ("", "_low", "_high"):
                out[f"{name}/{gain}{end}"] = row[f"{gain}{end}"]
                out[f"{name}/{gain}{end}_seeds"] = row["seeds"]
    for row in quality:
        for metric in ("miou", "pixel_accuracy", "usage_entropy"):
            out[f"networks/{row['network']}/{metric}"] = row[metric]
    return out


def publish(
    writer: Writer,
    rows: Sequence[Mapping[str, Any]],
    quality: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> None:
    """Puts the tables and the trade-off into the report."""
    caption = _TABLE.format(**options, tuned_arm=rows[0]["tuned"])
    writer.table("segmentation_after_denoising", list(rows), caption=caption)
    writer.table("networks", list(quality), caption=_NETWORKS)
    caption = _TRADE_OFF.format(**options)
    writer.figure("trade_off", draw_trade_off(rows), caption=caption)


_TABLE = (
    "Means over the seeds: mean IoU of the judge's answers over the whole test set in points (0 to "
    "100), PSNR in dB and SSIM (uniform 7x7 windows) as means over pictures, with the deviation "
    "over seeds. Gain: mean IoU over that of {baseline}, and over that of {tuned_arm}, the best of "
    "{tuned} on the validation set; 95 % intervals of the paired bootstrap over seeds and blocks "
    "of {block} neighbouring pictures."
)
_NETWORKS = (
    "The segmentation networks on clean test pictures: mean IoU in points, share of right pixels, "
    "entropy in nats of how often each class is predicted (0: one class everywhere)."
)
_TRADE_OFF = "Gain in mean IoU over {baseline} with its 95 % interval, against what it costs in PSNR."
