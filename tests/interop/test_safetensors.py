"""The file format: what is written comes back, and nothing but an exact header is read."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.interop import safetensors

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1.5, -2.0], ml_dtypes.bfloat16)


def announced(tensors):
    return {name: (x.shape, x.dtype) for name, x in tensors.items()}


def raw(path: pathlib.Path, header, data: bytes = b"", length: int | None = None) -> str:
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return str(path)


def line(start: int, stop: int, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_every_dtype_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {name: rng.integers(0, 2, (2, 3)).astype(dtype) for name, dtype in safetensors.DTYPES.items()}
    tensors |= {"scalar": np.float32(3), "none": np.zeros((0, 4), np.float16)}
    tensors = {name: np.asarray(x) for name, x in tensors.items()}
    path = str(tmp_path / "x.safetensors")
    safetensors.write(path, announced(tensors), tensors.items())
    header = safetensors.read_header(path)
    assert list(header) == list(tensors)
    for name, x in tensors.items():
        got = safetensors.read_tensor(path, name, header[name])
        assert got.dtype == x.dtype and got.shape == x.shape and got.tobytes() == x.tobytes(), name


def test_the_layout_is_the_published_one(tmp_path):
    """Eight bytes of length, JSON padded with spaces to a multiple of eight, then the bytes in order."""
    path = tmp_path / "x.safetensors"
    safetensors.write(str(path), announced({"a": A, "b": B}), [("a", A), ("b", B)])
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0 and header.pop("__metadata__") == {"format": "pt"}
    assert header == {"a": line(0, 24, (2, 3)), "b": line(24, 28, (2,), "BF16")}
    assert data[8 + length :] == A.tobytes() + B.tobytes()


GOOD = {"a": line(0, 4), "b": line(4, 8)}


@pytest.mark.parametrize("header, size, message", [
    (b"not json", 0, "header not JSON"),
    (b"\xff\xfe{}", 0, "header is UTF-16, not UTF-8"),
    (b"\xff{}", 0, "header byte 0xff at 0 is not UTF-8"),
    (b"[" * 100_000, 0, "header not JSON that is read here: nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", 0, "a number has too many digits"),
    (b"[1, 2]", 0, "header holds a list, not an object"),
    (b'{"a":' + json.dumps(line(0, 4)).encode() + b',"a":' + json.dumps(line(0, 4)).encode() + b"}", 4, "stands twice"),
    (GOOD, 7, "'b': lies beyond the end"),
    (GOOD, 9, "its header describes"),
    ({"a": line(0, 4), "b": line(0, 4)}, 8, "overlap"),
    ({"a": line(0, 4), "b": line(8, 12)}, 12, "leave a gap"),
    ({"a": line(4, 8)}, 8, "leave a gap"),
    ({"a": line(0, 8)}, 8, "takes 4 bytes, its header gives it 8"),
    ({"a": line(0, 4, (2**40,))}, 4, "takes 4,398,046,511,104 bytes"),
    ({"a": line(8, 4)}, 8, "takes 4 bytes"),
    ({"a": line(-4, 0)}, 4, "malformed"),
    ({"a": line(0, 4, (-1,))}, 4, "malformed"),
    ({"a": line(0, 4, (True,))}, 4, "malformed"),
    ({"a": line(0, 4.0)}, 4, "malformed"),
    ({"a": {"dtype": "F32", "shape": [1]}}, 4, "malformed"),
    ({"a": 3}, 4, "malformed"),
    ({"a": line(0, 4, dtype="F4")}, 4, "unknown dtype 'F4'"),
    ({"a": line(0, 4, (1,) * 100)}, 4, "a shape of 100 dimensions"),
    ({"a": line(0, 4, (1,) * 17)}, 4, "a shape of 17 dimensions"),
    ({"a": line(0, 0, (0, 10**30))}, 0, "malformed"), ({"a": line(0, 0, (2**40, 2**40, 0))}, 0, "no tensor has such a one"),
    ({"a": line(0, 0, (0, 2**62))}, 0, "a shape of 2 dimensions, .0, 4611686018427387904."),
    ({"a": line(0, 10**40)}, 4, "malformed"), ({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}, 4, "malformed"),
    ({"a": {"dtype": "F32", "shape": {"1": 1}, "data_offsets": [0, 4]}}, 4, "malformed"),
    ({"a": line(0, 4, dtype=["F32"])}, 4, "unknown dtype"),
])
def test_a_header_that_does_not_describe_the_file_is_refused(header, size, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        safetensors.read_header(raw(tmp_path / "x.safetensors", header, bytes(size)))
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_lengths_that_lie(tmp_path):
    path = tmp_path / "x.safetensors"
    for length in (0, 10**6, 2**63 + 5):
        with pytest.raises(UserError, match="not a safetensors file, or cut short"):
            safetensors.read_header(raw(path, GOOD, bytes(8), length))
    path.write_bytes(b"123")
    with pytest.raises(UserError, match="cut short"):
        safetensors.read_header(str(path))
    with pytest.raises(UserError, match="no such file"):
        safetensors.read_header(str(tmp_path / "none"))


def test_a_huge_header_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_HEADER", 100)
    with pytest.raises(UserError, match="a header of"):
        safetensors.read_header(raw(tmp_path / "x", {"a" * 200: line(0, 4)}, bytes(4)))


def test_a_file_cut_short_after_it_was_opened(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.write(str(path), announced({"a": A}), [("a", A)])
    entry = safetensors.read_header(str(path))["a"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="beyond the end"):
        safetensors.read_tensor(str(path), "a", entry)


@pytest.mark.parametrize("given", [[("a", A)], [("b", B), ("a", A)], [("a", A), ("b", A)], [("a", A), ("b", B), ("c", B)]])
def test_a_write_that_fails_leaves_nothing(given, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="announced"):
        safetensors.write(str(path), announced({"a": A, "b": B}), given)
    assert not list(tmp_path.iterdir())
