"""One static HTML page out of runs: styles, pictures and curves stand in the file itself."""

import base64
import html
import json
import pathlib
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments._report import curves, text
from experiments._report.workdir import Run

STYLE = pathlib.Path(__file__).with_name("style.css")
MANY = 12  # numbers: more than a glance takes in
FIGURE_DPI = 144  # of saved figures; a page has 96 pixels per inch
NUMERIC = re.compile(
    r"[-+]?[\d.,]+(e[-+]?\d+)?( ?(±|\+/-) ?[\d.,e-]+)?( ?[%x])?|nan|-?inf"
)


def render(runs: Sequence[Run]) -> str:
    """Returns the whole page.

    Args:
      runs: Grouped by method here; in the order in which they started.
    """
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    body = [
        "<h1>zoo-jax: results</h1>",
        f'<p class="lead">{_count(runs, "run")} of {_count(methods, "method")}. '
        "Every number stands below with the command that made it.</p>",
        _summary(runs),
    ]
    for method, group in methods.items():
        body.append(f'<h2 id="{_anchor(method)}">{_e(method)}</h2>')
        body += [_article(run, run.path.name) for run in group]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>zoo-jax: results</title>",
            f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
            *body,
            "<footer>Made by <code>python -m experiments.report</code>.</footer>",
            "</main></body></html>\n",
        ]
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table; columns whose entries are all numbers are aligned to the right."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[text.number(row.get(name)) for name in columns] for row in rows]
    right = [
        any(column) and all(not c or NUMERIC.fullmatch(c) for c in column)
        for column in zip(*cells, strict=True)
    ]

    def line(tag: str, values: Iterable[Any]) -> str:
        marks = (' class="n"' if r else "" for r in right)
        pairs = zip(marks, values, strict=True)
        return "".join(f"<{tag}{m}>{_e(v)}</{tag}>" for m, v in pairs)

    head = f"<thead><tr>{line('th', columns)}</tr></thead>"
    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in cells)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _summary(runs: Sequence[Run]) -> str:
    lines = []
    for run in runs:
        method, name, _, numbers, time = map(_e, text.summary_row(run))
        lines.append(
            f'<tr><td><a href="#{_anchor(run.method)}">{method}</a></td>'
            f'<td><a href="#{_anchor(run.path)}">{name}</a></td>'
            f"<td>{_status(run)}</td><td>{numbers}</td>"
            f'<td class="n">{time}</td></tr>'
        )
    head = "".join(f"<th>{name}</th>" for name in text.SUMMARY[:-1])
    return (
        '<div class="scroll"><table class="summary"><thead><tr>'
        f'{head}<th class="n">{text.SUMMARY[-1]}</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _article(run: Run, title: str) -> str:
    parts = [
        f'<article id="{_anchor(run.path)}"><div class="head"><h3>{_e(title)}</h3>',
        f"<code>{_e(text.config_name(run))}</code>",
        f"{_status(run) if run.facts or run.problems else ''}</div>",
    ]
    parts += [f'<p class="problem">{_e(p)}</p>' for p in run.problems]
    if run.headline:
        parts.append(_numbers(run.headline))
    if command := text.command(run):
        parts.append(f"<pre><code>{_e(command)}</code></pre>")
    for entry in run.tables:
        rows = [row for row in entry["rows"] if isinstance(row, dict)]
        if rows:
            parts.append(_heading(entry) + table(rows))
    if run.figures:
        figures = "".join(_figure(run, entry) for entry in run.figures)
        parts.append(f'<div class="figures">{figures}</div>')
    parts.append(_curves(run))
    parts.append(_facts(run))
    if run.config:
        config = json.dumps(run.config, indent=2)
        parts.append(
            _details("resolved config", f"<pre><code>{_e(config)}</code></pre>")
        )
    if run.inner:
        inner = (_article(r, str(r.path.relative_to(run.path))) for r in run.inner)
        parts.append(
            _details(_count(run.inner, "training") + " inside", "".join(inner))
        )
    return "\n".join(filter(None, parts)) + "</article>"


def _numbers(values: Mapping[str, float]) -> str:
    if len(values) > MANY:
        rows = [{"name": name, "value": value} for name, value in values.items()]
        return _details(_count(values, "number"), table(rows))
    items = (
        f"<div><dt>{_e(name)}</dt><dd>{_e(text.number(value))}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="numbers">{"".join(items)}</dl>'


def _heading(entry: Mapping[str, Any]) -> str:
    caption = (
        f'<p class="caption">{_e(entry["caption"])}</p>' if entry["caption"] else ""
    )
    return f"<h4>{_e(_words(entry['name']))}</h4>{caption}"


def _figure(run: Run, entry: Mapping[str, Any]) -> str:
    data = (run.path / entry["file"]).read_bytes()
    width = struct.unpack(">I", data[16:20])[0] * 96 // FIGURE_DPI
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    name, caption = _e(_words(entry["name"])), _e(entry["caption"])
    return (
        f'<figure><img src="{source}" alt="{name}" width="{width}">'
        f"<figcaption><b>{name}</b> {caption}</figcaption></figure>"
    )


def _curves(run: Run) -> str:
    drawn = curves.draw(run)
    if not drawn:
        return ""
    items = (
        f"<figure><figcaption>{_e(name)}</figcaption>{svg}</figure>"
        for name, svg in drawn.items()
    )
    return f'<h4>curves</h4><div class="curves">{"".join(items)}</div>'


def _facts(run: Run) -> str:
    facts = run.facts
    versions = facts.get("versions")
    shown = {
        "workdir": str(run.path),
        "revision": facts.get("revision"),
        "hardware": facts.get("hardware"),
        "started": facts.get("started"),
        "wall time": text.duration(facts.get("wall_s")),
        "speed (median)": text.pairs(run.speed),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items())
        if isinstance(versions, dict)
        else "",
    }
    items = (
        f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>"
        for name, value in shown.items()
        if value
    )
    return _details("how it was run", f'<dl class="facts">{"".join(items)}</dl>')


def _details(title: str, content: str) -> str:
    return f"<details><summary>{_e(title)}</summary>{content}</details>"


def _status(run: Run) -> str:
    name = run.status.replace(" ", "-")
    return f'<span class="status {name}">{run.status}</span>'


def _count(things: Sequence | Mapping, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _anchor(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", str(value)).strip("-")


def _e(value: Any) -> str:
    return html.escape(str(value))
