"""The page: whole, without anything from outside, and safe against names."""

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image
from scoring import CLASS_MAP, ColourRecogniser, brighten, make_folder, save

from zoo_jax.methods.ug2.leaderboard import make_entries
from zoo_jax.methods.ug2.page import render
from zoo_jax.methods.ug2.pictures import find_pictures
from zoo_jax.methods.ug2.ratings import Rating, evaluate_ratings
from zoo_jax.methods.ug2.score import score

EVIL = '"><script>alert(1)</script>'
VOID = {"meta", "img", "br", "path", "circle"}


class Checker(html.parser.HTMLParser):
    """Collects what a page loads, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.open, self.urls, self.tags, self.cells = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.urls += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data)


def check(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def make_scores(tmp_path, **more):
    folder = make_folder(tmp_path / "data")
    (folder / "red" / "v00" / "1.png").write_bytes(b"broken")
    restorers = {"brighten": brighten, EVIL: lambda x: x}
    recognisers = [ColourRecogniser(), ColourRecogniser(EVIL)]
    pictures = find_pictures(folder)
    return score(pictures, restorers, recognisers, CLASS_MAP, k=2, show=3, **more)


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    found = make_scores(tmp_path)
    ratings = evaluate_ratings([Rating(EVIL, "p", "raw", EVIL, 1, 900.0, False)])
    board = make_entries(found.rows, data=EVIL, preprocessing="modern", note=EVIL)
    page = render(
        found, title=EVIL, facts={EVIL: EVIL}, ratings=ratings, leaderboard=board
    )
    checker = check(page)
    assert "script" not in checker.tags
    assert "<script" not in page
    assert checker.urls
    assert all(url.startswith("data:image/png;base64,") for url in checker.urls)
    assert "http" not in page
    assert not re.search(r"@import|url\(", page)


def test_tables_show_the_scores_and_pictures_their_hits(tmp_path):
    found = make_scores(tmp_path)
    page = render(found, title="t", facts={"data": "d"})
    checker = check(page)
    for row in found.rows:
        assert f"{row['score']:.3f}" in checker.cells
    assert any("the file is not" in c or "v00/1.png" in c for c in checker.cells)
    assert page.count("<img") == 3 * 3
    marks = [c for c in checker.cells if c.startswith(("✓", "✗"))]
    assert len(marks) == 3 * 3 * 2
    # What helps is coloured as such.
    assert '<td class="good">' in page
    assert "Judged by people" not in page


def test_pictures_are_those_that_were_scored(tmp_path):
    found = make_scores(tmp_path)
    page = render(found, title="t", facts={})
    urls = check(page).urls
    stored = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(u.partition(",")[2]))))
        for u in urls
    ]
    expected = [image for shown in found.shown for image in shown.images.values()]
    for one, other in zip(stored, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_large_pictures_become_thumbnails(tmp_path):
    save(tmp_path / "red" / "x.png", np.full((600, 300, 3), 200, np.uint8))
    pictures = find_pictures(tmp_path)
    found = score(pictures, {}, [ColourRecogniser()], CLASS_MAP, k=2)
    (url,) = check(render(found, title="t", facts={})).urls
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert image.size == (112, 224)


def test_a_page_of_ratings_alone(tmp_path):
    ratings = evaluate_ratings([Rating("ann", "p", "raw", "srnet", 1, 900.0, False)])
    page = render(None, title="t", facts={}, ratings=ratings)
    assert "Judged by people" in page
    assert "Recognition" not in page
    check(page)
