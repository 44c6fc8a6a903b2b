"""What was written for the old names of modules goes on, and is told the new ones."""

import ast
import importlib
import itertools
import pathlib
import subprocess
import sys

import pytest

from mof_jax.moved import MOVED


@pytest.mark.parametrize("old", sorted(set(MOVED) - {"mof_jax.evals.lmms"}))  # whose library is an extra
def test_old_names_are_the_new_modules(old):
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} is {MOVED[old]} now"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(MOVED[old])
    assert found.__name__ == found.__spec__.name == MOVED[old]


def test_a_script_of_before(tmp_path):
    script = tmp_path / "x.py"
    script.write_text("from mof_jax.data import chat, tar\nfrom mof_jax.evals.letters import parse\nprint(parse.__module__)\n")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.stdout == "mof_jax.evals.answer.parse_choice\n", run.stderr
    assert "mof_jax.evals.letters is mof_jax.evals.answer.parse_choice now" in run.stderr


def test_what_never_was_is_missing():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mof_jax.evals.lettres")


def test_nothing_of_ours_uses_an_old_name():
    root = pathlib.Path(__file__).parents[1]
    tops, used = ("mof_jax", "launch", "configs", "notebooks", "scripts", "tests"), set()
    for path in itertools.chain.from_iterable((root / top).rglob("*.py") for top in tops):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                used |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert "mof_jax.errors" in used and not used & MOVED.keys()
