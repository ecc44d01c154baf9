"""The page on which people judge pairs: what it holds, and a whole session in a real browser."""

import collections
import html.parser
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest
from PIL import Image

from zoo_jax import cli
from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.methods.ug2.rating_page import read_pairs, render_rating_page
from zoo_jax.methods.ug2.ratings import evaluate_ratings, read_ratings

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NAMES = ("raw", "sharp</script>")

# Appended to the page: types a name, waits for each pair, takes its time, and presses a key that
# says which side is brighter; then sends what the page would save to the test.
DRIVER = """
<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
async function brightness(image) {
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data[0];
}
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
async function session() {
  at("rater").value = NAME;
  at("start").requestSubmit();
  while (at("end").hidden) {
    press("1");  // too early: the pair is not there yet
    while (shown === null && at("end").hidden) await wait(10);
    if (!at("end").hidden) break;
    await wait(320);
    const left = await brightness(at("left")), right = await brightness(at("right"));
    press(left > right ? "1" : left < right ? "5" : "3");
    await wait(0);
  }
  await fetch("ADDRESS", { method: "POST", mode: "no-cors", body: JSON.stringify(ratings) });
}
const NAME = "ann <b>";
session();
</script>
"""


def save(path, value, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)


@pytest.fixture
def folders(tmp_path):
    """Three pairs; b is brighter. One name has a sub-folder, one another suffix."""
    for number, name in enumerate(("x.png", "y.png", "deep/z.png")):
        save(tmp_path / "a" / name, 60 + number)
        save(tmp_path / "b" / name.replace("y.png", "y.bmp"), 160 + number)
    return tmp_path / "a", tmp_path / "b"


class Text(html.parser.HTMLParser):
    """The text of elements with an id, and every address."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.urls, self._inside = {}, [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.urls += [v for k, v in attrs.items() if k in ("src", "href")]
        if tag in ("script", "pre"):
            self._inside = attrs.get("id")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def test_the_page_holds_the_pictures_and_loads_nothing(folders):
    pairs = read_pairs(*folders)
    assert [pair.key for pair in pairs] == ["deep/z", "x", "y"]
    page = render_rating_page(pairs, names=NAMES, title='<i>"which"', checks=0.4)
    found = Text(page)
    assert found.urls == []
    assert "http" not in page
    data = json.loads(
        found.texts["data"]
    )  # a name that closes a script does not end it
    assert data["names"] == list(NAMES)
    assert data["checks"] == 1
    assert "&lt;i&gt;&quot;which&quot;" in page
    assert "4 pairs" in page
    assert all(
        image.startswith("data:image/png;base64,")
        for pair in data["pairs"]
        for image in pair["images"]
    )


def test_other_pictures_make_another_page(folders):
    """What a browser keeps for one page must not turn up on another."""
    pairs = read_pairs(*folders)

    def page(pairs, **more):
        text = render_rating_page(pairs, names=NAMES, **more)
        return json.loads(Text(text).texts["data"])["page"]

    assert page(pairs) == page(pairs)
    changed = [pairs[0]._replace(a=pairs[0].a + np.uint8(1)), *pairs[1:]]
    assert len({page(pairs), page(changed), page(pairs, seed=1)}) == 3


def test_a_limit_takes_pairs_from_the_whole_range(folders):
    assert [p.key for p in read_pairs(*folders, limit=2)] == ["deep/z", "y"]
    assert len(read_pairs(*folders, limit=9)) == 3
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        read_pairs(*folders, limit=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(names=("a", "a")), "need names that differ"),
        (dict(names=("", "b")), "need names that differ"),
        (dict(names=NAMES, checks=1.5), "checks is a share"),
    ],
)
def test_options_that_do_not_fit_are_one_line(folders, options, message):
    with pytest.raises(ConfigError, match=message):
        render_rating_page(read_pairs(*folders), **options)


def test_pairs_that_do_not_match_are_named(folders, tmp_path):
    a, b = folders
    with pytest.raises(DataError, match="no pairs"):
        render_rating_page([], names=NAMES)
    with pytest.raises(DataError, match="no such folder"):
        read_pairs(a, tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        read_pairs(tmp_path / "empty", b)
    save(b / "x.png", 1, size=(7, 5))
    with pytest.raises(DataError, match=r"x.png: has 7x5 pixels and .* 6x5"):
        read_pairs(a, b)
    (b / "x.png").unlink()
    with pytest.raises(DataError, match="1 of 3 pictures are missing: x"):
        read_pairs(a, b)


def test_the_command_writes_one_file_and_replaces_none(folders, tmp_path, capsys):
    a, b = map(str, folders)
    out = tmp_path / "out" / "rate.html"
    out.parent.mkdir()
    run = ["rate", "--a", a, "--b", b, "-o", str(out)]
    report = tmp_path / "r.json"

    def code(*more):
        try:
            return cli.main([*run, *more]) or 0
        except SystemExit as end:
            return end.code

    assert code("--json", str(report)) == 0
    facts = json.loads(report.read_text())
    assert facts["names"] == ["a", "b"]
    assert facts["bytes"] == out.stat().st_size
    assert [p.name for p in out.parent.iterdir()] == ["rate.html"]
    assert code() == 2
    assert "--force" in capsys.readouterr().err
    assert code("--force", "--names", "raw") == 2
    assert "two names" in capsys.readouterr().err
    assert code("--force", "--names", "raw,new") == 0


def test_a_session_in_a_browser_gives_ratings_that_can_be_evaluated(folders, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: looked for {', '.join(BROWSERS)}")
    page = render_rating_page(read_pairs(*folders), names=NAMES, checks=0.7)
    arrived: queue.Queue[bytes] = queue.Queue()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            arrived.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = DRIVER.replace("ADDRESS", f"http://127.0.0.1:{server.server_port}")
        (tmp_path / "page.html").write_text(page.replace("</body>", driver + "</body>"))
        process = subprocess.Popen(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'user'}"),
                (tmp_path / "page.html").as_uri(),
            ],
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it has children
        )
        try:
            ratings = json.loads(arrived.get(timeout=120))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.shutdown()
    counts = collections.Counter((r["pair"], r["identical"]) for r in ratings)
    assert {key: n for key, n in counts.items() if not key[1]} == {
        (pair, False): 1 for pair in ("x", "y", "deep/z")
    }
    assert sum(n for (_, identical), n in counts.items() if identical) == 2
    assert {r["rater"] for r in ratings} == {"ann <b>"}
    assert all(r["reaction_ms"] >= 300 for r in ratings)
    for r in ratings:
        if r["identical"]:
            assert r["left"] == r["right"]
            assert r["rating"] == 0
        else:  # b is the brighter one, on whichever side it stands
            assert r["rating"] == (2 if r["right"] == NAMES[1] else -2)
    (tmp_path / "ratings.json").write_text(json.dumps(ratings))
    summary = evaluate_ratings(read_ratings([tmp_path / "ratings.json"]))
    assert summary.careless == ()
    (preference,) = summary.preferences
    assert preference[:3] == ("raw", NAMES[1], 2.0)
