"""Numbers, tables and figures of the study, from what was measured picture by picture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from zoo_jax.methods.ug2.figures import draw_curves, draw_versions
from zoo_jax.metrics.bootstrap import paired_interval
from zoo_jax.metrics.item_response import item_response
from zoo_jax.task import Writer

# "<perturbation>/<recogniser or metric>" -> values [levels, n]
Measured = Mapping[str, np.ndarray]
_METRICS = ("psnr", "ssim")
ALL = "all"  # the mean over perturbations


def summarise(
    found: Mapping[str, Sequence[Measured]],
    levels: Mapping[str, Sequence[float]],
    groups: Sequence[Any],
    options: Mapping[str, Any],
    *,
    baseline: str,
) -> list[dict[str, Any]]:
    """One row per perturbation (and their mean), recogniser and arm.

    Args:
      found: Arm -> what was measured with every seed.
      levels: Of every perturbation.
      groups: What every picture belongs to.
      options: Section ``study``.
      baseline: The arm that others are compared with.

    Returns:
      ``m1``: mean over levels but the first, which is no perturbation or nearly none, and over
      pictures, with its deviation over seeds; ``gain`` of it over the
      baseline with its interval (paired by picture, resampled over seeds, groups and pictures); ``area``
      below the item-response curve, over ranks, of the pictures that the recogniser knows
      at the first level (nan for the mean of all); ``psnr`` and ``ssim``, means as of ``m1``.
    """
    rows = []
    for perturbation in (*levels, ALL):
        parts = list(levels) if perturbation == ALL else [perturbation]
        for recogniser in _recognisers(found[baseline][0]):
            base = _per_picture(found[baseline], parts, recogniser)
            for arm, runs in found.items():
                values = _per_picture(runs, parts, recogniser)
                low, high = paired_interval(
                    values, base, groups, resamples=options["resamples"]
                )
                means = values.mean(axis=1)
                row = {
                    "perturbation": perturbation,
                    "recogniser": recogniser,
                    "arm": arm,
                    "seeds": len(runs),
                    "m1": float(means.mean()),
                    "m1_std": float(means.std(ddof=1)) if len(runs) > 1 else 0.0,
                    "gain": float(means.mean() - base.mean()),
                    "gain_low": low,
                    "gain_high": high,
                    "area": _area(found, arm, perturbation, recogniser, levels),
                }
                for metric in _METRICS:
                    row[metric] = float(_per_picture(runs, parts, metric).mean())
                rows.append(row)
    return rows


def scalars(
    rows: Sequence[Mapping[str, Any]],
    found: Mapping[str, Sequence[Measured]],
    levels: Mapping[str, Sequence[float]],
    groups: Sequence[Any],
    options: Mapping[str, Any],
    *,
    baseline: str,
) -> dict[str, float]:
    """Numbers to keep.

    Returns:
      ``"<perturbation>/<recogniser>/<arm>/m1"`` with ``_std``, ``gain`` with ``_low`` and
      ``_high``, ``psnr``, ``area``, all of them with ``_seeds``; ``"disagree/<recogniser>"``: among all levels of all
      arms, the share whose PSNR and M1 changed in opposite directions, and
      ``"rank_correlation/<recogniser>"`` of the two changes; ``"contrast/<recogniser>"``: the difference
      in M1 of the two arms of ``study.contrast``, with ``_low`` and ``_high``.
    """
    out: dict[str, float] = {}
    for row in rows:
        name = f"{row['perturbation']}/{row['recogniser']}/{row['arm']}"
        for key in ("m1", "gain", "gain_low", "gain_high", "psnr", "area"):
            if np.isfinite(row[key]):
                out[f"{name}/{key}"] = row[key]
                out[f"{name}/{key}_seeds"] = row["seeds"]
        if row["seeds"] > 1:
            out[f"{name}/m1_std"] = row["m1_std"]
    for recogniser in _recognisers(found[baseline][0]):
        of_psnr, of_m1 = changes(found, levels, recogniser, baseline=baseline)
        moved = (of_psnr != 0) & (of_m1 != 0)
        if moved.any():
            opposed = np.sign(of_psnr[moved]) != np.sign(of_m1[moved])
            out[f"disagree/{recogniser}"] = float(opposed.mean())
            out[f"rank_correlation/{recogniser}"] = rank_correlation(of_psnr, of_m1)
        if options["contrast"]:
            first, second = (
                _per_picture(found[arm], list(levels), recogniser)
                for arm in options["contrast"]
            )
            low, high = paired_interval(
                first, second, groups, resamples=options["resamples"]
            )
            name = f"contrast/{recogniser}"
            out[name] = float(first.mean() - second.mean())
            out[f"{name}_low"], out[f"{name}_high"] = low, high
            for end in ("", "_low", "_high"):
                out[f"{name}{end}_seeds"] = min(len(first), len(second))
            # A seed of the one against the same seed of the other: equal data order.
            if len(first) == len(second) > 1:
                each = first.mean(axis=1) - second.mean(axis=1)
                out[f"{name}_std"] = float(each.std(ddof=1))
    return out


def changes(
    found: Mapping[str, Sequence[Measured]],
    levels: Mapping[str, Sequence[float]],
    recogniser: str,
    *,
    baseline: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Change of PSNR and of M1 over the baseline: one value per arm, perturbation and level.

    The first level is left out: where it is no perturbation at all its PSNR has no bound.
    """
    of_psnr, of_m1 = [], []
    for arm, runs in found.items():
        if arm == baseline:
            continue
        for name in levels:
            for metric, out in (("psnr", of_psnr), (recogniser, of_m1)):
                own = np.mean([run[f"{name}/{metric}"] for run in runs], axis=(0, 2))
                base = found[baseline][0][f"{name}/{metric}"].mean(axis=1)
                out += list((own - base)[1:])
    return np.array(of_psnr), np.array(of_m1)


def rank_correlation(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Spearman's coefficient; ties get their mean rank.

    >>> round(rank_correlation(np.array([1.0, 2, 3, 3]), np.array([10.0, 30, 20, 40])), 4)
    0.6325
    """
    a, b = (_ranks(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


def publish(
    writer: Writer,
    rows: Sequence[Mapping[str, Any]],
    found: Mapping[str, Sequence[Measured]],
    levels: Mapping[str, Sequence[float]],
    options: Mapping[str, Any],
    images: UInt8[np.ndarray, "n h w 3"],
    shown: Mapping[str, Callable[[np.ndarray], np.ndarray]],
) -> None:
    """Keeps the table, the curves and some pictures for the report."""
    writer.table("recognition", list(rows), caption=_TABLE)
    for recogniser in _recognisers(found["raw"][0]):
        figure = draw_curves(found, levels, recogniser)
        caption = _CURVES.format(recogniser=recogniser)
        writer.figure(f"curves_{recogniser}", figure, caption=caption)
    if options["shown"]:
        figure = draw_versions(images, levels, shown, count=options["shown"])
        writer.figure("pictures", figure, caption=_PICTURES)


def _recognisers(measured: Measured) -> list[str]:
    kinds = dict.fromkeys(key.partition("/")[2] for key in measured)
    return [kind for kind in kinds if kind not in _METRICS]


def _per_picture(
    runs: Sequence[Measured], perturbations: Sequence[str], kind: str
) -> Float[np.ndarray, "s n"]:
    """Means over levels but the first and over perturbations, of every seed and picture."""
    return np.stack(
        [
            np.mean(
                [run[f"{name}/{kind}"][1:].mean(axis=0) for name in perturbations], 0
            )
            for run in runs
        ]
    ).astype(np.float64)


def _area(
    found: Mapping[str, Sequence[Measured]],
    arm: str,
    perturbation: str,
    recogniser: str,
    levels: Mapping[str, Sequence[float]],
) -> float:
    if perturbation == ALL:
        return float("nan")
    key = f"{perturbation}/{recogniser}"
    # Known: recognised at the mildest level without any restoration, for all arms alike.
    known = found["raw"][0][key][0] > 0
    if not known.any():
        return float("nan")
    curves = [
        item_response(levels[perturbation], run[key], known=known) for run in found[arm]
    ]
    return float(np.mean([curve.rank_area for curve in curves]))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


_TABLE = (
    "M1, the share of pictures with a right class among the first guesses, mean over levels but the "
    "mildest and over pictures, with its deviation over seeds; gain over the spoilt pictures with its 95 % interval, paired by "
    "picture and resampled over seeds and pictures; area below the item-response curve over "
    "ranks, of pictures known at the mildest; PSNR (dB) and SSIM against the clean picture."
)
_CURVES = (
    "M1 of {recogniser} on pictures that are spoilt more and more, as they are and restored; mean "
    "over seeds."
)
_PICTURES = (
    "Pictures at the middle level of each perturbation, as they are and restored (first seed). "
    "Evenly spread over the set, not chosen."
)
