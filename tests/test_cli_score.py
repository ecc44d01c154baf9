"""``zoo-jax score``: from folders on a command line to a table, a page and a leaderboard."""

import csv
import json

import numpy as np
import pytest
from scoring import ColourRecogniser, brighten, make_folder, picture, save

from zoo_jax import cli
from zoo_jax import score as command
from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.ug2.leaderboard import read_leaderboard
from zoo_jax.methods.ug2.synsets import SYNSETS

MAP = "class,members\nred,0 3\ngreen,1\nblue,2\n"


class Thousand(ColourRecogniser):
    """The recogniser of colours with the thousand classes of ILSVRC."""

    def scores(self, images):
        few = super().scores(images)
        return np.concatenate([few, np.zeros((len(few), 994))], axis=1)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command line in `tmp_path`, where networks are small fakes."""
    monkeypatch.chdir(tmp_path)
    known = {"brighten": brighten, "same": lambda x: x, "shrink": lambda x: x[:, 1:]}
    known["holes"] = lambda x: x / (x - x)

    def make_enhancer(name, **options):
        if name not in known:
            raise ConfigError(f"unknown enhancer {name!r}")
        assert options in ({}, {"gain": 2})
        return known[name]

    def make_recogniser(name, *, preprocessing, batch, variant="none"):
        return Thousand(f"{name} {preprocessing} {variant}")

    monkeypatch.setattr(command, "make_enhancer", make_enhancer)
    monkeypatch.setattr(command, "make_recogniser", make_recogniser)

    def call(*argv):
        code = cli.main(["score", *map(str, argv)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def data(tmp_path):
    (tmp_path / "map.csv").write_text(MAP)
    make_folder(tmp_path / "data")
    return ["--data", "data", "--class-map", "map.csv", "--recognisers", "vgg16:w"]


def fails(result, message):
    code, _, err = result
    assert code == 2, err
    assert err.startswith("zoo-jax: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_prints_and_writes_table_page_and_json(run, data, tmp_path):
    options = (
        "--restorers",
        "brighten,same",
        "--top",
        2,
        "-o",
        "out",
        "--json",
        "s.json",
    )
    code, out, _ = run(*data, *options)
    assert code == 0
    assert "vgg16:w modern torchvision, all: 18 pictures" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line[:2] == "  "}
    assert "0.667" in lines["raw"]
    assert "1.000 +0.333 [" in lines["brighten"]
    assert "0.667 +0.000 [+0.000, +0.000]" in lines["same"]
    result = json.loads((tmp_path / "s.json").read_text())
    assert (result["pictures"], result["videos"], result["classes"]) == (18, 9, 3)
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result["scores"]) == 9
    for row, other in zip(rows, result["scores"], strict=True):
        assert float(row["score"]) == other["score"]
    with (tmp_path / "out" / "pictures.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 18 * 3
    page = (tmp_path / "out" / "index.html").read_text()
    assert "0.667" in page
    fails(run(*data, "-o", "out"), "out/index.html: exists; choose another -o, or add")
    assert run(*data, "-o", "out", "--force")[0] == 0


def test_written_images_are_an_entry_with_the_same_scores(run, data, tmp_path):
    restorers = ("--restorers", "b/r=brighten:gain=2", "--top", 2)
    code, one, err = run(*data, *restorers, "-o", "out", "--write-images")
    assert code == 0, err
    entry = "b/r=out/images/b_r"
    code, other, _ = run(*data, "--entry", entry, "--top", 2)
    assert code == 0
    assert one.splitlines()[:-1] == other.splitlines()


def test_a_leaderboard_grows_and_others_can_join(run, data, tmp_path):
    first = (*data, "--restorers", "brighten", "--leaderboard", "b.csv", "--note", "us")
    assert "6 rows added to b.csv, which has 6" in run(*first)[1]
    assert "0 rows added" in run(*first)[1]
    make_folder(tmp_path / "theirs", dims=(1, 1, 0.5))
    code, out, _ = run(
        *data, "--entry", "theirs=theirs", "--leaderboard", "b.csv", "-o", "out"
    )
    assert code == 0
    assert "3 rows added to b.csv, which has 9" in out
    assert "theirs" in (tmp_path / "out" / "index.html").read_text()
    (tmp_path / "c.csv").write_text((tmp_path / "b.csv").read_text())
    assert "9 rows added" in run("--merge", "c.csv", "--leaderboard", "new.csv")[1]
    assert read_leaderboard("new.csv") == read_leaderboard("b.csv")
    header, first_row, *_ = (tmp_path / "c.csv").read_text().splitlines()
    fields = first_row.rsplit(",", 7)
    fields[1] = "0.123"  # the score
    (tmp_path / "d.csv").write_text(f"{header}\n{','.join(fields)}\n")
    both = ("--merge", "c.csv", "--merge", "d.csv", "--leaderboard", "none.csv")
    fails(run(*both), "another result")
    assert not (tmp_path / "none.csv").exists()
    # Another result under a name that is taken.
    make_folder(tmp_path / "theirs", dims=(0.2, 0.2, 0.2))
    before = (tmp_path / "b.csv").read_bytes()
    entry = ("--entry", "theirs=theirs", "--leaderboard", "b.csv", "-o", "kept")
    fails(run(*data, *entry), "give the entry another name")
    assert (tmp_path / "kept" / "scores.csv").is_file()  # a long run is not lost
    assert (tmp_path / "b.csv").read_bytes() == before
    # Other settings are another result.
    more = ("--preprocessing", "official", "--top", 1, "--corrected-map")
    assert "6 rows added" in run(*first, *more)[1]
    kinds = {row["preprocessing"] for row in read_leaderboard("b.csv")}
    assert kinds == {"modern", "official, top-1, corrected map"}


def test_broken_pictures_are_listed_and_the_rest_goes_on(run, data, tmp_path):
    (tmp_path / "data" / "red" / "v00" / "0.png").write_bytes(b"broken")
    code, out, _ = run(*data, "--restorers", "same", "--json", "s.json")
    assert code == 1
    assert "17 pictures" in out
    assert "1 of 18 pictures were left out:" in out
    assert "v00/0.png" in out.splitlines()[-1]
    assert json.loads((tmp_path / "s.json").read_text())["left_out"][0]["key"]


def test_classes_may_be_wordnet_ids_without_a_map(run, tmp_path):
    save(tmp_path / "data" / SYNSETS[1] / "x.png", picture("green"))
    code, out, _ = run("--data", "data", "--recognisers", "tflite:x.tflite", "--top", 1)
    assert code == 0
    assert "tflite:x.tflite modern none, all: 1 pictures" in out
    assert "raw       1.000" in out


def test_ratings_need_no_pictures(run, tmp_path):
    def rating(rater, value, ms):
        return {
            "rater": rater,
            "pair": f"p{value}",
            "left": "b",
            "right": "a",
            "rating": value,
            "reaction_ms": ms,
            "identical": False,
        }

    for name, value in (("ann", 2), ("bob", 1)):
        (tmp_path / f"{name}.json").write_text(
            json.dumps([rating(name, value, 900), rating(name, -2, 12)])
        )
    code, out, _ = run(
        *("--ratings", "ann.json", "--ratings", "bob.json", "-o", "out"),
        *("--json", "r.json"),
    )
    assert code == 0
    assert "b against a: -1.500 [-2.000, -1.000] of -2 to 2, 2 votes by 2 raters" in out
    assert "left out: 2 judgements that were too fast" in out
    assert "Judged by people" in (tmp_path / "out" / "index.html").read_text()
    found = json.loads((tmp_path / "r.json").read_text())["ratings"]
    assert found["preferences"][0]["score"] == -1.5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--restorers", "shrink"], "'shrink' on data/blue/v20/0.png: gave shape"),
        (["--restorers", "holes"], "gave numbers that are not finite"),
        (["--restorers", "none"], "unknown enhancer 'none'"),
        (["--restorers", "same,same"], "'same' is named twice: write ALIAS=NAME"),
        (["--restorers", "raw=same"], "'raw' is named twice"),
        (["--restorers", "same", "--entry", "same=data"], "'same' is named twice"),
        (["--restorers", "u_said/dncnn"], "needs weights: write u_said/dncnn:FILE"),
        (["--restorers", "u_said/x:w.pth"], "u_said/x"),
        (["--restorers", "same:a:b"], "a restorer is written [ALIAS=]NAME"),
        (["--entry", "data"], "--entry takes NAME=FOLDER, not 'data'"),
        (["--entry", "e=data", "--entry", "e=data"], "--entry 'e' is named twice"),
        (["--entry", "e=none"], "none: no such folder of enhanced pictures"),
        (["--class-map", "none.csv"], "none.csv: cannot be read"),
        (["--top", 0], "--top must be at least 1, got 0"),
        (["--labels", "x.txt"], "leave --labels out"),
        (["--merge", "x.csv"], "--merge needs --leaderboard"),
        (["--write-images"], "--write-images needs --output"),
        (["-o", "map.csv"], "map.csv: is a file"),
        (["--leaderboard", "map.csv"], "map.csv: expected the columns"),
        (["--ratings", "none.json"], "none.json: cannot be read"),
        (["--data", "none"], "none: no such folder"),
        (["--data", "empty"], "empty: no pictures in it"),
        (["--recognisers", ","], "no recogniser: name at least one"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, data, tmp_path, extra, message):
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    out = [] if {"-o", "--write-images"} & set(extra) else ["-o", "out"]
    fails(run(*data, *out, *extra), message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing to do: give --data FOLDER"),
        (["--data", "data"], "--data needs --recognisers"),
        (["--ratings", "x", "--restorers", "clahe"], "--restorers needs --data FOLDER"),
        (["--data", "d", "--recognisers", "x", "--corrected-map"], "needs --class-map"),
    ],
)
def test_arguments_that_do_not_go_together(run, argv, message):
    fails(run(*argv), message)


def test_a_label_without_classes_asks_for_a_map(run, data):
    result = run("--data", "data", "--recognisers", "vgg16:w")
    fails(result, "class 'blue' is no WordNet id of ILSVRC: say with --class-map")


def test_help_teaches(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "zoo-jax score --data photos" in out
