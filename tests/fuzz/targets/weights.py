"""Weights and configs of other libraries."""

from __future__ import annotations

import json
import pathlib
import pickle
import sys
import zipfile

import numpy as np

from mof_jax.errors import UserError
from mof_jax.interop.big_vision import BigVision
from mof_jax.interop.source import Source
from mof_jax.interop.weights import Weights

from ..harness import Seed, Target
from .samples import written

_TESTS = pathlib.Path(__file__).parents[2]


def _foreign():
    """`tests/interop/foreign.py`, which has the recorded models."""
    for folder in ("interop", "parity"):
        if str(_TESTS / folder) not in sys.path:
            sys.path.insert(0, str(_TESTS / folder))
    import foreign

    return foreign


def _seeds_of_safetensors() -> list[Seed]:
    from mof_jax.interop import weights

    def write(root: pathlib.Path, limit: int) -> None:
        tensors = {"a": np.ones((2, 3), np.float32), "b.c": np.arange(4, dtype=np.int64), "d": np.ones((), np.float16)}
        weights.save(str(root), {k: (x.shape, x.dtype) for k, x in tensors.items()}, tensors.items(), limit=limit)

    found = []
    for limit in (5 << 30, 30):
        files = written(lambda root: write(root, limit))
        found.append(Seed(files, {name: "json" if name.endswith("json") else "safetensors" for name in files}))
    return found


def _read_weights(folder: pathlib.Path) -> None:
    found = Weights.open(str(folder))
    for name in found.names:
        found.read(name)


def _seeds_of_folders(*kinds: str) -> list[Seed]:
    foreign, found = _foreign(), []
    for kind in kinds:
        files = written(lambda root: foreign.write(root, kind))
        found.append(
            Seed(files, {name: "json" for name in files if name.endswith(".json") and "tokenizer" not in name})
        )
    return found


def _read_folder(folder: pathlib.Path) -> None:
    source = Source.open(f"hf:{folder}")
    if source.tokenizer is not None:
        source.tokenizer(["w1 w2"])
    json.dumps(source.travel())


def _seeds_of_big_vision() -> list[Seed]:
    foreign = _foreign()
    from parity_cases import FIXTURES, Sample
    from test_big_vision import members

    del foreign
    arrays = members(Sample.load(FIXTURES / "siglip.npz").weights, False)
    files = written(lambda root: np.savez(root / "x.npz", **arrays))
    return [Seed(files, {"x.npz": "zip"})]


def _read_big_vision(folder: pathlib.Path) -> None:
    found = BigVision(str(folder / "x.npz"))
    for name in found.names[:4]:
        found.read(name)


class _Runs:
    """Unpickled, it would run a program."""

    def __reduce__(self):
        return print, ("unpickled",)


def _seeds_of_pickles() -> list[Seed]:
    def write(root: pathlib.Path) -> None:
        (root / "a.npy").write_bytes(b"")
        np.save(root / "a.npy", np.array([_Runs()], object), allow_pickle=True)
        np.savez(root / "b.npz", a=np.array([_Runs()], object))
        (root / "c.bin").write_bytes(pickle.dumps(_Runs()))
        with zipfile.ZipFile(root / "d.bin", "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(_Runs()))

    files = written(write)
    return [Seed(files, {"a.npy": "npy", "b.npz": "zip", "c.bin": "bytes", "d.bin": "zip"})]


def _read_pickles(folder: pathlib.Path) -> None:
    """All of them are refused, and nothing in them is called (the harness watches)."""
    from mof_jax.mining.embeddings import Embeddings

    for read, name in (
        (Embeddings.open, "a.npy"),
        (BigVision, "b.npz"),
        (Weights.open, "c.bin"),
        (Weights.open, "d.bin"),
    ):
        try:
            read(str(folder / name))
        except UserError:
            continue
        if name != "a.npy":  # its header may say other things now, and then it holds numbers
            raise AssertionError(f"{name} was read")


# Several models, each for a family of configs; their readers differ.
TARGETS = [
    Target("safetensors", _seeds_of_safetensors, _read_weights),
    Target("big-vision", _seeds_of_big_vision, _read_big_vision, 0.3),
    Target("pickles", _seeds_of_pickles, _read_pickles, 0.3),
    Target(
        "hf-folder",
        lambda: _seeds_of_folders("clip", "siglip", "dinov2", "bert", "llama"),
        _read_folder,
        0.05,
    ),
    Target("open-clip-folder", lambda: _seeds_of_folders("open_clip"), _read_folder, 0.03),
    Target("timm-folder", lambda: _seeds_of_folders("timm_gap"), _read_folder, 0.03),
    Target("llava-folder", lambda: _seeds_of_folders("llava"), _read_folder, 0.02),
]
