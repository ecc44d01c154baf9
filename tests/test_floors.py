"""The import contracts hold, and each of them notices a violation."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

# contract id in pyproject.toml -> (file, the import that it must not have)
VIOLATIONS = {
    "floors": ("zoo_jax/core/tree.py", "import zoo_jax.train.loop"),
    "package": ("zoo_jax/models.py", "import experiments.common"),
    "islands": (
        "zoo_jax/methods/other/__init__.py",
        "import zoo_jax.methods.deep_k_means",
    ),
    "flax": ("zoo_jax/train/loop.py", "import flax.linen"),
    "orbax": ("zoo_jax/train/step.py", "import orbax.checkpoint"),
    "datasets": ("zoo_jax/methods/other/task.py", "import grain"),
    "torch": ("zoo_jax/methods/deep_k_means/__init__.py", "import torch"),
}


def lint(folder: pathlib.Path) -> subprocess.CompletedProcess:
    command = [pathlib.Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory, root) -> tuple[pathlib.Path, str]:
    """A copy of the project with one violation per contract, and what the linter says."""
    copy = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("zoo_jax", "experiments"):
        shutil.copytree(root / name, copy / name, ignore=ignore)
    shutil.copy(root / "pyproject.toml", copy)
    assert lint(copy).returncode == 0, lint(copy).stdout
    (copy / "zoo_jax/methods/other").mkdir()
    for file, statement in VIOLATIONS.values():
        path = copy / file
        path.touch()
        path.write_text(path.read_text() + f"\n{statement}\n")
    found = lint(copy)
    assert found.returncode == 1
    return copy, " ".join(found.stdout.split())


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_violation_is_caught(broken, contract):
    file, statement = VIOLATIONS[contract]
    importer = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    imported = statement.removeprefix("import ")
    if not imported.startswith("zoo_jax"):
        imported = imported.split(".")[0]
    assert f"{importer} -> {imported}" in broken[1]


def test_every_contract_has_a_violation_here(root):
    import tomllib

    text = (root / "pyproject.toml").read_text()
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == VIOLATIONS.keys()


def test_flags_are_defined_only_in_binaries(root):
    # Import-linter sees absl as a whole, and absl.logging is free to all.
    defined = re.compile(r"\b(DEFINE_\w+\(|app\.run\(|argparse_flags)")
    for path in (root / "zoo_jax").rglob("*.py"):
        if path != root / "zoo_jax/cli.py":
            assert not defined.search(path.read_text(encoding="utf-8")), path


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in memory after a statement in a fresh process."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{statement}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_library():
    heavy = {"jax", "flax", "optax", "grain", "tensorflow_datasets", "orbax", "torch"}
    assert not heavy & loaded_after("import zoo_jax; zoo_jax.list_methods()")


def test_importing_every_module_loads_neither_torch_nor_plots():
    every = """
import importlib, pkgutil, zoo_jax
for module in pkgutil.walk_packages(zoo_jax.__path__, "zoo_jax."):
    importlib.import_module(module.name)
"""
    loaded = loaded_after(every)
    assert "jax" in loaded
    assert not {"torch", "tensorflow", "matplotlib"} & loaded
