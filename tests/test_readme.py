"""What the README shows works as it stands there."""

import os
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """An empty folder but for what ``make run`` trains first, cut short."""
    folder = tmp_path_factory.mktemp("readme")
    first = TOUR["deep_k_means"][0]
    command = [sys.executable, *first.arguments, "--config.steps=2"]
    command += [f"--workdir={folder}/runs/tour/{first.workdir}"]  # the last one counts
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_examples_run(block, folder):
    """make targets are planned only; everything else is run."""
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            command, where = [program, "-n", *arguments], ROOT
            methods = [
                a.partition("=")[2] for a in arguments if a.startswith("METHOD=")
            ]
            assert set(methods) <= set(TOUR)
        elif program == ".venv/bin/zoo-jax":
            command = [sys.executable, "-m", "zoo_jax.cli", *arguments]
            where = folder
        else:
            pytest.fail(f"no test knows how to run {line!r}")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # installed or not
        done = subprocess.run(
            command, cwd=where, env=environment, capture_output=True, text=True
        )
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
