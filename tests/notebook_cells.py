"""Runs the code cells of a notebook as Jupyter would, without it: `python notebook_cells.py NAME.ipynb` in its folder.

What a cell ends in, and what it hands to `display`, is drawn. Prints the number of pictures.
"""

from __future__ import annotations

import ast
import io
import json
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402


def run(name: str) -> int:
    """How many pictures were shown."""
    with open(name, encoding="utf-8") as f:
        cells = [cell for cell in json.load(f)["cells"] if cell["cell_type"] == "code"]
    pictures = 0

    def display(value: Any) -> None:
        nonlocal pictures
        if isinstance(value, Figure):
            value.savefig(io.BytesIO(), format="png")
        if isinstance(value, Table):
            Console(file=io.StringIO()).print(value)
        pictures += isinstance(value, (Figure, Image.Image))

    names = {"display": display, "__name__": "__main__"}
    for number, cell in enumerate(cells):
        where, tree = f"{name}, code cell {number}", ast.parse("".join(cell["source"]))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            display(eval(compile(ast.Expression(last.value), where, "eval"), names))
        for open_figure in plt.get_fignums():
            display(plt.figure(open_figure))
        plt.close("all")
    return pictures


if __name__ == "__main__":
    print(run(sys.argv[1]))
