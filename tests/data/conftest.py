"""Small data sets for the tests of `mof_jax.data`."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from mof_jax.data import images


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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keeps indexes and manifests inside the test's folder."""
    monkeypatch.setenv("MOF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    """A folder `table/` with ten pictures and `metadata.jsonl`; every record has a score and a group."""
    folder = tmp_path / "table"
    folder.mkdir()
    rows = []
    for i in range(10):
        (folder / f"{i}.jpg").write_bytes(picture(i))
        scores = {"dfn": i / 10, "clip": (9 - i) / 10}
        row = {"id": f"r{i}", "image": f"{i}.jpg", "alt": f"alt {i}", "synthetic": f"made {i}", "scores": scores}
        rows.append(row | {"tags": [f"t{i}", "all"], "group": i // 2})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture
def tars(tmp_path):
    """A folder `tars/` with two tars in img2dataset's layout, three samples each."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(3):
                key = f"{shard:05d}{i:04d}"
                add(tar, f"{key}.jpg", picture(10 * shard + i))
                add(tar, f"{key}.txt", f"caption {key}".encode())
                add(tar, f"{key}.json", json.dumps({"caption": f"caption {key}", "synthetic": f"made {key}"}).encode())
    return folder
