"""The results tables: checked CSVs in, the same Markdown out."""

import csv

import pytest

from experiments.results import render
from zoo_jax.core.errors import DataError
from zoo_jax.core.registry import list_methods

PAGE = "before\n<!-- results: toy -->\nold text\n<!-- end -->\nafter\n"


def write(folder, *rows, columns=render.COLUMNS):
    with (folder / "toy.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns, restval="", extrasaction="raise")
        writer.writeheader()
        writer.writerows(rows)


MEASURED = {
    "config": "toy/a.py:tour",
    "dataset": "digits",
    "split": "test",
    "metric": "accuracy",
    "paper_value": "0.99",
    "paper_where": "table 2",
    "our_value": "0.98",
    "our_std": "0.002",
    "seeds": "5",
    "status": "small-scale",
    "hardware": "2 CPU cores",
    "revision": "abc123",
}


def test_paper_and_ours_stand_side_by_side(tmp_path):
    write(tmp_path, MEASURED)
    page = render.render_page(PAGE, tmp_path)
    assert page.startswith("before\n<!-- results: toy -->\n| config |")
    assert page.endswith("<!-- end -->\nafter\n")
    assert "old text" not in page
    assert (
        "| `toy/a.py:tour` | digits test | accuracy | 0.99 (table 2) | 0.98 ± 0.002 | 5"
        " | small-scale | abc123 |" in page
    )


def test_blank_stays_blank(tmp_path):
    row = {"config": "toy/b.py", "metric": "ratio", "status": "not-run"}
    write(tmp_path, row)
    assert "| `toy/b.py` |   | ratio |  |  |  | not-run |  |" in render.render_page(
        PAGE, tmp_path
    )


def test_rendering_twice_changes_nothing(tmp_path):
    write(tmp_path, MEASURED)
    once = render.render_page(PAGE, tmp_path)
    assert render.render_page(once, tmp_path) == once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"our_value": "about 1"}, "toy.csv:2: our_value='about 1' is not a number"),
        ({"status": "traind"}, "unknown status 'traind': did you mean 'trained'"),
        ({"status": "not-run"}, "does not go with status"),
        ({"our_value": ""}, "does not go with status"),
        ({"revision": ""}, "needs revision and hardware"),
    ],
)
def test_a_row_that_cannot_be_true_is_named(tmp_path, change, message):
    write(tmp_path, MEASURED | change)
    with pytest.raises(DataError, match="(?s)" + message.replace("(", r"\(")):
        render.render_page(PAGE, tmp_path)


def test_wrong_columns_a_missing_file_and_an_open_block_are_named(tmp_path):
    with pytest.raises(DataError, match=r"toy\.csv cannot be read"):
        render.render_page(PAGE, tmp_path)
    write(tmp_path, columns=render.COLUMNS[1:])
    with pytest.raises(DataError, match="first line must be config,dataset"):
        render.render_page(PAGE, tmp_path)
    with pytest.raises(DataError, match="1 results blocks are opened and 0 are whole"):
        render.render_page(PAGE.replace("<!-- end -->", ""), tmp_path)


def test_a_row_with_a_cell_too_many_is_refused(tmp_path):
    write(tmp_path, MEASURED)
    path = tmp_path / "toy.csv"
    path.write_text(path.read_text().rstrip("\n") + ",surplus\n")
    with pytest.raises(DataError, match="not 16 cells"):
        render.render_page(PAGE, tmp_path)


def test_every_results_file_is_shown_and_every_block_has_one(root):
    pages = [root / "README.md", *root.glob("zoo_jax/methods/*/README.md")]
    shown = {m[1] for page in pages for m in render.BLOCK.findall(page.read_text())}
    results = root / "experiments/results"
    files = {path.stem for path in results.glob("*.csv")}
    assert files & set(list_methods()) <= shown <= files
    for name in shown:
        render.read_results(results / f"{name}.csv")
