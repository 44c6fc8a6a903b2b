"""Configs: loaded, overridden, checked against dataclasses."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any, Literal

import ml_collections
import numpy as np
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


def test_a_section_is_changed_key_by_key_and_never_replaced():
    base = ml_collections.ConfigDict({"inner": {"rate": 0.1, "size": (1, 2)}, "list": [{"weight": 1.0, "name": "a"}]})
    for assignment, message in [
            ("inner={'rate': 0.5}", r"drop what the file says in it \(rate, size\); set its keys one by one, as in inner.rate="),
            ("inner=3", "drop what the file says"), ("inner={}", "drop what the file says"),
            ("list.0={'weight': 2.0}", r"override list.0: .*\(weight, name\).*list.0.weight=")]:
        with pytest.raises(UserError, match=message):
            C.override(base, [assignment])
    assert C.override(base, ["inner={'rate': 0.5, 'size': (3, 4)}"]).inner.rate == 0.5, "nothing is dropped"
    assert C.override(base, ["other={'rate': 0.5}"]).other.rate == 0.5, "the file says nothing there"
    assert C.override(base, ["inner=None"]).inner is None and C.override(base, ["inner=none"]).inner == "none"


@pytest.mark.parametrize("text", [
    "a={[]: 1}", "a={1: 2}", "a={'b.c': 1}", "a={'': 1}", "a={1, 2}", "a=b'x'", "a=1j", "a=...", "a=[{'b': {3}}]", "a..b=1",
    ".a=1", "=1", "__class__=1", "a={'__dict__': 1}", "list.²=1", f"list.{'9' * 5000}=1", f"list.{'9' * 5000}.b=1",
    f"a={'9' * 5000}", f"a={'[' * 5000}", f"a={'-' * 100_000}1", "a=\0", "a=\ud83d"])
def test_whatever_is_typed_is_a_value_or_a_line(text):
    """Into a text, which the key then refuses; or refused here."""
    base = ml_collections.ConfigDict({"list": [1]})
    try:
        found = C.override(base, [text])
    except UserError as error:
        assert str(error).startswith("override ") and str(error).isprintable()
    else:
        assert isinstance(found.a, str)


def test_numbers_are_finite_whole_numbers_have_63_bits_and_numpy_s_are_python_s():
    import jax.numpy as jnp

    values = {"name": "a", "limit": np.float32(0.5), "steps": np.int64(3), "inner": {"size": [np.int8(1), jnp.int32(2)]}}
    built = C.build(Outer, values)
    assert (type(built.limit), type(built.steps), built.inner.size) == (float, int, (1, 2))
    for wrong, message in [
            ({"limit": float("inf")}, "limit: inf is not finite"), ({"limit": float("nan")}, "not finite"),
            ({"limit": 10**400}, "limit: a number of 1329 bits"), ({"steps": 2**63}, "64 bits"),
            ({"steps": np.float64(3)}, "expected int, got 3.0"), ({"steps": np.bool_(True)}, "expected int, got True")]:
        with pytest.raises(UserError, match=message):
            C.build(Outer, {"name": "a", **wrong})


def test_text_that_looks_like_a_number_says_how_to_write_it():
    config = C.override(ml_collections.ConfigDict(), ["name=2024"])
    with pytest.raises(UserError, match=r"config.name: expected str, got 2024; on a command line, .*\"'2024'\""):
        C.build(Outer, config.to_dict())
    assert C.build(Outer, C.override(ml_collections.ConfigDict(), ["name='2024'"]).to_dict()).name == "2024"


@pytest.mark.parametrize("text, message", [
    ("def get_config(:\n    pass", "bad.py line 1: SyntaxError"),
    ("import no_such_package", "line 1: ModuleNotFoundError: No module"),
    ("def get_config(arg=None):\n    return 1 / 0", r"line 2: ZeroDivisionError: division by zero"),
    ("x = {}\ndef get_config(arg=None):\n    return [x][1]", "line 3: IndexError"),
    ("raise SystemExit(3)", "line 1: SystemExit: 3"), ("get_config = 3", "get_config is 3, not a function"),
    ("def get_config(arg=None):\n    raise KeyError('a\\nb')", "line 2: KeyError"),
    ("from mof_jax.errors import UserError\ndef get_config(arg=None):\n    raise UserError('say this')", "^say this$"),
    ("x = '\0'", "SyntaxError|ValueError")])
def test_a_mistake_in_a_config_file_is_its_own(tmp_path, text, message):
    bad = tmp_path / "bad.py"
    bad.write_text(text)
    with pytest.raises(UserError, match=message):
        C.load(str(bad))


@pytest.mark.parametrize("values", [
    {"model": 1}, {"data": "x"}, {"objective": [1]}, {"task": 5}, {"task": ["mllm"]}, {"evals": [1]}, {"evals": 3},
    {"optimizer": None}, {"tokenizer": 1}, {"evals": [{"kind": {}}]}])
def test_a_section_that_is_none_is_named(values):
    from mof_jax import run

    whole = {"model": {"embed_dim": 8, "image": dict(width=8, depth=1, heads=1, patch_size=8, image_size=8),
                       "text": dict(width=8, depth=1, heads=1)}, "steps": 1}
    run.resolve(whole)
    with pytest.raises(UserError, match=f"config.{next(iter(values))}"):
        run.resolve({**whole, **values})


@pytest.mark.parametrize("stages", [3, [], [1], [{}], [{"name": 3}], {"a": {}}, [{"name": "a", "steps": 1, "model": 2}]])
def test_stages_that_are_none_are_named(stages):
    from mof_jax import run

    with pytest.raises(UserError, match="config.stages|stage a: config.model"):
        run.resolve_stages({"stages": stages})


def test_flatten_keeps_empty_sections():
    assert C.flatten({"a": {}, "b": [{"c": None}], "d": ()}) == {"a": {}, "b.0.c": None, "d": ()}


def test_two_evaluators_of_one_name_are_refused():
    from mof_jax import run

    whole = {"model": {"embed_dim": 8, "image": dict(width=8, depth=1, heads=1, patch_size=8, image_size=8),
                       "text": dict(width=8, depth=1, heads=1)}, "steps": 1}
    twice = [dict(kind="retrieval", source=dict(kind="emoji5")), dict(kind="retrieval", source=dict(kind="synthetic"))]
    with pytest.raises(UserError, match="config.evals.1.name: another evaluator is called 'retrieval'"):
        run.resolve({**whole, "evals": twice})
    run.resolve({**whole, "evals": [twice[0], {**twice[1], "name": "other"}]})
    with pytest.raises(UserError, match="config.precision: 'highst' is not one of"):
        run.resolve({**whole, "precision": "highst"})
