"""The house drawn from its imports: they go down, whether at the top of a file, inside a function, or for types alone."""

from __future__ import annotations

import ast
import collections
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GROUND = {"braces", "config", "console", "errors", "folder_lock", "hardware", "jsonl", "moved", "parsing", "plugins", "ranges",
          "registry", "renames", "rules", "storage", "style", "supervise"}
# From the ground up. A room is a package or a module of `mof_jax`; those of one floor do not know each other.
FLOORS = [GROUND, {"data", "nn"}, {"mesh", "scaling"}, {"models", "objectives"}, {"task"}, {"tasks", "decode", "interop"},
          {"evals", "train"}, {"run", "mining"}, {"restore", "plan"}, {"evaluate"}, {"trainer"},
          {"convert", "explore", "studies", "sweep"}, {"bench", "claims"}, {"commands"}, {"cli"}]


def modules() -> dict[str, pathlib.Path]:
    """Every file of ours by its dotted name."""
    found = {}
    for top in ("mof_jax", "launch"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path, known: set[str]) -> set[str]:
    """Those of `known` that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import by dots"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found & known


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    files = modules()
    return {name: imports(path, set(files)) - {name} for name, path in files.items()}


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("mof_jax.") else module.split(".")[0]


def test_every_room_has_its_floor(graph):
    """The package itself stands on its old names alone, and `launch` on everything."""
    assert {room(name) for name in graph} - {"mof_jax", "launch"} == set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS)) and graph["mof_jax"] == {"mof_jax.moved"}


def test_imports_go_down(graph):
    height = {name: i for i, floor in enumerate(FLOORS) for name in floor} | {"launch": len(FLOORS)}
    upward = [f"{module} → {target}" for module, targets in graph.items() for target in targets
              if module != "mof_jax" and room(module) != room(target)
              and not (room(module) in GROUND and room(target) in GROUND) and height[room(target)] >= height[room(module)]]
    assert not upward


def test_the_planner_and_the_sweeps_know_no_task_by_name():
    """They ask it: which stacks run on how many tokens (`Task.stacks`)."""
    named = re.compile(r"task [=!]=|TASKS\[")
    files = [path for room in ("plan", "sweep") for path in (ROOT / "mof_jax" / room).rglob("*.py")]
    assert len(files) > 20
    assert not [path.name for path in files if named.search(path.read_text())]


def test_there_is_no_circle(graph):
    left = dict(graph)
    while ready := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in ready:
            del left[module]
    assert not left, "these import each other"


def test_no_two_test_files_share_a_name():
    """Folders of tests are no packages: pytest imports the second of two such files as the first, and stops."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    assert not [name for name, n in collections.Counter(path.name for path in files).items() if n > 1]
