"""What the README shows works as it stands there."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from experiments.tour import TOUR

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def shell_lines() -> list[str]:
    return [
        line for block in blocks("sh") for line in block.splitlines() if line.strip()
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (2, 10)
    # The transformation is used as the text says: it takes the model's parameters.
    params = names["model"].variables["params"]
    names["tx"].init(params)


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_examples_run(block, tmp_path):
    """make targets are planned only; everything else is run, in an empty folder."""
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            command, folder = [program, "-n", *arguments], ROOT
            methods = [
                a.partition("=")[2] for a in arguments if a.startswith("METHOD=")
            ]
            assert set(methods) <= set(TOUR)
        elif program == ".venv/bin/zoo-jax":
            command, folder = (
                [sys.executable, "-m", "zoo_jax.cli", *arguments],
                tmp_path,
            )
        else:
            pytest.fail(f"no test knows how to run {line!r}")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_both_languages_are_shown():
    assert len(blocks("python")) == 1
    assert any(line.startswith("make run") for line in shell_lines())
    assert any(line.startswith("make test") for line in shell_lines())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_into_the_checkout_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_method_table_says_ready_of_what_is_there():
    rows = re.findall(r"^\|.*`(\w+)`.*\| (ready|planned) \|$", README, re.MULTILINE)
    assert len(rows) == 10
    assert {name for name, status in rows if status == "ready"} == set(TOUR)
