"""Training curves as small inline SVGs that take the page's colours and font."""

import io
import math
import re
from collections.abc import Mapping

from experiments._report.workdir import Curve, Run

# Stand-ins that matplotlib writes and the page replaces by its own colours.
INK, FAINT = "#010203", "#040506"
SERIES = ("#0b6bcb", "#d9590b", "#1f9d6b", "#8a4fd0", "#c2366b", "#8a8a1f")


def panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Groups curves that share an axis: ``train/loss`` and ``eval/loss`` are one panel.

    Args:
      curves: By metric name. What has fewer than two finite points or never changes is
        left out.

    Returns:
      Panel name -> {stream name -> curve}.
    """
    out: dict[str, dict[str, Curve]] = {}
    for name, points in curves.items():
        stream, _, metric = name.rpartition("/")
        kept = [(step, value) for step, value in points if math.isfinite(value)]
        if len({value for _, value in kept}) > 1:
            out.setdefault(metric, {})[stream or metric] = kept
    return dict(sorted(out.items(), key=lambda item: (item[0] != "loss", item[0])))


def draw(run: Run) -> dict[str, str]:
    """Draws every panel of a run.

    Returns:
      Panel name -> SVG element.
    """
    from matplotlib import rc_context

    style = {
        "svg.fonttype": "none",  # text stays text
        "font.size": 9,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": FAINT,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
    }
    out = {}
    for name, series in panels(run.curves).items():
        # Ids inside the SVGs of one page must differ.
        with rc_context({**style, "svg.hashsalt": f"{run.path}/{name}"}):
            out[name] = _panel(series)
    return out


def _panel(series: Mapping[str, Curve]) -> str:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(3.6, 2.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, points) in zip(_cycle(SERIES), series.items(), strict=False):
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) < 12 else None
        label = name.replace("$", r"\$")  # never mathematics
        axes.plot(
            steps, values, color=colour, lw=1.6, marker=marker, ms=3.5, label=label
        )
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if all(value > 0 for points in series.values() for _, value in points):
        low, high = _range(series)
        if high / low > 50:
            axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, handlelength=1.4)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A viewBox alone lets the page decide on the size.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*|(font: [\d.]+px) [^;\"]*", r"\1", svg)
    svg = svg.replace("font: ", "font-size: ")
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")


def _cycle(colours):
    while True:
        yield from colours


def _range(series: Mapping[str, Curve]) -> tuple[float, float]:
    values = [value for points in series.values() for _, value in points]
    return min(values), max(values)
