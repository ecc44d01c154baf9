"""Tables and numbers of a comparison of searches."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zoo_jax.methods.weaknas.evaluation import (
    RULES,
    Record,
    curves,
    queries_to,
    summarise,
    top_threshold,
)
from zoo_jax.methods.weaknas.plan import Plan
from zoo_jax.methods.weaknas.quality import quality
from zoo_jax.methods.weaknas.spaces import Pool
from zoo_jax.task import Writer

TOP = 0.001  # the share of a pool that counts as its top

Found = Mapping[tuple[str, str], Record]


def write(
    writer: Writer, plan: Plan, pools: Mapping[str, Pool], found: Found
) -> dict[str, float]:
    """Writes all tables and returns the numbers of the result.

    Args:
      writer: Keeps the tables.
      plan: What was compared.
      pools: By the name of the space.
      found: The searches.
    """
    scalars: dict[str, float] = {}
    values, reached = [], []
    for (space, searcher), record in found.items():
        label, test = labels_of(plan, pools, space)
        drawn = curves(record, label, test)
        named = {"space": space, "searcher": searcher, "runs": len(record.asked)}
        for queries in plan.report.queries:
            if queries not in record.queries:
                continue
            row = {**named, "queries": queries}
            for rule in RULES:
                one = drawn[rule][:, record.queries == queries]
                mean, sd, stderr, *_ = (float(part[0]) for part in summarise(one))
                known = not np.isnan(mean)  # else there is no predictor: blank
                row[rule] = mean if known else ""
                row[f"{rule}_stderr"] = stderr if known else ""
                if rule != "predicted":
                    name = f"{space}/{searcher}/{rule}@{queries}"
                    scalars |= {
                        name: mean,
                        f"{name}_std": sd,
                        f"{name}_seeds": len(one),
                    }
            values.append(row)
        reached.append({**named, **_reached(record, test)})
    writer.table("values", values, caption=_VALUES)
    writer.table("reached", reached, caption=_REACHED.format(top=100 * TOP))
    compared = list(_compare(plan, pools, found))
    if compared:
        writer.table("published", compared, caption=_PUBLISHED)
    if ordered := list(quality(plan, pools, found)):
        writer.table("quality", ordered, caption=_QUALITY)
    return scalars


_QUALITY = (
    "Kendall's tau between predictions and judged values, of predictors fitted to what the "
    "searches had asked: tau over 1,000 random architectures of the space, tau_top inside its "
    "truly best ones."
)
_VALUES = (
    "Judged values, mean over runs with its standard error. reference: the better of the best "
    "judged among the queried and of the predicted best, the rule of the published curves. "
    "honest: of the queried item with the best label, which is what a user gets. predicted: of "
    "the predicted best. Searches without a predictor have none."
)
_REACHED = (
    "Queries until an architecture with the best judged value of the pool (optimum), or of its "
    "best {top:g} % (top), was queried: the share of runs that got there, and the median over "
    "all runs. regret: what the best queried lacks to the best of the pool, on the mean."
)
_PUBLISHED = (
    "The same rule as the published program's own curve. z: the difference of the means in "
    "combined standard errors of independent runs."
)


def labels_of(
    plan: Plan, pools: Mapping[str, Pool], space: str
) -> tuple[np.ndarray, np.ndarray]:
    """What the searches of a space were told, and what judges them."""
    section, labels = plan.spaces[space], pools[space].labels
    return labels[section["label"]], labels[section["judge"]]


def _reached(record: Record, test: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, threshold in (
        ("optimum", np.nanmax(test)),
        ("top", top_threshold(test, TOP)),
    ):
        needed = queries_to(record, test, threshold)
        row[f"{name}_share"] = float(np.isfinite(needed).mean())
        median = float(np.quantile(needed, 0.5, method="higher"))
        beyond = f">{record.asked.shape[1]}"
        row[f"{name}_median"] = median if np.isfinite(median) else beyond
    best = np.nanmax(test[record.asked], axis=1)
    row["regret"] = float(np.nanmax(test) - best.mean())
    return row


def _compare(
    plan: Plan, pools: Mapping[str, Pool], found: Found
) -> Iterator[dict[str, Any]]:
    for (space, searcher), record in found.items():
        theirs = plan.report.published.get(space)
        if theirs is None or theirs.queries not in record.queries:
            continue
        values = curves(record, *labels_of(plan, pools, space))["reference"]
        ours = summarise(values[:, record.queries == theirs.queries])
        gap = float(ours.mean[0]) - theirs.mean
        error = float(np.hypot(ours.stderr[0], theirs.stderr))
        yield {
            "space": space,
            "searcher": searcher,
            "queries": theirs.queries,
            "ours": float(ours.mean[0]),
            "stderr": float(ours.stderr[0]),
            "runs": len(record.asked),
            "published_program": theirs.mean,
            "its_stderr": theirs.stderr,
            "its_runs": theirs.runs,
            "difference": gap,
            "z": gap / error,
        }
