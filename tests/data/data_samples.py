"""Pieces that the tests of `mof_jax.data` are made of."""

from __future__ import annotations

import io
import tarfile

import numpy as np

from mof_jax.data.image import images


def picture(seed: int = 0, height: int = 20, width: int = 30, kind: str = "JPEG") -> bytes:
    """An encoded noise picture."""
    return images.encode(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8), kind)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Appends a plain member."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def lengths(texts) -> np.ndarray:
    """A tokenizer: length and character sum of each text, int32 [n, 2]."""
    return np.array([[len(t), sum(map(ord, t)) % 2**31] for t in texts], np.int32)


def damage(data: bytes, cut: int, flips: list[tuple[int, int]]) -> bytes:
    """`data` without its last `cut` bytes, and with bytes at some places XORed."""
    data = bytearray(data[: max(0, len(data) - cut)])
    for place, mask in flips:
        if data:
            data[place % len(data)] ^= mask
    return bytes(data)
