"""The harness notices what it is there to notice; a case is always the same."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import time

import numpy as np
import pytest

from mof_jax.errors import BadExample, UserError

from . import harness, mutate
from .harness import Limits, Seed, Target

_LIMITS = Limits(seconds=1.0, mib=64)
_KEPT: list = []


def _on_change(action):
    """A reader that takes the unchanged seed, and does `action` with any other bytes."""

    def read(folder: pathlib.Path) -> None:
        data = (folder / "x").read_bytes()
        if data != b"seed":
            action(folder)

    return read


def _raises(error):
    def action(folder):
        raise error

    return action


def _outcomes(action, cases=range(6), limits=_LIMITS):
    target = Target("planted", lambda: [Seed({"x": b"seed"}, {"x": "bytes"})], _on_change(action))
    return list(harness.run(target, target.seeds(), cases, limits=limits))


def _takes(mib):
    return lambda folder: _KEPT.append(np.ones(mib << 17))


class _Prints:
    def __reduce__(self):
        return print, ("unpickled",)


def _unpickles(folder):
    pickle.loads(pickle.dumps(_Prints()))


def _writes_outside(folder):
    with open(folder.parent.parent / "fuzz-planted", "w"):
        pass


class _Panic(BaseException):
    pass


@pytest.mark.parametrize(
    "kind, action",
    [
        ("clean", lambda folder: None),
        ("typed", _raises(UserError("no such file"))),
        ("typed", _raises(BadExample("x", 1, "two\nlines, one after `str`"))),
        ("untyped", _raises(ValueError("no"))),
        ("untyped", _raises(_Panic("no Exception"))),
        ("untyped", _raises(SystemExit(0))),
        ("untyped", _raises(UserError(" "))),
        ("memory", _takes(128)),
        ("memory", _raises(MemoryError())),
        ("crash", lambda folder: os.abort()),
        ("crash", lambda folder: os.kill(os.getpid(), 9)),
        ("crash", lambda folder: os._exit(0)),
        ("outside", _writes_outside),
        ("outside", _unpickles),
        ("outside", lambda folder: os.system("true")),
    ],
)
def test_what_a_case_comes_to(kind, action):
    found = _outcomes(action)
    assert {outcome.kind for outcome in found} == {kind}, found  # of cases that are none of them unchanged
    assert [outcome.case for outcome in found] == list(range(6))


@pytest.mark.parametrize("wait", [lambda: time.sleep(60), lambda: sum(1 for _ in iter(int, 1)), lambda: pow(3, 10**9)])
def test_a_hang_is_ended_wherever_it_is(wait):
    """Asleep, in a loop, and in a call that never comes back to the interpreter."""
    begun = time.monotonic()
    (found,) = _outcomes(lambda folder: wait(), [0], Limits(0.3))
    assert found.kind == "hang" and "test_harness.py" in found.text and time.monotonic() - begun < 5


def test_a_message_of_several_lines_is_a_finding():
    class Loud(UserError):
        def __str__(self):
            return "one\ntwo"

    assert {outcome.kind for outcome in _outcomes(_raises(Loud()))} == {"untyped"}


def test_a_case_that_kills_its_worker_costs_no_other():
    def action(folder):
        if len((folder / "x").read_bytes()) < 4:
            os.abort()
        raise UserError("longer")

    found = _outcomes(action, range(40))
    assert [outcome.case for outcome in found] == list(range(40))
    assert {outcome.kind for outcome in found} - {"clean"} == {"crash", "typed"}


def test_seeds_that_are_not_read_are_no_target():
    target = Target("planted", lambda: [Seed({"x": b"seed"}, {"x": "bytes"})], _raises(UserError("not even these")))
    with pytest.raises(RuntimeError, match="an unchanged seed is typed: not even these"):
        list(harness.run(target, target.seeds(), range(3)))


@pytest.mark.parametrize("layout", ["bytes", *mutate.LAYOUTS])
def test_a_case_is_a_pure_function_and_cases_differ(layout):
    from .targets import samples

    data = {
        "json": samples.dumped({"a": [1, "x", {"b": None}]}),
        "jsonl": samples.lines({"id": 1}, {"id": 2}),
        "npy": samples.npy([[1, 2]]),
        "csv": b"a,b\n1,2\n",
        "toml": b"a = 1\nb = 2",
        "picture": samples.picture(kind="JPEG"),
    }.get(layout, bytes(range(256)) * 8)
    seeds = [Seed({"x": data, "y": b"as it is"}, {"x": layout})]
    made = [harness.make_case("t", seeds, 0, case) for case in range(40)]
    assert made == [harness.make_case("t", seeds, 0, case) for case in range(40)]
    assert made != [harness.make_case("t", seeds, 1, case) for case in range(40)]
    assert len({case["x"] for case in made}) > 20 and {case["y"] for case in made} == {b"as it is"}


def test_odd_values_are_written_as_json_that_python_reads_or_refuses():
    from . import values

    texts = [values._dumps(value) for value in values.ODD]
    assert {"NaN", "1e400", "9" * 5000, "null", '"\\ud83d"'} <= set(texts)
    assert json.loads(values._dumps({"a": [values.Raw("1e300"), "b"]})) == {"a": [1e300, "b"]}
