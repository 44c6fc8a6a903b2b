"""Executes the notebooks from top to bottom and writes them with their outputs: `make notebooks`.

    python scripts/run_notebooks.py [notebooks/explore_run.py …]

`notebooks/NAME.py`, in jupytext's percent format, is what is read, `notebooks/NAME.ipynb` what is made of it. In Jupyter,
jupytext keeps the two in step. What changes without reason is left out: times, versions, random ids. Pictures are reduced to 256
colours.
"""

from __future__ import annotations

import base64
import io
import pathlib
import sys
import time

import jupytext
import nbclient
import nbformat
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
_SECONDS = 900  # of one cell


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """The executed notebook of a percent file.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised.
      SystemExit: an output names a folder of this machine.
    """
    book = jupytext.read(path)
    book.metadata = {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": book.metadata["kernelspec"],
                     "language_info": {"name": "python"}}
    book.nbformat, book.nbformat_minor = 4, 5
    client = nbclient.NotebookClient(book, timeout=_SECONDS, record_timing=False, coalesce_streams=True,
                                     resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    for number, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"c{number:02}", {}
        for output in cell.get("outputs", ()):
            _tidy(output, path)
    book.metadata["language_info"] = {"name": "python"}  # the kernel adds its version
    return book


def _tidy(output: nbformat.NotebookNode, path: pathlib.Path) -> None:
    output.get("metadata", {}).clear()
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = _small(data["image/png"])
    if "text" in output:
        output["text"] = output["text"].replace(f"{ROOT}/", "")  # a library that says whole paths
    said = "".join([output.get("text", ""), *(str(value) for kind, value in data.items() if kind != "image/png")])
    for private in (str(ROOT), str(pathlib.Path.home())):
        if f"{private}/" in said:
            raise SystemExit(f"{path}: an output names {private}, and outputs are committed: {said[:300]}")


def _small(png: str) -> str:
    """The picture with a palette of its own."""
    picture, out = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    # Maximum coverage: by area alone, a colour that only the legend has would become its neighbour.
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode() + "\n"


def main(paths: list[str]) -> None:
    """All notebooks, or those named."""
    for path in map(pathlib.Path, paths or sorted(FOLDER.glob("*.py"))):
        begun = time.perf_counter()
        book = execute(path)
        nbformat.write(book, path.with_suffix(".ipynb"))
        size = path.with_suffix(".ipynb").stat().st_size
        print(f"{path.stem}: {time.perf_counter() - begun:.0f} s, {size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
