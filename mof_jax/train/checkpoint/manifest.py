"""The last file of a checkpoint: size and SHA-256 of all the others, so that one look tells whether it is whole.

`STEP/manifest.json` appears in one piece, once everything else is on disk. A step without it is half-written; one that differs
from it is damaged. The fingerprints of the arrays (see `fingerprints`) are checked besides, on the devices: the manifest vouches
for the bytes on disk, the fingerprints for what came out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import hashlib
import json
from typing import Any

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_count, one_line, parse_object

NAME = "manifest.json"
_THREADS = 8  # files read at once: an object store gives one reader a fraction of its speed


def write(folder: str, step: int) -> None:
    """Seals a checkpoint: its files are complete, and will not change.

    Raises:
      UserError: the disk is full, or a store that keeps failing.
    """
    found = [name for name in storage.find(folder) if name != NAME]
    with ThreadPoolExecutor(_THREADS) as pool:
        files = dict(zip(found, pool.map(lambda name: list(_look(storage.join(folder, name))), found)))
    body = {"step": step, "files": files}
    storage.write_atomic(storage.join(folder, NAME), [json.dumps(body | {"sha256": _digest(body)}, indent=0).encode()])


def read(folder: str) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
      UserError: there is none, or it is damaged itself.
    """
    path = storage.join(folder, NAME)
    try:
        found = parse_object(storage.read(path))
    except Malformed:
        raise UserError(f"{NAME} is damaged") from None
    digest, files = found.pop("sha256", None), found.get("files")
    if digest != _digest(found) or not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise UserError(f"{NAME} is damaged")
    return found


def _is_entry(value: Any) -> bool:
    """Whether a value is [size, digest] of a file."""
    return isinstance(value, list) and len(value) == 2 and is_count(value[0]) and isinstance(value[1], str)


def damage(folder: str, manifest: dict[str, Any], part: Callable[[Sequence[str]], Sequence[str]] = lambda names: names) -> str:
    """What is wrong with the files of a sealed folder, in words; "" if nothing is.

    Args:
      part: of all the names, those to look at, so that hosts can share the work.
    """

    def wrong(name: str) -> str:
        size, digest = manifest["files"][name]
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]:,} bytes, written were {size:,}"
        return "" if _look(storage.join(folder, name))[1] == digest else f"{name} differs from what was written"

    found = storage.find(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        return one_line(next(filter(None, pool.map(wrong, part(sorted(manifest["files"])))), ""))


def _look(path: str) -> tuple[int, str]:
    """Bytes and SHA-256 of a file."""
    total, digest = 0, hashlib.sha256()
    for data in storage.stream(path):
        total += len(data)
        digest.update(data)
    return total, digest.hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
