"""Plans as they are kept: read, found by name, turned into a throughput, and refused."""

from __future__ import annotations

import json
import pathlib

import pytest

from mof_jax.errors import UserError
from mof_jax.hardware import Throughput, Topology
from mof_jax.plan import records

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "plans.jsonl"
GOOD = {"name": "a.py", "topology": "v5e:2x4", "fits": True, "model_flops": 8 * 197e12, "seconds": 2.0,
        "roofline": {"bound": 1.25, "exposed": 1.6}}


def written(path: pathlib.Path, *lines: object) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_by_name(tmp_path):
    assert records.by_name(str(tmp_path / "none.jsonl")) == {}
    path = written(tmp_path / "plans.jsonl", GOOD, {"step": 1}, GOOD | {"name": "b.py"})
    assert list(records.by_name(path)) == ["a.py", "b.py"]


def test_a_file_without_plans_is_refused(tmp_path):
    for line in ({"step": 1}, [1], "topology"):
        with pytest.raises(UserError, match="no plans.*mof plan"):
            records.read(written(tmp_path / "lines.jsonl", line))


@pytest.mark.parametrize("line, says", [
    ('{"name": "a", "topology": "v5e:2x4", "x": ' + "1" * 5000 + "}", "line 2: .*too many digits"),
    ("[" * 100_000, "line 2: .*nested too deeply"),
    ('{"name": ["a"], "topology": "v5e:2x4"}', r"line 2: 'name' is \['a'\], no text"),
    ('{"name": {}, "topology": "v5e:2x4"}', "line 2: 'name' is {}, no text"),
    ('{"name": "a", "topology": 3}', "line 2: 'topology' is 3, no text"),
    ('{"name": "a\\ud83d", "topology": "v5e:2x4"}', "line 2: 'name' is .*, no text"),
    ('{"name": "a", "name": "b", "topology": "v5e:2x4"}', "line 2: key 'name' stands twice"),
    ("{broken", "line 2: not JSON"),
    ("\xff", "line 2: byte 0xff"),
])
def test_a_damaged_line_is_named_and_nothing_behind_it_is_lost(tmp_path, line, says):
    good = json.dumps(GOOD).encode()
    (tmp_path / "p.jsonl").write_bytes(good + b"\n" + line.encode("latin-1") + b"\n" + good + b"\n")
    with pytest.raises(UserError, match=f"p.jsonl {says}") as caught:
        records.read(str(tmp_path / "p.jsonl"))
    assert len(str(caught.value)) < 400


def test_a_last_line_that_a_kill_cut_off_and_one_with_a_line_separator(tmp_path):
    text = json.dumps(GOOD | {"note": "a\u2028b"}, ensure_ascii=False) + "\n" + json.dumps(GOOD)[:40]
    (tmp_path / "p.jsonl").write_text(text, "utf-8")
    assert [r["note"] for r in records.read(str(tmp_path / "p.jsonl"))] == ["a\u2028b"]


@pytest.mark.parametrize("key", ["seconds", "model_flops"])
@pytest.mark.parametrize("value", [None, True, "2.0", [2.0], {}, -1.0, 0, 10**400, float("nan"), float("inf")])
def test_figures_of_a_plan_are_numbers(tmp_path, key, value):
    for changed in (GOOD | {key: value}, GOOD | {"roofline": {**GOOD["roofline"], "bound": value}}, GOOD | {"roofline": value}):
        with pytest.raises(UserError, match="a.py: not what `mof plan --json` writes"):
            records.throughput(written(tmp_path / "p.jsonl", changed))


def test_two_plans_of_one_name(tmp_path):
    path = written(tmp_path / "p.jsonl", GOOD, GOOD | {"seconds": 3.0})
    with pytest.raises(UserError, match="p.jsonl#a.py: several plans have this name; leave one"):
        records.throughput(path + "#a.py")
    with pytest.raises(UserError, match="2 plans; write which one"):
        records.throughput(path)


def test_a_path_with_a_hash(tmp_path):
    path = written(tmp_path / "p#1.jsonl", GOOD)
    assert records.throughput(path).source == f"{path}#a.py"


def test_throughput_of_every_plan_that_fits():
    """The expected step is never faster than the bound, and its MFU what the config expects of it."""
    found = [r for r in records.read(str(DOCS)) if r["fits"]]
    assert found
    for record in found:
        t = records.throughput(f"{DOCS}#{record['name']}")
        assert 0 < t.mfu <= t.best * (1 + 1e-9) and t.exposed <= t.best and t.topology == record["topology"]
        assert t.best == pytest.approx(record["mfu_bound"])
        slices = Topology.parse(t.topology)
        assert record["seconds"] * t.mfu * slices.chips * slices.chip.flops == pytest.approx(record["model_flops"])


def test_one_plan_needs_no_name(tmp_path):
    path = written(tmp_path / "plan.json", GOOD)
    assert records.throughput(path) == Throughput("v5e:2x4", 0.5, 0.8, pytest.approx(0.625), f"{path}#a.py")


@pytest.mark.parametrize("name, lines, message", [
    ("", [GOOD, GOOD | {"name": "b.py"}], r"2 plans; write which one, .*#NAME: a.py, b.py"),
    ("#a.pi", [GOOD], r"plan 'a.pi' \(did you mean 'a.py'\?\)"),
    ("", [GOOD | {"fits": False}], "does not fit on v5e:2x4"),
    ("", [{"name": "a.py", "topology": "v5e:2x4"}], "does not fit"),
    ("", [{k: v for k, v in GOOD.items() if k != "seconds"}], "not what `mof plan --json` writes"),
    ("", [GOOD | {"seconds": 0}], "not what `mof plan --json` writes"),
    ("", [GOOD | {"topology": 3}], "plans.jsonl line 1: 'topology' is 3, no text"),
    ("", [GOOD | {"topology": "h9:2x2"}], "unknown TPU generation"),
    ("", [GOOD | {"seconds": 0.5}], "no shares"),
    ("", [GOOD | {"roofline": {"bound": float("nan"), "exposed": 1.0}}], "not what `mof plan --json` writes"),
])
def test_what_gives_no_throughput(tmp_path, name, lines, message):
    path = written(tmp_path / "plans.jsonl", *lines)
    with pytest.raises(UserError, match=message) as error:
        records.throughput(path + name)
    assert "\n" not in str(error.value)
