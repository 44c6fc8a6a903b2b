"""Configs: loaded, overridden, checked against dataclasses."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any, Literal

import ml_collections
import pytest

from mof_jax import config as C
from mof_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    size: tuple[int, int] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 10
    kind: Literal["cosine", "rsqrt"] = "cosine"
    limit: float | None = None
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    fast: bool = False
    words: Sequence[str] = ()
    anything: Any = None
    keep: Literal["none", "all"] | None = "all"

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError("steps is negative")


def test_values_become_typed():
    built = C.build(Outer, {"name": "a", "limit": 3, "inner": {"rate": 1, "size": [3, 4]}, "parts": [{"rate": 2.0}],
                            "table": {"x": 1}, "words": ["p", "q"], "anything": object})
    assert built.limit == 3.0 and isinstance(built.limit, float)
    assert built.inner == Inner(1.0, (3, 4)) and built.parts == (Inner(2.0),) and built.words == ("p", "q")
    assert C.build(Outer, {"name": "a", "limit": None}).limit is None


def test_none_is_what_the_key_takes_it_for():
    """In a command `none` is a choice where there is one of that name, and the absence of a value elsewhere."""
    built = C.build(Outer, C.override(ml_collections.ConfigDict({"name": "a"}), ["limit=none", "keep=none"]).to_dict())
    assert built.limit is None and built.keep == "none"
    assert C.build(Outer, {"name": "a", "keep": None}).keep is None
    with pytest.raises(UserError, match="config.steps: expected int, got 'none'"):
        C.build(Outer, {"name": "a", "steps": "none"})


@pytest.mark.parametrize("values, message", [
    ({"name": "a", "stps": 3}, r"config\.stps: unknown key \(did you mean 'steps'\?\)"),
    ({"name": "a", "inner": {"rte": 3}}, r"config\.inner\.rte: unknown key \(did you mean 'rate'\?\)"),
    ({"name": "a", "parts": [{}, {"sise": 1}]}, r"config\.parts\.1\.sise: unknown key \(did you mean 'size'\?\)"),
    ({}, r"config\.name: missing"),
    ({"name": 3}, r"config\.name: expected str, got 3"),
    ({"name": "a", "steps": 1.5}, r"config\.steps: expected int, got 1.5"),
    ({"name": "a", "steps": True}, r"config\.steps: expected int, got True"),
    ({"name": "a", "fast": 1}, r"config\.fast: expected bool, got 1"),
    ({"name": "a", "limit": "x"}, r"config\.limit: expected float, got 'x'"),
    ({"name": "a", "kind": "cosin"}, r"config\.kind: 'cosin' is not one of 'cosine', 'rsqrt'"),
    ({"name": "a", "inner": 3}, r"config\.inner: expected a section \(Inner\), got 3"),
    ({"name": "a", "inner": {"size": [1]}}, r"config\.inner\.size: expected 2 values, got 1"),
    ({"name": "a", "inner": {"size": [1, "b"]}}, r"config\.inner\.size\.1: expected int, got 'b'"),
    ({"name": "a", "words": "pq"}, r"config\.words: expected a list, got 'pq'"),
    ({"name": "a", "table": {"x": "y"}}, r"config\.table\.x: expected int"),
    ({"name": "a", "steps": -1}, r"config: steps is negative"),
])
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        C.build(Outer, values)


def test_overrides():
    base = ml_collections.ConfigDict({"steps": 1, "inner": {"rate": 0.1}, "list": [{"weight": 1.0}, {"weight": 2.0}]})
    got = C.override(base, ["steps=7", "inner.rate=1e-3", "new.key=(1, 2)", "list.1.weight=5", "name=a=b", "fast=true",
                            "none=None", "remat=none"])
    assert got.steps == 7 and got.inner.rate == 1e-3 and got.new.key == (1, 2) and got.list[1]["weight"] == 5
    assert got.name == "a=b" and got.fast is True and got.none is None and got.remat == "none"
    assert base.steps == 1 and base.list[1]["weight"] == 2.0, "the base is not touched"


@pytest.mark.parametrize("assignment, message", [
    ("steps", "write --config.key=value"),
    ("steps.x=1", "steps is a int, not a section"),
    ("steps.x.y=1", "override steps.x.y: steps.x does not exist"),
    ("list.2.weight=1", "list.2 does not exist"),
    ("list.2=1", "no entry '2' in a list of 1"),
    ("pair.0=1", "pair is a tuple"),
])
def test_overrides_that_cannot_be_are_refused(assignment, message):
    base = ml_collections.ConfigDict({"steps": 1, "list": [{"weight": 1.0}], "pair": (1, 2)})
    with pytest.raises(UserError, match=message):
        C.override(base, [assignment])


def test_load(tmp_path):
    good = tmp_path / "good.py"
    good.write_text("import ml_collections\ndef get_config(arg=None):\n    return ml_collections.ConfigDict({'arg': arg})\n")
    assert C.load(str(good)).arg is None and C.load(f"{good}:tiny").arg == "tiny"
    for text, message in [("x = 1", "defines get_config"), ("def get_config(arg=None): return {}", "returned dict")]:
        bad = tmp_path / "bad.py"
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            C.load(str(bad))
    with pytest.raises(UserError, match="no such config file"):
        C.load(str(tmp_path / "absent.py"))
    bad.write_text("import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n")
    assert not C.load(str(bad))
    with pytest.raises(UserError, match="bad.py: takes no argument, but is given 'batch=1'"):
        C.load(f"{bad}:batch=1")


def test_resolved_config_is_json_and_its_digest_follows_the_values():
    built = C.build(Outer, {"name": "a", "parts": [{}]})
    assert C.build(Outer, json.loads(json.dumps(C.to_dict(built)))) == built
    same, other = C.build(Outer, {"parts": [{}], "name": "a"}), C.build(Outer, {"name": "b", "parts": [{}]})
    assert C.digest(built) == C.digest(same) != C.digest(other)


def test_the_argument_of_a_config_file():
    read = lambda arg: vars(C.arguments(arg, px=224, scale=1.0, parity=True, data="", width=None))
    assert read(None) == read("") == dict(px=224, scale=1.0, parity=True, data="", width=None)
    assert read("data=gs://b/x:1, px=336,scale=2,parity=False,width=3") == dict(
        px=336, scale=2.0, parity=False, data="gs://b/x:1", width=3)
    assert read("width=none")["width"] is None
    assert read("data=1e3")["data"] == "1e3", "what defaults to a text stays one"
    for arg, says in (("pix=3", "did you mean 'px'"), ("336", "write px=…, scale=…"), ("px=big", "px: expected int, got 'big'")):
        with pytest.raises(UserError, match=says):
            read(arg)
