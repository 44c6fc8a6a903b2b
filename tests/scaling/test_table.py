"""Points: what is read, what is derived, and what is left out with which reason."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.scaling import table

CSV = """Model Size, Training FLOP,loss
1e8,6e18,3.0
1e8,6e18,3.0
2e8,12e18,nan
2e8,,2.9
3e8,18e18,inf
3e8,18e18,-1
4e8,24e18,2.5x
5e8,30e18,2.7
5e8,30e18,2.8
6e8,36e18,9.5
"""
COLUMNS = "N=Model Size,C=Training FLOP,L=loss"


def read(path, needed=("N", "D", "L"), columns=COLUMNS, **more) -> table.Points:
    source, names, rows = table.read(str(path), table.parse_columns(columns))
    return table.points(source, rows, needed, names=names, **more)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "points.csv").write_text(CSV)
    return tmp_path / "points.csv"


def test_every_bad_point_is_left_out_with_its_reason(path):
    p = read(path)
    assert p.rows == (1, 8, 9)
    assert {e.row: e.reason for e in p.excluded} == {
        2: "a copy of row 1", 3: "L is NaN", 4: "C is missing", 5: "L is infinite", 6: "L = -1 is not positive",
        7: "L = '2.5x' is no number", 10: "diverged: L = 9.5 is more than 1.5 × the 2.7 of a run no larger"}
    np.testing.assert_allclose(p["D"], [1e10, 1e10, 1e10], rtol=1e-12)
    assert p.notes == ("1 points repeat another's N, D with another L: kept as further measurements",)


def test_a_larger_run_may_be_better_and_a_smaller_one_worse(tmp_path):
    """Divergence is a loss above that of a run which is no larger in anything."""
    (tmp_path / "a.csv").write_text("N,D,L\n1e8,1e9,9\n1e8,1e10,3\n1e9,1e9,4.4\n1e9,1e10,4.6\n")
    assert read(tmp_path / "a.csv", columns="").rows == (1, 2, 3)
    assert read(tmp_path / "a.csv", columns="", diverged=1.6).rows == (1, 2, 3, 4)


def test_drop_highest(path):
    p = table.drop_highest(read(path), 2)
    assert p.rows == (8,) and [e.row for e in p.excluded if "--drop-highest" in e.reason] == [1, 9]


def test_what_is_not_given_follows_from_six_n_d(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"parameters": 1e8, "tokens": 2e9, "loss": 3}\n\n'
                                      '{"parameters": 2e8, "tokens": 4e9, "loss": 2}\n')
    p = read(tmp_path / "a.jsonl", ("C", "N", "L"), "")
    np.testing.assert_allclose(p["C"], [1.2e18, 4.8e18])
    q = read(tmp_path / "a.jsonl", ("x", "L"), "")
    assert q.names["x"] == "parameters" and q["x"].tolist() == [1e8, 2e8]


def test_a_work_dir_and_a_json_list(tmp_path):
    rows = [{"N": 1e8, "D": 1e9, "L": 3.0}, {"N": 2e8, "D": 1e9, "L": 2.9, "note": "second"}]
    (tmp_path / "points.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "list.json").write_text(json.dumps(rows))
    for path in (tmp_path, tmp_path / "list.json"):
        assert read(path, columns="")["L"].tolist() == [3.0, 2.9]


@pytest.mark.parametrize("name, text, columns, message", [
    ("a.csv", "N,D,L\n1,2,3\n", "N=Size", "no column 'Size'"),
    ("a.csv", "N,D,L\n1,2,3\n", "M=N", "--columns M=N: unknown symbol"),
    ("a.csv", "N,D,L\n1,2,3\n", "N", "--columns 'N': expected SYMBOL=NAME"),
    ("a.csv", "N,D,L\n1,2,3\n", "N=N,N=D", "each symbol once"),
    ("a.csv", "N,D,lss\n1,2,3\n", "",
     "the law needs L (loss, lower is better); recognised: D, N; name the columns with --columns 'L=NAME'"),
    ("a.csv", "N,L\n1,3\n", "", "the law needs D"),
    ("a.csv", "N,D,L\n", "", "no rows"),
    ("a.txt", "N", "", "expected .csv"),
    ("a.jsonl", '{"N": 1}\n{"N": \n', "", "a.jsonl line 2: not JSON"),
    ("a.json", '{"N": 1}', "", "expected a list of JSON objects"),
])
def test_mistakes_are_one_line(tmp_path, name, text, columns, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as stop:
        read(tmp_path / name, columns=columns)
    assert message in str(stop.value) and "\n" not in str(stop.value)


def test_missing_files(tmp_path):
    for path, message in ((tmp_path / "none.csv", "no such file"), (tmp_path, "no points of a sweep in this folder")):
        with pytest.raises(UserError, match=message):
            read(path)


def test_what_is_no_number_is_left_out_whatever_its_type(tmp_path):
    rows = [{"N": value, "D": 1e9, "L": 3.0} for value in (1e8, 10**400, [1e8], {}, None, "0x10", True)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    p = read(tmp_path / "a.json", columns="")
    assert p.rows == (1,) and [e.row for e in p.excluded] == [2, 3, 4, 5, 6, 7]
    assert [e.reason for e in p.excluded][1:] == ["N = '[100000000.0]' is no number", "N = '{}' is no number", "N is missing",
                                                  "N = '0x10' is no number", "N = 'True' is no number"]
