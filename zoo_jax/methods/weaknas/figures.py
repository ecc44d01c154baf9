"""Pictures of a comparison of searches: curves with their intervals, and one search's way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_jax.methods.weaknas.evaluation import (
    Record,
    curves,
    principal_axes,
    queries_to,
    summarise,
)
from zoo_jax.methods.weaknas.plan import Plan, Study
from zoo_jax.methods.weaknas.report import Found, labels_of
from zoo_jax.methods.weaknas.spaces import Pool
from zoo_jax.task import Writer

MAX_POINTS = 4000  # of the pool in a scatter; more only darken it
_RULES = {
    "reference": "of the best queried or predicted (the published rule)",
    "honest": "of the queried architecture with the best label",
}


def draw(writer: Writer, plan: Plan, pools: Mapping[str, Pool], found: Found) -> None:
    """Makes all figures.

    Args:
      writer: Keeps them.
      plan: What was compared.
      pools: By the name of the space.
      found: The searches.
    """
    for name, study in plan.studies.items():
        mine = {
            (a, b): found[a, b].first(study.runs)
            for a in study.spaces
            for b in study.searchers
        }
        for rule, words in _RULES.items():
            drawn = {
                pair: curves(record, *labels_of(plan, pools, pair[0]))[rule]
                for pair, record in mine.items()
            }
            make = _curves if study.figure == "curves" else _points
            writer.figure(
                f"{name}_{rule}",
                make(study, mine, drawn),
                caption=f"Judged value {words}: mean over {study.runs} runs with its 95 % "
                "interval.",
            )
        if study.figure == "curves":
            judges = {space: labels_of(plan, pools, space)[1] for space in study.spaces}
            writer.figure(
                f"{name}_optimum",
                _optimum(study, mine, judges),
                caption="Share of runs that have queried an architecture with the best judged "
                "value of the whole space.",
            )
    if plan.report.path:
        space, searcher = plan.report.path
        writer.figure(
            "search_path",
            _path(
                pools[space],
                labels_of(plan, pools, space)[1],
                found[plan.report.path],
            ),
            caption=f"The first run of '{searcher}' on '{space}': the pool on the two principal "
            "axes of its encoding, darker where the judged value is higher; queried "
            "architectures coloured by when they were asked; the star is the best of the space.",
        )


def _panels(study: Study) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    columns = min(3, len(study.spaces))
    rows = -(-len(study.spaces) // columns)
    size = (4.2 * columns + 1.5, 3.4 * rows)  # the legend stands beside
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, space in zip(grid, study.spaces, strict=False):
        axes.set_title(space, fontsize="medium")
        axes.grid(alpha=0.3)
    for axes in grid[len(study.spaces) :]:
        axes.axis("off")
    return figure, grid


def _legend(figure: Any, axes: Any) -> None:
    """One for all panels, beside them: it hides no curve."""
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right center", fontsize="small")


def _curves(study: Study, found: Found, drawn: Mapping[tuple[str, str], Any]) -> Any:
    figure, grid = _panels(study)
    for axes, space in zip(grid, study.spaces, strict=False):
        floor = np.inf
        for number, searcher in enumerate(study.searchers):
            queries = found[space, searcher].queries
            summary = summarise(drawn[space, searcher])
            axes.plot(queries, summary.mean, color=f"C{number}", label=searcher)
            axes.fill_between(
                queries, summary.low, summary.high, color=f"C{number}", alpha=0.2, lw=0
            )
            # The first draws are alike for all and would flatten everything else.
            floor = min(floor, *summary.mean[1:2])
        if np.isfinite(floor):
            axes.set_ylim(bottom=floor)
        axes.set_xlabel("queries")
    grid[0].set_ylabel("judged value")
    _legend(figure, grid[0])
    return figure


def _points(study: Study, found: Found, drawn: Mapping[tuple[str, str], Any]) -> Any:
    figure, grid = _panels(study)
    for axes, space in zip(grid, study.spaces, strict=False):
        for number, searcher in enumerate(study.searchers):
            summary = summarise(drawn[space, searcher])
            half = summary.high[-1] - summary.mean[-1]
            axes.errorbar(summary.mean[-1], -number, xerr=half, fmt="o", color="C0")
        axes.set_yticks(-np.arange(len(study.searchers)), study.searchers)
        queries = found[space, study.searchers[0]].queries[-1]
        axes.set_xlabel(f"judged value after {queries} queries")
    return figure


def _optimum(study: Study, found: Found, judges: Mapping[str, np.ndarray]) -> Any:
    figure, grid = _panels(study)
    for axes, space in zip(grid, study.spaces, strict=False):
        test = judges[space]
        for number, searcher in enumerate(study.searchers):
            record = found[space, searcher]
            needed = np.sort(queries_to(record, test, np.nanmax(test)))
            share = np.arange(1, len(needed) + 1) / len(needed)
            kept = np.isfinite(needed)
            budget = record.asked.shape[1]
            x = [0, *needed[kept], budget]
            y = [0, *share[kept], share[kept][-1] if kept.any() else 0]
            axes.step(x, y, where="post", color=f"C{number}", label=searcher)
        axes.set_ylim(0, 1)
        axes.set_xlabel("queries")
    grid[0].set_ylabel("share of runs with the optimum")
    _legend(figure, grid[0])
    return figure


def _path(pool: Pool, test: np.ndarray, record: Record) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.6), layout="constrained")
    axes = figure.subplots()
    flat = principal_axes(np.asarray(pool.features, np.float64))
    step = max(1, len(flat) // MAX_POINTS)
    # By rank: a few failed architectures would take the whole scale otherwise.
    rank = np.argsort(np.argsort(np.nan_to_num(test, nan=-np.inf))) / len(test)
    axes.scatter(
        *flat[::step].T, c=rank[::step], s=6, cmap="Greys", linewidths=0, vmin=-0.3
    )
    asked = record.asked[0]
    seen = axes.scatter(
        *flat[asked].T, c=np.arange(1, len(asked) + 1), s=14, cmap="viridis"
    )
    axes.scatter(*flat[np.nanargmax(test)], marker="*", s=160, color="red", zorder=3)
    figure.colorbar(seen, label="query")
    axes.set_xlabel("first axis")
    axes.set_ylabel("second axis")
    return figure
