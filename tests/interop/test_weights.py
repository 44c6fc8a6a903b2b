"""Folders, shards and their index."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.interop.weights import Weights, read_json, save

TENSORS = {f"layer.{i}": np.full((4, 4), i, np.float32) for i in range(5)}
INDEX = "model.safetensors.index.json"


def written(folder, limit=5 << 30):
    return save(str(folder), {k: (x.shape, x.dtype) for k, x in TENSORS.items()}, TENSORS.items(), limit=limit)


def same(weights: Weights) -> bool:
    return weights.names == list(TENSORS) and all(np.array_equal(weights.read(k), x) for k, x in TENSORS.items())


@pytest.fixture
def sharded(tmp_path):
    """Three files of at most two tensors."""
    assert written(tmp_path, limit=2 * 64) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    return tmp_path


def change(folder, **entries):
    """The index with other entries; None takes one out."""
    index = json.loads((folder / INDEX).read_text())
    for name, file in entries.items():
        name = name.replace("_", ".")
        index["weight_map"] = {k: v for k, v in (index["weight_map"] | {name: file}).items() if v is not None}
    (folder / INDEX).write_text(json.dumps(index))


def test_one_file_a_folder_and_shards_read_alike(tmp_path):
    assert written(tmp_path / ".") == ["model.safetensors"]
    assert same(Weights.open(str(tmp_path))) and same(Weights.open(str(tmp_path / "model.safetensors")))


def test_shards(sharded):
    assert same(Weights.open(str(sharded))) and same(Weights.open(str(sharded / INDEX)))
    assert json.loads((sharded / INDEX).read_text())["metadata"] == {"total_size": 5 * 64}


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path):
    assert len(written(tmp_path, limit=10)) == 5
    assert same(Weights.open(str(tmp_path)))


OUTSIDE = ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "model.bin", ""]


@pytest.mark.parametrize("file", OUTSIDE)
def test_a_shard_outside_the_folder_is_not_opened(file, sharded):
    change(sharded, layer_0=file)
    with pytest.raises(UserError, match="is not the name of a .safetensors file beside it"):
        Weights.open(str(sharded))


def test_an_index_that_does_not_fit_its_shards(sharded):
    change(sharded, layer_0="model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match="layer.0 is in model-00002-of-00003.safetensors, which lacks it"):
        Weights.open(str(sharded))
    change(sharded, layer_0=None)
    with pytest.raises(UserError, match="holds layer.0, which the index lacks"):
        Weights.open(str(sharded))
    change(sharded, layer_0="model-00009-of-00003.safetensors")
    with pytest.raises(UserError, match="00009.*no such file"):
        Weights.open(str(sharded))


def test_a_shard_that_is_cut_short(sharded):
    path = sharded / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors: tensor 'layer.3': lies beyond the end"):
        Weights.open(str(sharded))


@pytest.mark.parametrize("text, message", [("{", "not JSON"), ("[1]", "holds a list, not an object"), ("{}", "no weight_map"),
                                           ('{"weight_map": {"a": 3}}', "no weight_map"), ("[" * 99_999, "not JSON")])
def test_a_broken_index(text, message, tmp_path):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(UserError, match=message):
        Weights.open(str(tmp_path))


def test_pickles_are_never_opened_without_torch(tmp_path, monkeypatch):
    """With it, its weights-only loader reads them: tests/parity/test_real.py."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(UserError, match=r"pytorch_model.bin: pickled weights only.*mof_jax\[torch\].*safetensors"):
            Weights.open(str(path))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "pytorch_model.bin.index.json")
    with pytest.raises(UserError, match="pickled weights in shards"):
        Weights.open(str(tmp_path))
    with pytest.raises(UserError, match="no weights there"):
        Weights.open(str(tmp_path / "none"))


def test_unknown_names_get_the_nearest(tmp_path):
    written(tmp_path)
    with pytest.raises(UserError, match="did you mean 'layer.4'"):
        Weights.open(str(tmp_path)).read("layers.4")


@pytest.mark.parametrize("data, message", [
    (b'{"a": "\\ud83d cat"}', "half a surrogate pair"), (b'{"\\uD800": 1}', "half a surrogate pair"), (b"{'a': 1}", "not JSON"),
    (b'{"a": 1, "a": 2}', "key 'a' stands twice"), (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"), (b"[" * 50_000, "nested"),
    (b"\xff\xfe{\0}\0", "is UTF-16"), (b'{"a": "\xe9"}', "byte 0xe9 at 7 is not UTF-8"), (b"3", "holds a number, not an object")])
def test_json_of_others_is_an_object_or_one_line(data, message, tmp_path):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_json(str(tmp_path / "config.json"))
    assert "config.json: " in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00", "b": "\\u0000"}')
    assert read_json(str(tmp_path / "config.json")) == {"a": "\U0001f600", "b": "\0"}, "whole pairs, and a mark in front"


def test_a_huge_json_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("mof_jax.interop.weights.MAX_JSON", 10)
    (tmp_path / "config.json").write_text(" " * 11)
    with pytest.raises(UserError, match="too large"):
        read_json(str(tmp_path / "config.json"))


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield from list(TENSORS.items())[:3]
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        save(str(tmp_path), {k: (x.shape, x.dtype) for k, x in TENSORS.items()}, broken())
    assert not list(tmp_path.iterdir())
