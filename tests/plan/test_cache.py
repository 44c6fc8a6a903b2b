"""What was compiled is not compiled again; what changed, or cannot be read, is."""

from __future__ import annotations

import gzip

import pytest

from mof_jax.hardware import Topology
from mof_jax.plan.cache import cached, key_of

SLICE = Topology.parse("v5e:4x4")


def test_an_entry_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"memory": [1, 2, 3, 4], "needed": None, "text": "ENTRY"}

    first, second = (cached("key", compute, str(tmp_path)) for _ in range(2))
    assert first == second == {"memory": [1, 2, 3, 4], "needed": None, "text": "ENTRY"} and len(calls) == 1
    cached("other", compute, str(tmp_path))
    cached("key", compute, None)
    assert len(calls) == 3 and sorted(p.name for p in tmp_path.iterdir()) == ["key.json.gz", "other.json.gz"]


@pytest.mark.parametrize("damage", [b"", b"junk", None, *(gzip.compress(text, mtime=0) for text in (
    b"[]", b"3", b"[" * 100_000, b'{"needed": ' + b"9" * 5000 + b"}", b"\xff", b'{"needed": 1, "needed": 3}'))])
def test_a_damaged_entry_is_made_anew(damage, tmp_path):
    cached("key", lambda: {"needed": 1}, str(tmp_path))
    path = tmp_path / "key.json.gz"
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    assert cached("key", lambda: {"needed": 2}, str(tmp_path)) == {"needed": 2}
    assert cached("key", lambda: {"needed": 3}, str(tmp_path)) == {"needed": 2}, "and kept"


def test_a_key_is_of_program_slices_and_flags(monkeypatch):
    key = key_of("module", SLICE)
    assert key == key_of("module", SLICE)
    assert len({key, key_of("module2", SLICE), key_of("module", Topology.parse("2*v5e:4x4"))}) == 3
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_something=1")
    assert key_of("module", SLICE) != key
