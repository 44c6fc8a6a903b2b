"""Files of a study's jobs: read back as they were written, or one line that says what to do."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.studies.blindness import store
from mof_jax.studies.blindness.store import Job

RESULT, ARRAYS = Job("readers", "a", 0), Job("features", "a", 0)


@pytest.fixture
def folder(tmp_path):
    for kind in ("readers", "features"):
        (tmp_path / kind).mkdir()
    store.write(str(tmp_path), RESULT, {"loss": 2.5})
    store.write_arrays(str(tmp_path), ARRAYS, {"x": np.arange(3), "y": np.ones(2)})
    return tmp_path


def test_what_is_written_is_read(folder):
    assert store.read(str(folder), RESULT) == {"loss": 2.5}
    found = store.read_arrays(str(folder), ARRAYS)
    assert sorted(found) == ["x", "y"] and found["x"].tolist() == [0, 1, 2]
    assert list(store.read_arrays(str(folder), ARRAYS, "y", "z")) == ["y"]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"loss": ' + "9" * 5000 + "}", "\xff"])
def test_a_damaged_result_is_said(folder, text):
    (folder / RESULT.file).write_text(text, "latin-1")
    with pytest.raises(UserError, match=f"{RESULT.file}: .*; delete it, and the job is done again") as caught:
        store.read(str(folder), RESULT)
    assert str(caught.value).isprintable()


def _member(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("x.npy", data)
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK", b"\x93NUMPY", _member(b""), _member(b"\x93NUMPY\x01\x00\x05\x00{'de\n"),
                                  _member(np.lib.format.magic(1, 0) + b"\x02\x00[\n")])
def test_damaged_arrays_are_said(folder, data):
    (folder / ARRAYS.file).write_bytes(data)
    with pytest.raises(UserError, match=f"{ARRAYS.file}: damaged .*; delete it, and the job is done again") as caught:
        store.read_arrays(str(folder), ARRAYS)
    assert str(caught.value).isprintable()
