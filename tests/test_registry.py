"""A config names a kind: found by importing a room once, refused by name where there is none."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import sys
from typing import ClassVar

import pytest

from mof_jax import cli
from mof_jax import config as configs
from mof_jax.commands.kinds import ROOMS
from mof_jax.errors import UserError
from mof_jax.evals import EVALUATORS
from mof_jax.registry import Registry

_SHAPE = """
import dataclasses
from typing import ClassVar
from {room}.base import Shape

@dataclasses.dataclass(frozen=True)
class {name}(Shape):
    '''{what}

    More of it.
    '''
    kind: ClassVar[str] = "{kind}"
    sides: int = {sides}
"""


@pytest.fixture
def room(tmp_path, monkeypatch, request):
    """A package with a base class and files to add; its name is the test's own, for modules are imported once."""
    name = f"room_{abs(hash(request.node.nodeid))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text("import abc\nclass Shape(abc.ABC):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(kind: str, sides: int = 3, file: str = "") -> None:
        path = folder / f"{file or kind}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(_SHAPE.format(room=name, name=kind.title(), what=f"A {kind}.", kind=kind, sides=sides))

    add.folder, add.name = folder, name
    add.registry = lambda: Registry(name, importlib.import_module(f"{name}.base").Shape, "shape")
    yield add
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_kinds_are_found_in_files_and_folders_in_order(room):
    room("triangle")
    (room.folder / "round").mkdir()
    (room.folder / "round" / "__init__.py").write_text("")
    room("circle", 0, "round/circle")
    shapes = room.registry()
    assert list(shapes) == ["circle", "triangle"] and "square" not in shapes and len(shapes) == 2
    assert shapes.build({"kind": "triangle", "sides": 4}, "config.x").sides == 4
    assert shapes.rows()[0] == ("circle", "A circle", f"{room.name}.round.circle")


@pytest.mark.parametrize("section, line", [
    (7, "config.x: expected a section with a kind, got 7"),
    ({}, r"config.x.kind: missing \(one of circle, triangle\)"),
    ({"kind": "triangel"}, "config.x.kind: unknown shape kind 'triangel' .did you mean 'triangle'"),
    ({"kind": 3}, "config.x.kind: unknown shape kind 3"),
    ({"kind": ["triangle"]}, "config.x.kind: unknown shape kind"),
    ({"kind": "triangle", "side": 3}, "config.x.side: unknown key .did you mean 'sides'"),
    ({"kind": "triangle", "sides": "three"}, "config.x.sides: "),
])
def test_mistakes_are_one_line(room, section, line):
    room("triangle")
    room("circle")
    with pytest.raises(UserError, match=line):
        room.registry().build(section, "config.x")


def test_two_classes_of_one_kind_are_refused_with_both_files(room):
    room("triangle")
    room("triangle", file="other")
    with pytest.raises(UserError, match=r"two classes of shape kind 'triangle': .*other.py and .*triangle.py"):
        room.registry()["triangle"]


def test_a_file_whose_extra_is_missing_breaks_only_itself(room):
    room("triangle")
    (room.folder / "solid.py").write_text("import no_such_library\n")
    shapes = room.registry()
    assert shapes.broken() == [f"{room.name}.solid cannot be imported: No module named 'no_such_library'"]
    assert list(shapes) == ["triangle"]
    with pytest.raises(UserError, match=r"shape kind 'cube'.*solid cannot be imported: No module named 'no_such_library'"):
        shapes.build({"kind": "cube"}, "config.x")


def test_a_file_with_a_mistake_is_not_passed_over(room):
    (room.folder / "wrong.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        list(room.registry())


def test_classes_of_elsewhere_are_not_of_the_room(room):
    room("triangle")
    shapes = room.registry()
    base = shapes.base

    @dataclasses.dataclass(frozen=True)
    class Square(base, abc.ABC):
        kind: ClassVar[str] = "square"

    assert list(shapes) == ["triangle"] and issubclass(Square, base)


def test_evaluators_are_found():
    assert {"retrieval", "zeroshot", "mmvp", "pope", "text_loss"} <= set(EVALUATORS)


@pytest.mark.parametrize("name", ROOMS)
def test_every_kind_of_a_room_is_listed_with_a_sentence(name, capsys):
    module, attribute = ROOMS[name]
    registry = getattr(importlib.import_module(module), attribute)
    assert len(registry) >= 2 and not registry.broken()
    assert all(cls.kind == kind and dataclasses.is_dataclass(cls) for kind, cls in registry.items())
    assert cli.main(["list", name]) == 0
    out = capsys.readouterr().out
    assert all(f" {kind} " in out for kind in registry)
    assert all(len(what) > 10 for _, what, _ in registry.rows())


def test_a_field_typed_with_the_base_takes_a_section_of_any_kind(room):
    room("triangle")
    room("square", 4)
    base = importlib.import_module(f"{room.name}.base").Shape
    Registry(room.name, base, "shape", default="square")
    drawing = dataclasses.make_dataclass("Drawing", [("shapes", tuple[base, ...]), ("frame", base | None, None)], frozen=True)
    made = configs.build(drawing, {"shapes": [{"kind": "triangle", "sides": 5}, {}], "frame": {"sides": 9}}, "drawing")
    assert [(type(shape).__name__, shape.sides) for shape in (*made.shapes, made.frame)] == [
        ("Triangle", 5), ("Square", 4), ("Square", 9)]
    assert configs.build(drawing, configs.to_dict(made), "drawing") == made, "kinds are written out"
    with pytest.raises(UserError, match=r"^drawing.shapes.0.side: unknown key.*'sides'"):
        configs.build(drawing, {"shapes": [{"kind": "triangle", "side": 5}]}, "drawing")
    with pytest.raises(UserError, match=r"^drawing.frame.kind: unknown shape kind 'circle'"):
        configs.build(drawing, {"shapes": [], "frame": {"kind": "circle"}}, "drawing")


def test_a_room_may_have_kinds_in_a_further_package(room):
    room("triangle")
    other = room.folder.parent / f"{room.name}_more"
    other.mkdir()
    (other / "__init__.py").write_text("")
    shape = (room.folder / "triangle.py").read_text()
    (other / "star.py").write_text(shape.replace("triangle", "star").replace("Triangle", "Star"))
    base = importlib.import_module(f"{room.name}.base").Shape
    assert list(Registry(room.name, base, "shape", also=[other.name])) == ["star", "triangle"]
