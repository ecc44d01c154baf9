"""constraints/install.sh with stand-ins for Python: what it makes, mends and refuses."""

import os
import pathlib
import shutil
import subprocess

import pytest

# Behaves like python as far as the script can see; VERSION and MISSING steer it.
PYTHON = """#!/bin/bash
echo "$(basename "$0") $*" >>"$LOG"
case "$1 $2" in
"-c import sys"*) [[ "${VERSION#3.}" -ge 11 ]] && echo "$VERSION" ;;
"-c import ensurepip"*) [[ -z "$MISSING" ]] ;;
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
"-m pip") [[ "$3" != install || -z "$FAIL" ]] ;;
esac
"""
TOOLS = ("bash", "basename", "cp", "dirname", "ls", "mkdir", "rm", "touch")


@pytest.fixture
def install(root, tmp_path):
    """Runs the script with only stand-ins on PATH; returns (process, calls of Python)."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name))

    def run(venv=tmp_path / "venv", pythons=("python3",), version="3.11", **variables):
        for name in pythons:
            (tools / name).write_text(PYTHON)
            (tools / name).chmod(0o755)
        environment = {"PATH": str(tools), "LOG": str(log), "VERSION": version}
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [tools / "bash", root / "constraints/install.sh", venv, "samples,dev"],
            env=environment | variables,
            capture_output=True,
            text=True,
        )
        return done, log.read_text().splitlines() if log.exists() else []

    return run


def test_everything_is_installed_at_held_versions(install, tmp_path):
    done, calls = install()
    assert done.returncode == 0, done.stderr
    installs = [call for call in calls if "pip install" in call]
    assert len(installs) == 2
    assert all("-c constraints/py311.txt" in call for call in installs)
    assert installs[1].endswith("--no-build-isolation -e .[samples,dev]")
    assert "constraints/py311.txt" in done.stdout
    assert not (tmp_path / "venv/.installing").exists()


def test_a_python_without_held_versions_is_named_in_one_line(install):
    done, calls = install(version="3.13")
    assert done.returncode == 0
    assert not any("-c constraints" in call for call in calls)
    [line] = [line for line in done.stdout.splitlines() if "installing" in line]
    assert "no constraints/py313.txt" in line


def test_a_second_run_keeps_the_environment(install, tmp_path):
    install()
    (tmp_path / "venv/kept").touch()
    done, calls = install()
    assert done.returncode == 0
    assert (tmp_path / "venv/kept").exists()
    assert not any("-m venv" in call for call in calls)


def test_an_installation_that_was_cut_off_starts_anew(install, tmp_path):
    install()
    (tmp_path / "venv/kept").touch()
    (tmp_path / "venv/.installing").write_text(f"{dead_process()}\n")
    done, calls = install()
    assert done.returncode == 0
    assert "cut off" in done.stdout
    assert not (tmp_path / "venv/kept").exists()
    assert any("-m venv" in call for call in calls)


def test_two_installations_do_not_meet(install, tmp_path):
    install()
    (tmp_path / "venv/.installing").write_text(f"{os.getpid()}\n")
    done, calls = install()
    assert (done.returncode, calls) == (2, [])
    assert f"process {os.getpid()}" in done.stderr


def test_a_failed_installation_is_not_taken_for_whole(install, tmp_path):
    done, _ = install(FAIL="1")
    assert done.returncode == 2
    assert (tmp_path / "venv/.installing").exists()
    done, calls = install()
    assert done.returncode == 0
    assert any("-m venv" in call for call in calls)


def test_a_folder_of_the_users_is_left_alone(install, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter_1").write_text("words")
    done, _ = install(venv=folder)
    assert done.returncode == 2
    assert "not a virtual environment" in done.stderr
    assert (folder / "chapter_1").read_text() == "words"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "3.9"}, "no Python 3.11 or newer here"),
        ({"pythons": ()}, "no Python 3.11 or newer here"),
        ({"PYTHON": "/none/python"}, "PYTHON=/none/python is not Python 3.11 or newer"),
        ({"MISSING": "1"}, "apt-get install python3.11-venv"),
    ],
)
def test_an_unfit_python_is_one_clear_line(install, tmp_path, arguments, message):
    done, _ = install(**arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(install, tmp_path):
    done, calls = install(pythons=("python3.12",), version="3.12")
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("python3.12 -m venv") for call in calls)
    assert any("-c constraints/py312.txt" in call for call in calls)


def test_another_python_than_that_of_the_environment_is_refused(install, tmp_path):
    install()
    other = tmp_path / "other"
    other.write_text(PYTHON.replace("$VERSION", "3.12").replace("${VERSION#3.}", "12"))
    other.chmod(0o755)
    done, _ = install(PYTHON=str(other))
    assert done.returncode == 2
    assert "has Python 3.11, not that of" in done.stderr


def dead_process() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def make(root, *arguments: str) -> str:
    """What make would do; the tests themselves may run under another make."""
    passed_on = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "EXTRAS", "VENV", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if k not in passed_on}
    return subprocess.run(
        ["make", "-n", "test", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_makefile_installs_when_versions_change(root, tmp_path):
    venv = tmp_path / "venv"

    def plan(*arguments: str) -> str:
        return make(root, f"VENV={venv}", *arguments)

    assert "install.sh" in plan()
    venv.mkdir()
    (venv / ".installed-samples-export-dev").touch()
    assert "install.sh" not in plan()
    assert "install.sh" in plan("EXTRAS=samples,export,dev,torch")
    old = pathlib.Path(root / "setup.py").stat().st_mtime - 100
    os.utime(venv / ".installed-samples-export-dev", (old, old))
    assert "install.sh" in plan()


def test_pytest_prints_last(root):
    assert "-m pytest" in make(root).splitlines()[-1]
