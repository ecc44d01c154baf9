"""A static HTML page on which people judge pairs of pictures; it needs no server.

The rating is a Likert scale from -2 (left is much better) to 2 (right is much better); the page
measures reaction times and exports what `zoo_jax.methods.ug2.ratings` reads.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.files import PathLike
from zoo_jax.data.media import decode_image
from zoo_jax.methods.ug2.pictures import find_same, read_pair


class Pair(NamedTuple):
    """One picture under two treatments."""

    key: str
    a: UInt8[np.ndarray, "h w 3"]
    b: UInt8[np.ndarray, "h w 3"]


def read_pairs(a: PathLike, b: PathLike, *, limit: int | None = None) -> list[Pair]:
    """Reads the pictures that two folders hold under the same names; suffixes may differ.

    Args:
      a: A folder; its sub-folders count too.
      b: Another one, with every picture of `a`.
      limit: Read so many pairs, evenly spaced over the names; None for all.

    Raises:
      ConfigError: for a limit below 1.
      DataError: for folders that are absent, empty or lack pictures, and for pairs that differ in
        size.
      MediaError: for a picture that cannot be decoded.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    found = find_same(a, b)
    if limit is not None and limit < len(found):
        chosen = np.linspace(0, len(found) - 1, limit).round().astype(int)
        found = [found[i] for i in chosen]
    pairs = []
    for key, one, other in found:
        image = decode_image(one)
        pairs.append(Pair(key, image, read_pair(one, other, image.shape)))
    return pairs


def render_rating_page(
    pairs: Sequence[Pair],
    *,
    names: tuple[str, str],
    title: str = "Which picture is better?",
    checks: float = 0.1,
    seed: int = 0,
) -> str:
    """Returns the page.

    Each rater gets an order, sides and checks of his own, which follow from the name that he
    enters, from the seed and from the pictures; what he has done is kept in the browser until it
    is exported. Names of treatments are not shown.

    Args:
      pairs: At least one, of distinct keys.
      names: Of the treatments a and b, as they stand in the export.
      title: The question, above the pictures.
      checks: Identical pairs per pair, at least one in all unless it is 0: one of the two
        pictures stands on both sides, and a careful rater answers "the same".
      seed: Of the orders.

    Raises:
      ConfigError: for names that are empty or equal, or a share of checks outside [0, 1].
      DataError: without pairs.
    """
    if not pairs:
        raise DataError("no pairs to judge")
    if not all(names) or names[0] == names[1]:
        raise ConfigError(
            f"the two treatments need names that differ, got {names[0]!r} and {names[1]!r}"
        )
    if not 0 <= checks <= 1:
        raise ConfigError(f"checks is a share in [0, 1], got {checks}")
    data: dict[str, Any] = {
        "names": list(names),
        "checks": max(1, round(checks * len(pairs))) if checks else 0,
        "seed": seed,
        "pairs": [
            {"key": pair.key, "images": [_data_url(pair.a), _data_url(pair.b)]}
            for pair in pairs
        ],
    }
    data["page"] = hashlib.sha256(_json(data).encode()).hexdigest()[:16]
    return _PAGE % {
        "title": html.escape(title, quote=True),
        "count": len(pairs) + data["checks"],
        "style": _STYLE,
        "data": _json(data),
        "script": _SCRIPT,
    }


def _json(value: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _data_url(image: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG", optimize=True)  # lossless
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


_STYLE = """
:root { color-scheme: dark; --page: #202224; --ink: #eceef0; --soft: #a7adb5; --line: #43474c;
  --key: #2d3034; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); min-height: 100vh;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.3rem; margin: 0 0 .6rem; font-weight: 600; }
p { max-width: 70ch; margin: .5rem 0; }
.soft { color: var(--soft); }
.sides { display: flex; gap: .8rem; justify-content: center; align-items: flex-start; }
.sides div { flex: 1 1 0; min-width: 0; display: flex; justify-content: center; }
.sides img { max-width: 100%; max-height: 68vh; height: auto; display: block; }
.keys { display: flex; gap: .5rem; justify-content: center; margin: 1rem 0; flex-wrap: wrap; }
button, input { font: inherit; color: inherit; background: var(--key); padding: .5rem 1rem;
  border: 1px solid var(--line); border-radius: 6px; }
button { cursor: pointer; }
button:focus-visible, input:focus-visible { outline: 2px solid #8ab4f8; outline-offset: 2px; }
kbd { color: var(--soft); margin-right: .5rem; }
progress { width: 100%; height: .5rem; accent-color: #8ab4f8; }
[hidden] { display: none !important; }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title><style>%(style)s</style></head><body><main>
<form id="start"><h1>%(title)s</h1>
<p>You will see %(count)s pairs of pictures. Say for each how the two compare; the keys 1 to 5 are
fastest. Judge at your first look, without haste: the time you take is recorded. Some pairs are the
same picture twice.</p>
<p class="soft">What you have judged is kept in this browser until you save it as a file at the end. Nothing is
sent anywhere.</p>
<p><label>Your name or number <input id="rater" required maxlength="80" autocomplete="off"></label>
<button>Begin</button></p></form>
<section id="trial" hidden><h1>%(title)s</h1>
<div class="sides"><div><img id="left" alt="left picture"></div><div><img id="right"
alt="right picture"></div></div>
<div class="keys">
<button data-rating="-2"><kbd>1</kbd>left much better</button>
<button data-rating="-1"><kbd>2</kbd>left better</button>
<button data-rating="0"><kbd>3</kbd>the same</button>
<button data-rating="1"><kbd>4</kbd>right better</button>
<button data-rating="2"><kbd>5</kbd>right much better</button></div>
<progress id="progress" value="0" max="1"></progress>
<p class="soft"><span id="where"></span> <button id="pause">Save what I have</button></p></section>
<section id="end" hidden><h1>Thank you</h1><p id="summary"></p>
<p><button id="save">Save the ratings as a file</button></p></section>
<noscript><p>This page needs JavaScript.</p></noscript>
</main>
<script type="application/json" id="data">%(data)s</script>
<script>%(script)s</script></body></html>
"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
let rater = "", trials = [], ratings = [], shown = null, since = 0;

// Numbers in [0, 1) that follow from a text (xmur3 and mulberry32).
function random(text) {
  let h = 1779033703 ^ text.length;
  for (let i = 0; i < text.length; i++) {
    h = Math.imul(h ^ text.charCodeAt(i), 3432918353);
    h = (h << 13) | (h >>> 19);
  }
  return () => {
    h = (h + 0x6d2b79f5) | 0;
    let t = Math.imul(h ^ (h >>> 15), 1 | h);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffle(list, draw) {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(draw() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

// A rater's own order: every pair once, sides drawn, and identical pairs among them.
function plan(name) {
  const draw = random([data.page, data.seed, name].join("\\n"));
  const numbers = data.pairs.map((_, i) => i);
  const all = numbers.map((pair) => {
    const left = draw() < 0.5 ? 0 : 1;
    return { pair, left, right: 1 - left };
  });
  for (const pair of shuffle([...numbers], draw).slice(0, data.checks)) {
    const side = draw() < 0.5 ? 0 : 1;
    all.push({ pair, left: side, right: side });
  }
  return shuffle(all, draw);
}

const place = () => "ratings/" + data.page + "/" + rater;

function keep() {
  try { localStorage.setItem(place(), JSON.stringify(ratings)); } catch (error) { /* full, or not allowed */ }
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(place()) || "[]");
    return Array.isArray(found) ? found : [];
  } catch (error) { return []; }
}

// The clock starts when both pictures are decoded and painted.
async function show() {
  shown = null;
  const trial = trials[ratings.length];
  if (!trial) return finish();
  at("progress").max = trials.length;
  at("progress").value = ratings.length;
  at("where").textContent = (ratings.length + 1) + " of " + trials.length;
  const images = data.pairs[trial.pair].images;
  at("left").style.visibility = at("right").style.visibility = "hidden";
  at("left").src = images[trial.left];
  at("right").src = images[trial.right];
  await Promise.all([at("left").decode(), at("right").decode()]);
  requestAnimationFrame(() => {
    at("left").style.visibility = at("right").style.visibility = "visible";
    requestAnimationFrame(() => { shown = trial; since = performance.now(); });
  });
}

function judge(rating) {
  if (shown === null) return;
  const trial = shown;
  ratings.push({
    rater, pair: data.pairs[trial.pair].key,
    left: data.names[trial.left], right: data.names[trial.right], rating,
    reaction_ms: Math.round(10 * (performance.now() - since)) / 10,
    identical: trial.left === trial.right,
  });
  keep();
  show();
}

function finish() {
  at("trial").hidden = true;
  at("end").hidden = false;
  at("summary").textContent = ratings.length + " of " + trials.length + " pairs are judged. " +
    (ratings.length < trials.length ? "Enter the same name in this browser to go on." : "");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(
    new Blob([JSON.stringify(ratings, null, 1) + "\\n"], { type: "application/json" }));
  link.download = "ratings_" + rater.replace(/[^\\w-]/g, "_") + ".json";
  link.click();
  URL.revokeObjectURL(link.href);
}

at("start").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = at("rater").value.trim();
  if (!rater) return;
  trials = plan(rater);
  ratings = kept();
  at("start").hidden = true;
  at("trial").hidden = false;
  show();
});
for (const button of document.querySelectorAll("[data-rating]")) {
  button.addEventListener("click", () => judge(Number(button.dataset.rating)));
}
document.addEventListener("keydown", (event) => {
  if (at("trial").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if ("12345".includes(event.key)) judge(Number(event.key) - 3);
});
// Who looks away starts the pair anew, so that the pause is not in the time.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !at("trial").hidden) show();
});
at("pause").addEventListener("click", finish);
at("save").addEventListener("click", save);
"""
