"""What setup.py declares is what the code imports, and the constraint files fit it."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# import name -> distribution, where they differ
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "google": "protobuf",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skvideo": "scikit-video",
    "jaxlib": "jax",
}
OURS = {"zoo_jax", "experiments"}
# Run by hand, once, in an environment of their own.
ELSEWHERE = {"make_vatt_checkpoint.py"}  # TensorFlow


@pytest.fixture(scope="module")
def declared(root) -> dict[str, list[Requirement]]:
    """Extra ("" for none) -> requirements, by running setup.py without installing."""
    code = """
import json, pathlib, setuptools, sys
setuptools.setup = lambda **k: print(json.dumps(
    {"": k["install_requires"], **k["extras_require"], "version": [k["version"]],
     "packages": k["packages"]}))
sys.argv = ["setup.py"]
path = pathlib.Path("setup.py").resolve()
exec(compile(path.read_text(), str(path), "exec"), {"__name__": "setup", "__file__": str(path)})
"""
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


def imported(folder: pathlib.Path) -> dict[str, set[str]]:
    """Top-level package -> files that import it."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        if path.name in ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.partition(".")[0], set()).add(str(path))
    return found


def test_every_import_of_the_package_is_declared(root, declared):
    extras = ("", "samples", "torch", "compare", "tflite", "keras")
    known = names([r for e in extras for r in declared[e]])
    for folder in ("zoo_jax", "experiments"):
        for module, files in imported(root / folder).items():
            if module in OURS or module in sys.stdlib_module_names:
                continue
            name = canonicalize_name(DISTRIBUTIONS.get(module, module))
            assert name in known, f"{module} of {sorted(files)} is not in setup.py"


def test_every_import_of_the_tests_is_declared(root, declared):
    known = set().union(*(names(declared[extra]) for extra in ("", "samples", "torch")))
    known |= names(declared["dev"] + declared["export"])
    local = {path.stem for path in (root / "tests").rglob("*.py")}
    for module, files in imported(root / "tests").items():
        if module in OURS | local or module in sys.stdlib_module_names:
            continue
        name = canonicalize_name(DISTRIBUTIONS.get(module, module))
        assert name in known, f"{module} of {sorted(files)} is not in setup.py"


def test_every_folder_with_code_is_packaged(root, declared):
    folders = {path.parent for path in (root / "zoo_jax").rglob("*.py")}
    wanted = {".".join(f.relative_to(root).parts) for f in folders}
    assert wanted == set(declared["packages"])


@pytest.mark.parametrize("version", ["311", "312"])
class TestConstraints:
    def read(self, root, version) -> dict[str, Version]:
        lines = (root / f"constraints/py{version}.txt").read_text().splitlines()
        pins = [line.split("==") for line in lines if not line.startswith("#")]
        return {canonicalize_name(name): Version(value) for name, value in pins}

    def test_hold_a_release_that_setup_allows(self, root, declared, version):
        pins = self.read(root, version)
        extras = ["", "samples", "export", "dev"] + ["torch"] * (version == "311")
        for extra in extras:
            for text in declared[extra]:
                requirement = Requirement(text)
                pin = pins[canonicalize_name(requirement.name)]
                assert pin in requirement.specifier, text

    def test_name_releases_only(self, root, version):
        for line in (root / f"constraints/py{version}.txt").read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line

    def test_hold_the_build_tools(self, root, version):
        assert {"pip", "setuptools", "wheel"} <= self.read(root, version).keys()


def test_one_version_everywhere(root, declared):
    [version] = declared["version"]
    assert re.search(
        rf"^version: {re.escape(version)}$", read(root / "CITATION.cff"), re.M
    )
    assert re.search(rf"^## {re.escape(version)}\b", read(root / "CHANGELOG.md"), re.M)


def test_citation_has_what_the_format_requires(root):
    keys = re.findall(r"^([\w-]+):", read(root / "CITATION.cff"), re.MULTILINE)
    assert {"cff-version", "message", "title", "authors", "license"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_licence_is_the_whole_text(root):
    text = read(root / "LICENSE")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) > 195


def read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")
