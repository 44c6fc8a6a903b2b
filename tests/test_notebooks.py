"""Notebooks run from top to bottom in a folder that holds nothing but `notebooks/`."""

import json
import pathlib
import shutil

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_every_cell_runs(name, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    shutil.copytree(FOLDER, tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path / "notebooks")
    shown = []
    names = {"display": shown.append, "__name__": "__main__"}
    cells = [cell for cell in json.loads((FOLDER / name).read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] or "import" in "".join(cell["source"]) for cell in cells), "commit it executed"
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{name}, code cell {number}", "exec"), names)
