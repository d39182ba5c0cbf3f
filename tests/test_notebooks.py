"""Every notebook runs from its first cell to its last."""

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    # The kernel is a process of its own; it finds the package where this process found it.
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))
    notebook = jupytext.read(path)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert any(cell.cell_type == "code" for cell in notebook.cells)


def test_the_published_notebooks_are_there():
    published = {"geometry_conventions", "inside_slicefixer", "own_scanner", "quickstart_cpu"}
    published |= {"read_a_run"}
    assert published <= {path.stem for path in NOTEBOOKS}
