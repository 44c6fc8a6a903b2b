"""What others wrote is a value, or `Malformed` in one line, whatever it does to the parsers below."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from mof_jax.data.files import npy
from mof_jax.errors import BadExample, UserError, lookup, nearest
from mof_jax.parsing import Malformed, check_text, decode, is_count, is_number, is_text, one_line, parse_json, parse_object, show

_BAD_JSON = {
    b"{": "not JSON", b"": "not JSON", b"[" * 100_000: "nested too deeply", b"9" * 5_000: "too many digits",
    b'{"a": 1, "a": 2}': "key 'a' stands twice", b'{"b": {"\\n": 1, "\\n": 1}}': "key '\\n' stands twice",
    b'{"a": "caf\xe9"}': "byte 0xe9 at 10", "{}".encode("utf-16"): "UTF-16", "{}".encode("utf-32"): "UTF-32",
}


@pytest.mark.parametrize("data", _BAD_JSON, ids=[f"{i}" for i in range(len(_BAD_JSON))])
def test_bad_json_has_one_exception_and_a_reason(data):
    with pytest.raises(Malformed, match=_BAD_JSON[data].replace("\\", "\\\\")) as caught:
        parse_json(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_json_is_read_as_json_reads_it(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == parse_json("\ufeff".encode() + text.encode()) == json.loads(text)


def test_only_objects_where_an_object_is_wanted():
    assert parse_object(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(Malformed, match="a list, not an object"):
        parse_object(b"[]")


def test_text_that_cannot_be_written_down_again():
    assert check_text("naïve 🍎") == "naïve 🍎" and is_text("naïve 🍎")
    for text, place in (("a \ud83d", "at 2"), ("\udc00", "at 0"), ("a\0b", "NUL at 1")):
        with pytest.raises(Malformed, match=place):
            check_text(text)
        assert not is_text(text)
    assert not is_text(b"a") and not is_text(None)
    assert decode("\ufeffé".encode()) == "é"


def test_numbers_are_finite_and_no_booleans():
    assert all(map(is_number, (0, -1.5, np.float32(2), np.int64(3))))
    assert not any(map(is_number, (True, None, "1", float("nan"), float("inf"), 10**400, [1])))
    assert is_count(0) and is_count(2**63 - 1)
    assert not any(map(is_count, (-1, 2**63, True, 1.0, "1", None)))


@given(st.text())
def test_a_message_is_one_printable_line(text):
    for shown in (one_line(text), str(UserError(text)), str(BadExample(text, text, text)), show(text)):
        assert shown.isprintable()
        shown.encode()


def test_names_of_any_kind_are_looked_up():
    for name in (["a"], {}, None, 3):
        with pytest.raises(UserError, match="unknown colour"):
            lookup({"red": 1}, name, "colour")
        assert nearest(name, ["red"])


def _npy(shape=(2, 3), descr="<f4", body=b""):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"shape": shape, "fortran_order": False, "descr": descr})
    return out.getvalue() + body


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3), np.int8)), np.zeros((0, 4)),
                                   np.float32(3)])
def test_arrays_there_and_back(array):
    out = io.BytesIO()
    np.save(out, array)
    found = npy.parse_npy(out.getvalue())
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


@pytest.mark.parametrize("data", [
    b"", b"\x93NUMPY", _npy()[:40], _npy(body=bytes(23)), _npy(body=bytes(25)), _npy((1 << 40,)), _npy((1 << 40, 1 << 40)),
    _npy((-1,)), _npy((1,) * 70, body=bytes(4)), _npy(descr="|O", body=bytes(48)), _npy(descr="<U4", body=bytes(96)),
    _npy()[:10] + b"{'descr': (" + _npy()[21:]])
def test_damaged_arrays_are_refused_before_their_size_is_asked_for(data):
    with pytest.raises(Malformed) as caught:
        npy.parse_npy(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [lambda text: UserError(text), lambda text: BadExample("x.csv", 3, text)])
def test_a_message_has_an_end(error):
    """A cell of a megabyte is not printed whole; where it stands and what to do, at the two ends, stay."""
    text = str(error(f"a.csv: id {'x' * 2**20!r}; remove one"))
    assert len(text) < 10_100 and "a.csv: id 'xxx" in text and text.endswith("xx'; remove one") and " … " in text
    assert str(error("a" * 9000)).endswith("a" * 9000)
