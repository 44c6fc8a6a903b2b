"""Notebooks: committed with their outputs, in step with their percent files, and run from top to bottom in a clean copy."""

from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NAMES = ("blind_pairs", "compare_runs", "explore_run", "plan_a_pod", "retrieval_browser", "scaling_laws")
MOST_BYTES = 3_000_000


def cells(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def percent(text: str) -> list[tuple[str, str]]:
    """(kind, source) of the cells of a percent file, read without jupytext."""
    _, *parts = re.split(r"^# %%(.*)\n", text, flags=re.M)
    found = []
    for mark, body in zip(parts[::2], parts[1::2]):
        source = body.strip("\n")
        if mark.strip() == "[markdown]":
            source = "\n".join(re.sub(r"^# ?", "", line) for line in source.split("\n"))
        found.append(("markdown" if mark.strip() else "code", source))
    return found


def test_all_notebooks_are_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in FOLDER.glob("*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_is_in_step(name):
    inside = [(cell["cell_type"], "".join(cell["source"])) for cell in cells(name)]
    assert inside == percent((FOLDER / f"{name}.py").read_text()), "run `make notebooks`"
    metadata = json.loads((FOLDER / f"{name}.ipynb").read_text())["metadata"]
    assert metadata["jupytext"] == {"formats": "ipynb,py:percent"}


@pytest.mark.parametrize("name", NAMES)
def test_committed_executed_with_a_picture(name):
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    for picture in pictures:
        assert min(Image.open(io.BytesIO(base64.b64decode(picture))).size) > 50


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_is_committed(name):
    for number, cell in enumerate(cells(name)):
        assert cell["id"] == f"c{number:02}" and not cell["metadata"]
        for output in cell.get("outputs", ()):
            data = {kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"}
            said = json.dumps([output.get("text", ""), data])
            assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work|mnt|opt|usr|var)/", said), said[:500]


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < MOST_BYTES


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory) -> pathlib.Path:
    """What the notebooks read of a clone, without any run."""
    copy = tmp_path_factory.mktemp("clone")
    for name in ("notebooks", "configs", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.mark.slow  # `make test-notebooks` runs them all
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs_and_shows_a_picture(name, clean_copy):
    pytest.importorskip("matplotlib")
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}  # the suite's eight slow devices
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "notebook_cells.py"), f"{name}.ipynb"], env=environment,
                          cwd=clean_copy / "notebooks", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 1
