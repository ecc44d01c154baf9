"""The report shows what stands in workdirs, escapes it, and survives damage."""

import base64
import html.parser
import json
import pathlib
import subprocess
import sys

import pytest

from experiments._report import curves, page, text, workdir

PNG = base64.b64decode(  # one red pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
VOID = {"meta", "img", "link", "br", "hr", "input"}


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def make_training(folder: pathlib.Path, **facts) -> pathlib.Path:
    folder.mkdir(parents=True)
    command = ["python", "-m", "experiments.train", "--config=c/a.py:tour", "--x=a b"]
    facts = {"command": command, "finished": True, "wall_s": 245.2, **facts}
    (folder / "config.json").write_text(json.dumps({"task": "toy", "steps": 30}))
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "metrics.jsonl").write_text(
        lines(
            {"step": 10, "train/loss": 2.0},
            {"step": 20, "train/loss": 1.0},
            {"step": 20, "eval/loss": 1.5, "eval/accuracy": 0.5},
            {"step": 30, "train/loss": 0.5},
            {"step": 30, "eval/loss": 1.25, "eval/accuracy": 0.75},
        )
    )
    (folder / "perf.jsonl").write_text(
        lines({"step": 10, "steps_per_s": 1.0}, {"step": 20, "steps_per_s": 3.0})
    )
    return folder


def make_procedure(folder: pathlib.Path, result: dict) -> pathlib.Path:
    make_training(folder)
    (folder / "metrics.jsonl").unlink()
    (folder / "result.json").write_text(json.dumps(result))
    return folder


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and keeps text, tags and attributes."""

    def __init__(self, source: str):
        super().__init__()
        self.words, self.tags, self.attributes, self._open = [], [], [], []
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.report", *arguments]
    root = pathlib.Path(__file__).resolve().parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_binary_writes_one_page_and_prints_the_same_summary(tmp_path):
    make_training(tmp_path / "runs/toy/first")
    make_procedure(tmp_path / "runs/toy/second", {"scalars": {"ratio": 12.5}})
    out = tmp_path / "out/index.html"
    done = report(f"--workdirs={tmp_path}/runs/*", f"--out={out}")
    assert done.returncode == 0, done.stderr
    shown = Page(out.read_text()).text
    for words in (
        "first",
        "finished",
        "eval/accuracy 0.75",
        "ratio 12.5",
        "4 min 05 s",
    ):
        assert words in shown
        assert words in done.stdout
    assert [p.name for p in out.parent.iterdir()] == ["index.html"]


def test_nothing_found_is_a_users_mistake(tmp_path):
    done = report(f"--workdirs={tmp_path}/none/*", f"--out={tmp_path}/x")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{tmp_path}/none/*" in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_page_needs_nothing_from_outside(tmp_path):
    make_training(tmp_path / "toy")
    source = page.render(workdir.find_runs([str(tmp_path)]))
    parsed = Page(source)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    links = [v for k, v in parsed.attributes if k in ("src", "href", "xlink:href")]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_what_runs_wrote_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>&"
    result = {
        "scalars": {evil: 1.0},
        "tables": [{"name": evil, "caption": evil, "rows": [{evil: evil}]}],
        "figures": [{"name": evil, "caption": evil, "file": "figures/a.png"}],
    }
    folder = make_procedure(tmp_path / "toy", result)
    (folder / "figures").mkdir()
    (folder / "figures/a.png").write_bytes(PNG)
    (folder / "config.json").write_text(json.dumps({"task": evil}))
    (folder / "metrics.jsonl").write_text(
        lines({"step": 1, f"a/{evil}$x": 1.0}, {"step": 2, f"a/{evil}$x": 2.0})
    )
    source = page.render(workdir.find_runs([str(tmp_path)]))
    assert "<script" not in source
    assert Page(source).text.count(evil) >= 7


def test_tables_align_numbers_right_and_leave_blanks(tmp_path):
    rows = [
        {"arm": "plain", "accuracy": 0.98765, "spread": "0.98 ± 0.01", "note": None},
        {"arm": "labels", "accuracy": 0.5, "spread": "0.97 ± 0.02", "bytes": 12345},
    ]
    source = page.table(rows)
    assert '<th>arm</th><th class="n">accuracy</th><th class="n">spread</th>' in source
    assert '<td class="n">0.9877</td>' in source
    assert '<td class="n">12,345</td>' in source
    assert '<td class="n"></td>' in source
    assert "None" not in source


def test_figures_of_the_workdir_are_embedded_and_others_are_not(tmp_path):
    (tmp_path / "secret.png").write_bytes(PNG)
    figures = [
        {"name": n, "caption": "", "file": f}
        for n, f in {
            "good": "figures/a.png",
            "outside": "../secret.png",
            "absolute": str(tmp_path / "secret.png"),
            "text": "run.json",
            "gone": "figures/b.png",
        }.items()
    ]
    folder = make_procedure(tmp_path / "toy", {"figures": figures})
    (folder / "figures").mkdir()
    (folder / "figures/a.png").write_bytes(PNG)
    [run] = workdir.find_runs([str(tmp_path / "toy")])
    assert [f["name"] for f in run.figures] == ["good"]
    assert len(run.problems) == 4
    source = page.render([run])
    assert source.count("data:image/png;base64,") == 1
    assert base64.b64encode(PNG).decode() in source


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", None, "config.json is missing"),
        ("run.json", "[1]", "run.json holds no JSON object"),
        ("run.json", b"\xff\xfe{}", "run.json cannot be read"),
        ("metrics.jsonl", 'x\n{"step": 1}\n', "metrics.jsonl has 1 unreadable lines"),
        (
            "result.json",
            '{"tables": [{"rows": 3}]}',
            "result.json has unreadable tables",
        ),
        ("result.json", '{"figures": 7}', "result.json has unreadable figures"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(
    tmp_path, file, content, problem
):
    make_training(tmp_path / "runs/good")
    folder = make_training(tmp_path / "runs/bad")
    if content is None:
        (folder / file).unlink()
    else:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / file).write_bytes(data)
    runs = workdir.find_runs([str(tmp_path / "runs")])
    assert [(run.path.name, run.status) for run in runs] == [
        ("bad", "damaged"),
        ("good", "finished"),
    ]
    assert problem in Page(page.render(runs)).text


def test_a_torn_last_line_is_a_run_under_way(tmp_path):
    folder = make_training(tmp_path / "toy", finished=False)
    with (folder / "metrics.jsonl").open("a") as f:
        f.write('{"step": 40, "tra')
    run = workdir.read_run(folder)
    assert run.status == "not finished"
    assert run.curves["train/loss"] == [(10, 2.0), (20, 1.0), (30, 0.5)]


def test_headline_is_the_last_evaluation(tmp_path):
    run = workdir.read_run(make_training(tmp_path / "toy"))
    assert run.headline == {"eval/loss": 1.25, "eval/accuracy": 0.75}
    assert run.speed == {"steps_per_s": 2.0}


def test_a_training_inside_a_procedure_belongs_to_it(tmp_path):
    make_procedure(tmp_path / "toy/search", {"scalars": {"best": 1.0}})
    inner = make_training(tmp_path / "toy/search/arm/one")
    make_training(tmp_path / "toy/search_2")
    make_training(inner / "checkpoints/5")
    runs = workdir.find_runs([f"{tmp_path}/toy/*", f"{tmp_path}/toy"])
    assert [run.path.name for run in runs] == ["search", "search_2"]
    assert [run.path for run in runs[0].inner] == [inner]
    assert "arm/one" in Page(page.render(runs)).text


def test_runs_come_in_the_order_of_their_start(tmp_path):
    make_training(tmp_path / "b", started="2026-01-02T03:04:05+00:00")
    make_training(tmp_path / "a", started="2026-01-02T03:04:06+00:00")
    runs = workdir.find_runs([str(tmp_path)])
    assert [run.path.name for run in runs] == ["b", "a"]


def test_many_numbers_are_folded_away(tmp_path):
    scalars = {f"number_{i}": i + 0.5 for i in range(page.MANY + 1)}
    folder = make_procedure(tmp_path / "toy", {"scalars": scalars})
    source = page.render([workdir.read_run(folder)])
    assert '<dl class="numbers">' not in source
    assert '<td>number_12</td><td class="n">12.5</td>' in source


def test_streams_of_one_metric_share_a_panel_and_gaps_are_left_out():
    nan = float("nan")
    found = curves.panels(
        {
            "train/loss": [(1, 2.0), (2, nan), (3, 1.0)],
            "eval/loss": [(1, 3.0), (3, 2.0)],
            "eval/once": [(1, 1.0)],
            "train/never": [(1, nan), (2, nan)],
            "train/constant": [(1, 0.0), (2, 0.0)],
        }
    )
    assert found == {
        "loss": {"train": [(1, 2.0), (3, 1.0)], "eval": [(1, 3.0), (3, 2.0)]}
    }


def test_curves_take_the_colours_of_the_page(tmp_path):
    run = workdir.read_run(make_training(tmp_path / "toy"))
    drawn = curves.draw(run)
    assert list(drawn) == ["loss", "accuracy"]
    assert "currentColor" in drawn["loss"]
    assert curves.INK not in drawn["loss"]
    assert drawn == curves.draw(run)


def test_the_command_can_be_pasted(tmp_path):
    run = workdir.read_run(make_training(tmp_path / "toy"))
    assert text.command(run) == (
        "python -m experiments.train --config=c/a.py:tour '--x=a b'"
    )
    assert text.config_name(run) == "a.py:tour"
