"""One static HTML page of scores: tables, pictures and styles stand in the file itself."""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from zoo_jax.methods.ug2.ratings import RatingSummary
from zoo_jax.methods.ug2.score import METRICS, RAW, Scores, Shown

THUMBNAIL = 224  # longest side of a picture on the page
_STYLE = """
:root { --page: #fbfbfa; --card: #fff; --ink: #1c1e21; --soft: #5c6370; --line: #e4e6e9;
  --good: #14733f; --bad: #b3261e; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #131517; --card: #1a1d20;
  --ink: #e7e9ec; --soft: #a3abb6; --line: #2c3136; --good: #6fd19b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 75ch; }
.soft, figcaption, th { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .7rem .35rem 0; text-align: left; vertical-align: middle;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-size: .8rem; font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { vertical-align: middle; margin-right: .5rem; stroke: currentColor; fill: currentColor; }
.row { display: flex; gap: .9rem; overflow-x: auto; padding-bottom: .5rem; }
figure { margin: 0; flex: none; max-width: 224px; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .8rem 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def render(
    scores: Scores | None,
    *,
    title: str,
    facts: Mapping[str, Any],
    ratings: RatingSummary | None = None,
    leaderboard: Sequence[Mapping[str, str]] = (),
) -> str:
    """Returns the whole page.

    Args:
      scores: Of recognition.
      title: What was scored.
      facts: Name -> value, for the reader: data, map, settings.
      ratings: Judgements by people.
      leaderboard: Rows of `read_leaderboard`.
    """
    body = [f"<h1>{_e(title)}</h1>", _definitions(facts)]
    if scores is not None:
        body += _recognition(scores)
        body += _pictures(scores.shown)
        if scores.failures:
            body.append(
                "<h2>Left out</h2><p>These pictures take part in no row.</p><ul>"
            )
            body += [f"<li>{_e(failure.error)}</li>" for failure in scores.failures]
            body.append("</ul>")
    if ratings is not None:
        body += _judgements(ratings)
    if leaderboard:
        body.append("<h2>Leaderboard</h2>")
        ranked = sorted(leaderboard, key=_rank)
        columns = [name for name in ranked[0] if any(row[name] for row in ranked)]
        body.append(
            _table(columns, [[row[name] for name in columns] for row in ranked])
        )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_e(title)}</title><style>{_STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def _definitions(facts: Mapping[str, Any]) -> str:
    items = (
        f"<dt>{_e(name.replace('_', ' '))}</dt><dd>{_e(value)}</dd>"
        for name, value in facts.items()
    )
    return f"<dl>{''.join(items)}</dl>"


def _recognition(scores: Scores) -> list[str]:
    rows = scores.rows
    bounds = [abs(row[name]) for row in rows for name in ("delta", "low", "high")]
    scale = max((value for value in bounds if math.isfinite(value)), default=0) or 1
    body = [
        "<h2>Recognition</h2>",
        '<p class="soft">M1: a class of the label is among the first guesses. M2: as many of its '
        "classes as can be are. LRAP: how far up they stand, the mean over labels. Behind each "
        "score is the difference to the pictures as they are, with its 95 % interval over "
        "videos; in colour where the interval leaves out zero.</p>",
    ]
    for collection in _unique(rows, "collection"):
        for recogniser in _unique(rows, "recogniser"):
            found = {
                (row["restorer"], row["metric"]): row
                for row in rows
                if (row["collection"], row["recogniser"]) == (collection, recogniser)
            }
            some = next(iter(found.values()))
            body.append(
                f"<h3>{_e(recogniser)}, {_e(collection)} ({some['n']} pictures)</h3>"
            )
            lines = [
                f"<tr><td>{_e(restorer)}</td>"
                + "".join(_score_cells(found[restorer, m], scale) for m in METRICS)
                + "</tr>"
                for restorer in _unique(rows, "restorer")
            ]
            head = "".join(f'<th class="n">{m}</th><th>change</th>' for m in METRICS)
            body.append(
                f'<div class="scroll"><table><thead><tr><th>restorer</th>{head}</tr></thead>'
                f"<tbody>{''.join(lines)}</tbody></table></div>"
            )
    return body


def _score_cells(row: Mapping[str, Any], scale: float) -> str:
    score = f'<td class="n">{row["score"]:.3f}</td>'
    if row["restorer"] == RAW:
        return score + "<td></td>"
    kind = (
        ' class="good"' if row["low"] > 0 else ' class="bad"' if row["high"] < 0 else ""
    )
    text = f"{row['delta']:+.3f}"
    if math.isnan(row["low"]):
        return f"{score}<td{kind}>{text}</td>"
    text += f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{score}<td{kind}>{_interval(row, scale)}{text}</td>"


def _interval(row: Mapping[str, Any], scale: float) -> str:
    """A small picture of an interval around zero."""
    half = 34
    delta, low, high = (
        half + 2 + half * row[name] / scale for name in ("delta", "low", "high")
    )
    middle = half + 2
    return (
        f'<svg width="{2 * middle}" height="12" role="img" aria-label="interval">'
        f'<path d="M{middle} 0V12" opacity=".35"/>'
        f'<path d="M{low:.1f} 6H{high:.1f}" stroke-width="2"/>'
        f'<circle cx="{delta:.1f}" cy="6" r="2.5" stroke="none"/></svg>'
    )


def _pictures(shown: Sequence[Shown]) -> list[str]:
    if not shown:
        return []
    body = [
        "<h2>Pictures</h2>",
        '<p class="soft">Evenly spaced over the data, not chosen. Below each: which recognisers '
        "have a class of the label among their first guesses.</p>",
    ]
    for picture in shown:
        body.append(f"<h3>{_e(picture.key)}: {_e(picture.label)}</h3>")
        figures = []
        for name, image in picture.images.items():
            marks = (
                f'<span class="{"good" if hit else "bad"}">{"✓" if hit else "✗"} {_e(judge)}'
                "</span>"
                for judge, hit in picture.hits[name].items()
            )
            figures.append(
                f'<figure><img src="{_data_url(image)}" alt="{_e(name)}">'
                f"<figcaption><b>{_e(name)}</b><br>{'<br>'.join(marks)}</figcaption></figure>"
            )
        body.append(f'<div class="row">{"".join(figures)}</div>')
    return body


def _judgements(ratings: RatingSummary) -> list[str]:
    rows = [
        [
            *(p.a, p.b, f"{p.score:+.3f}"),
            "" if math.isnan(p.low) else f"[{p.low:+.3f}, {p.high:+.3f}]",
            *(p.votes, p.raters),
        ]
        for p in ratings.preferences
    ]
    out = (
        f"{ratings.too_fast} judgements were too fast to count; left out as careless:"
        f" {', '.join(ratings.careless) or 'nobody'}."
    )
    return [
        "<h2>Judged by people</h2>",
        '<p class="soft">From -2 (the first is much better) to 2 (the second is). Slow judgements '
        f"count less; the interval is over raters. {_e(out)}</p>",
        _table(["first", "second", "preference", "95 %", "votes", "raters"], rows),
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_e(name)}</th>" for name in columns)
    lines = (
        "<tr>" + "".join(f"<td>{_e(value)}</td>" for value in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _rank(row: Mapping[str, str]) -> tuple:
    about = tuple(row[n] for n in ("data", "collection", "recogniser", "preprocessing"))
    return (*about, row["metric"], -float(row["score"]), row["restorer"])


def _unique(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(row[name] for row in rows))


def _data_url(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))  # only ever smaller
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _e(value: Any) -> str:
    return html.escape(str(value), quote=True)
