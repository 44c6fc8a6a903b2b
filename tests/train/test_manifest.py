"""A checkpoint's last file: of any content, also such as carries the right digest."""

from __future__ import annotations

import json

import pytest

from mof_jax.errors import UserError
from mof_jax.train.checkpoint import manifest


@pytest.mark.parametrize("change", [
    {"files": None}, {"files": []}, {"files": 3}, {"files": {"a": None}}, {"files": {"a": 3}}, {"files": {"a": [3]}},
    {"files": {"a": ["3", "b"]}}, {"files": {"a": [-1, "b"]}}, {"files": {"a": [True, "b"]}}, {"files": {"a": [3, None]}},
    {"files": {"a": [3, "b", "c"]}}, {"files": {"a": {"0": 3, "1": "b"}}}, {"files": {"a": [10**400, "b"]}}])
def test_a_manifest_with_a_right_digest_is_looked_at_all_the_same(tmp_path, change):
    (tmp_path / "a").write_bytes(b"abc")
    manifest.write(str(tmp_path), 1)
    assert manifest.damage(str(tmp_path), manifest.read(str(tmp_path))) == ""
    body = {"step": 1, **change}
    (tmp_path / manifest.NAME).write_text(json.dumps(body | {"sha256": manifest._digest(body)}))
    with pytest.raises(UserError, match="manifest.json is damaged"):
        manifest.read(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"a":' * 50_000, '{"sha256": ' + "9" * 5000 + "}", "{}", "\xff"])
def test_a_manifest_that_is_none(tmp_path, text):
    (tmp_path / manifest.NAME).write_text(text, "latin-1")
    with pytest.raises(UserError, match="manifest.json is damaged"):
        manifest.read(str(tmp_path))


def test_what_is_wrong_is_one_line_whatever_a_file_is_called(tmp_path):
    body = {"step": 1, "files": {"a\nb\u2028c": [3, "x"]}}
    (tmp_path / manifest.NAME).write_text(json.dumps(body | {"sha256": manifest._digest(body)}))
    found = manifest.damage(str(tmp_path), manifest.read(str(tmp_path)))
    assert found.isprintable() and found.endswith("is missing")
