"""Every notebook runs offline in its small form, and is kept without outputs."""

import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# Each trains for a minute or more; the others run every time.
LONG = ("deblurgan_v2.ipynb", "deep_k_means.ipynb", "gradient_harmonization.ipynb")


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request):
    return read(request.param)


def test_there_is_a_notebook():
    assert NOTEBOOKS


def test_notebook_is_short_clean_and_defines_no_network_itself(notebook):
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 25
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert "nn.Module" not in cell.source


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, marks=pytest.mark.slow if p.name in LONG else (), id=p.name)
        for p in NOTEBOOKS
    ],
)
def test_notebook_runs_in_its_small_form(path, monkeypatch):
    monkeypatch.setenv("ZOO_TINY", "1")
    # Outside the tests' own strictness: a notebook runs as a user runs it.
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    client = nbclient.NotebookClient(
        read(path), timeout=240, resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
