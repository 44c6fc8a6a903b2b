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


def chinchilla_rows(unit=(1, 1, 1), separator=",", comma=False, rows=((1e7, 2e8), (1e7, 1e9), (1e8, 2e9), (3e8, 6e9))) -> str:
    """Runs whose C is 6·N·D, in the units of a table."""
    found = [[n / unit[0], d / unit[1], 6 * n * d / unit[2], 2 + 1e3 / n**0.5] for n, d in rows]
    written = [[f"{x:.12g}".replace(".", ",") if comma else f"{x:.12g}" for x in row] for row in found]
    return "\n".join(separator.join(row) for row in (["params", "tokens", "flops", "loss"], *written)) + "\n"


@pytest.mark.parametrize("separator, comma", [(",", False), (";", False), ("\t", False), ("|", False)])
def test_separators(tmp_path, separator, comma):
    (tmp_path / "a.csv").write_text(chinchilla_rows(separator=separator))
    p = read(tmp_path / "a.csv", columns="")
    assert p["N"].tolist() == [1e7, 1e7, 1e8, 3e8] and p.excluded == () and p.warnings == ()


def test_decimal_commas_are_no_numbers(tmp_path):
    """Unquoted they are more cells than the header has; with semicolons they are cells that are no numbers. Never 5 for 5,31."""
    (tmp_path / "a.csv").write_text("N,D,loss\n1e7,2e8,5,31\n1e7,1e9,4\n")
    p = read(tmp_path / "a.csv", columns="")
    assert p.rows == (2,) and p["L"].tolist() == [4.0]
    (reason,) = [e.reason for e in p.excluded]
    assert reason.startswith("line 2 has more cells than the header (4 for 3)") and "decimal comma" in reason
    (tmp_path / "b.csv").write_text("N;D;loss\n1e7;2e8;5,31\n1e7;1e9;4\n")
    assert {e.row: e.reason for e in read(tmp_path / "b.csv", columns="").excluded} == {1: "L = '5,31' is no number"}
    (tmp_path / "c.csv").write_text('N,D,loss\n"10,000,000",2e8,5\n1e7,1e9,4\n')
    assert {e.row: e.reason for e in read(tmp_path / "c.csv", columns="").excluded} == {1: "N = '10,000,000' is no number"}


@pytest.mark.parametrize("line, reason", [
    ("1e7,2e8", "line 3 ends before column loss (2 cells for 3)"), ("1e7,2e8,5\xff", "line 3 byte 0xff in cell 3 is not UTF-8"),
    ("1e7,2e8,5\0", "line 3 cell 3: a NUL at 1 is no text"), ("1e7,2e8,5,,", None), ("1e7,2e8, 5 ", None),
])
def test_rows_with_faults_are_left_out_with_them(tmp_path, line, reason):
    (tmp_path / "a.csv").write_bytes(b"N,D,loss\n1e8,2e8,3\n" + line.encode("latin-1") + b"\n1e9,2e9,2\n")
    p = read(tmp_path / "a.csv", columns="")
    assert [e.reason.split(";")[0] for e in p.excluded] == ([reason] if reason else []) and 3 in p.rows


@pytest.mark.parametrize("text, says", [
    ("N,D,loss,loss\n1e7,2e8,5,6\n", "a.csv line 1: column 'loss' stands twice in the header"),
    ("a,b\n1,2\n", "a.csv line 1: no known column; the header (the first row) is 'a', 'b'; name the columns with --columns"),
    ('N,D,loss\n"1e7,2e8,5\n1e8,2e9,4\n1e9",2e9,3\n', "line 2: a quote opens here and closes in line 4"),
    ("N,D,loss\n1e7,2e8,5\n".encode("utf-16"), "a.csv line 1: is UTF-16, not UTF-8"),
])
def test_a_table_that_is_wrong_is_one_line(tmp_path, text, says):
    (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as stop:
        read(tmp_path / "a.csv", columns="")
    assert says in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_only_a_line_feed_ends_a_line_of_json(tmp_path, separator):
    rows = [{"name": f"run{separator}x", "N": 1e7, "D": 2e8, "loss": 5.0}, {"name": "y", "N": 1e8, "D": 2e8, "loss": 4.0}]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(json.dumps(r, ensure_ascii=ord(separator) < 32) for r in rows).encode())
    assert read(tmp_path / "a.jsonl", columns="")["L"].tolist() == [5.0, 4.0]


@pytest.mark.parametrize("text, says", [
    ('{"N": 1, "N": 2}', "line 1: key 'N' stands twice in one object"), ("[" * 100_000, "line 1: not JSON that is read here"),
    ('{"N": %s}' % ("9" * 5000), "line 1: not JSON that is read here: a number has too many digits"),
    ("[1]", "expected a list of JSON objects"), ("\xff", "line 1: byte 0xff at 0 is not UTF-8"),
])
def test_json_that_is_wrong_is_one_line(tmp_path, text, says):
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"a.jsonl:? {says}"):
        read(tmp_path / "a.jsonl", columns="")


@pytest.mark.parametrize("text, needed, reason", [
    ("N,D,L\n1e308,1e308,2\n1e5,1e6,3\n", ("C", "L"), "C is infinite by C = 6·N·D of N = 1e+308, D = 1e+308"),
    ("N,D,L\n1e-300,1e-300,2\n1e5,1e6,3\n", ("C", "L"), "C is zero by C = 6·N·D of N = 1e-300, D = 1e-300"),
    ("N,C,L\n1e-300,1e300,2\n1e5,1e6,3\n", ("N", "D", "L"), "D is infinite by C = 6·N·D of N = 1e-300, C = 1e+300"),
])
def test_what_follows_has_to_be_finite_too(tmp_path, text, needed, reason):
    (tmp_path / "a.csv").write_text(text)
    p = read(tmp_path / "a.csv", needed, "")
    assert p.rows == (2,) and [e.reason for e in p.excluded] == [reason]


@pytest.mark.parametrize("unit, times, guess", [
    ((1e6, 1e9, 1), "1e+15", "parameters in millions and tokens in billions"),
    ((1e9, 1e9, 1), "1e+18", "parameters and tokens in billions"), ((1e6, 1e6, 1), "1e+12", "parameters and tokens in millions"),
    ((1, 1e9, 1), "1e+09", "parameters or tokens in billions"),
    ((1e6, 1, 1), "1e+06", "parameters or tokens in millions"), ((1e3, 1, 1), "1e+03", "parameters or tokens in thousands"),
    ((1, 1, 1e9), "1e-09", "GFLOP"), ((1, 1, 1e12), "1e-12", "TFLOP"), ((1, 1, 8.64e19), "1.16e-20", "petaFLOP/s-days"),
])
def test_units_are_told_by_the_tables_own_compute(tmp_path, unit, times, guess):
    (tmp_path / "a.csv").write_text(chinchilla_rows(unit))
    for needed in (("N", "D", "L"), ("C", "N", "L")):
        (warning,) = read(tmp_path / "a.csv", needed, "").warnings
        assert warning.startswith(f"the table's C is {times} times 6·N·D; {guess} would explain it")
    openclips = read(tmp_path / "a.csv", ("C", "error"), "C=flops,error=loss", target="error")
    assert openclips.warnings == ()  # its C is in GMAC


def test_compute_that_agrees_gives_no_warning(tmp_path):
    """Also where it holds what 6·N·D leaves out, and where D counts pictures of some hundred tokens."""
    for factor, name, warned in ((1.3, "tokens", False), (12, "tokens", False), (40, "tokens", True), (257, "examples", False)):
        rows = "".join(f"{n},{d},{6 * n * d * factor},{2 + 1e3 / n**0.5}\n" for n, d in ((1e7, 2e8), (1e8, 2e9), (3e8, 6e9)))
        (tmp_path / "a.csv").write_text(f"params,{name},flops,loss\n" + rows)
        assert bool(read(tmp_path / "a.csv", columns="").warnings) == warned, factor


def test_rows_in_units_of_their_own_are_named(tmp_path):
    text = chinchilla_rows() + "1,0.2,1.2e15,3\n"
    (tmp_path / "a.csv").write_text(text)
    (warning,) = read(tmp_path / "a.csv", columns="", diverged=9).warnings
    assert warning.startswith("row 5: C over 6·N·D is far from the 1 of the other rows")
