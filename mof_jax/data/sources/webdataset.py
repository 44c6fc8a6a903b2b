"""WebDataset tars in img2dataset's layout (`KEY.jpg`, `KEY.txt`, `KEY.json`), read in any order.

A tar is scanned once for where each member's bytes lie; that index is kept in the cache folder, and from then on a
record is one range read, local or remote. Nothing is ever unpacked to disk. A tar may come from anywhere, so links,
devices, sparse members and names that leave the archive are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
import tarfile

import numpy as np

from mof_jax.data import remote
from mof_jax.data.record import Record
from mof_jax.data.sources import fields
from mof_jax.errors import BadExample, UserError

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif")
_KINDS = ("image", "txt", "json")
_VERSION = 1
_GAP = 16 << 10  # bytes of headers and padding that are cheaper to read than to skip


class WebDatasetSource:
    """Samples of one or many tars.

    The `.txt` member is caption kind `alt`; the `.json` member gives further kinds (`synthetic`, `tags`, `texts`), and
    `scores` and `group`.

    Args:
      path: a tar, a glob, or a folder of tars; local or remote.
      text_fields: caption kind -> key of the `.json` member; `txt` stands for the `.txt` member.

    Raises:
      UserError: no tars, a broken or compressed one, or one with members that could do harm.
    """

    def __init__(self, path: str, name: str = "", text_fields: Mapping[str, str] | None = None, cache_dir: str = ""):
        self.name, self._text_fields = name or os.path.basename(path.rstrip("/")), dict(text_fields or {})
        self._paths = remote.glob(path if path.endswith(".tar") else remote.join(path, "*.tar"))
        if any(c in path for c in "*?[") and not path.endswith(".tar"):
            self._paths = remote.glob(path)
        if not self._paths:
            raise UserError(f"{path}: no .tar files here")
        indexes = [load_index(tar, cache_dir) for tar in self._paths]
        self._keys = [key for index in indexes for key in index["keys"]]
        # [samples, kinds, (offset, size)]; size -1 where a sample lacks that member
        spans = [np.array(index["spans"], np.int64).reshape(-1, len(_KINDS), 2) for index in indexes]
        self._spans = np.concatenate(spans)
        self._ends = np.cumsum([len(s) for s in spans])
        if not len(self._keys):
            raise UserError(f"{path}: no samples in {len(self._paths)} tar files")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def fingerprint(self) -> str:
        """Changes with the tars."""
        marks = [len(self), *(remote.fingerprint(p) for p in self._paths)]
        return hashlib.sha256(repr(marks).encode()).hexdigest()[:12]

    def id(self, index: int) -> str:
        """Key of sample `index`."""
        return self._keys[index]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tar = self._paths[int(np.searchsorted(self._ends, index, side="right"))]
        key = self._keys[index]
        members = self._members(tar, self._spans[index].tolist(), key)
        if "image" not in members:
            raise BadExample(os.path.basename(tar), key, "no image member")
        row = self._row(members, os.path.basename(tar), key)
        return Record(
            id=key,
            image=members["image"],
            texts=self._texts(row, members.get("txt")),
            scores=fields.scores(row),
            group=fields.group(row),
        )

    def _members(self, tar: str, spans: list[list[int]], key: str) -> dict[str, bytes]:
        """The bytes of a sample's members: one read if they lie side by side, as they do, else one each."""
        present = {kind: (offset, offset + size) for kind, (offset, size) in zip(_KINDS, spans) if size >= 0}
        start, stop = min(a for a, _ in present.values()), max(b for _, b in present.values())
        apart = stop - start - sum(b - a for a, b in present.values()) > _GAP
        try:
            if apart:
                return {kind: remote.read(tar, a, b) for kind, (a, b) in present.items()}
            data = remote.read(tar, start, stop)
        except UserError as error:
            raise BadExample(os.path.basename(tar), key, str(error)) from None
        return {kind: data[a - start : b - start] for kind, (a, b) in present.items()}

    def _row(self, members: Mapping[str, bytes], tar: str, key: str) -> dict:
        try:
            row = json.loads(members.get("json", b"{}"))
        except (ValueError, RecursionError) as error:
            raise BadExample(tar, key, f"its .json member is not JSON: {error}") from None
        return row if isinstance(row, dict) else {}

    def _texts(self, row: Mapping, txt: bytes | None) -> dict[str, tuple[str, ...]]:
        alt = () if txt is None else (txt.decode("utf-8", "replace"),)
        if self._text_fields:
            return fields.texts({**row, "txt": alt}, self._text_fields)
        found = fields.texts(row, {})
        if txt is not None:
            found = {
                kind: values for kind, values in found.items() if kind != "caption"
            }  # img2dataset repeats it there
            found = {"alt": alt, **found}
        return found


def load_index(tar: str, cache_dir: str = "") -> dict[str, list]:
    """Where the samples of a tar lie, from the cache or by scanning it once."""
    size = remote.size(tar)
    folder = os.path.join(cache_dir or remote.default_cache(), "tar-index")
    path = os.path.join(folder, f"{remote.fingerprint(tar)}-{os.path.basename(tar)}.json")
    if os.path.exists(path):
        try:
            index = json.loads(remote.read(path))
            if index["version"] == _VERSION:
                return index
        except (ValueError, KeyError, TypeError):
            pass  # not worth an error: it is made again below
    index = scan(tar, size)
    os.makedirs(folder, exist_ok=True)
    remote.write_atomic(path, [json.dumps(index).encode()])
    return index


def scan(tar: str, size: int) -> dict[str, list]:
    """Reads a tar's headers: `keys` and `spans` [samples][image, txt, json][offset, size].

    Raises:
      UserError: see `WebDatasetSource`.
    """
    samples: dict[str, list[list[int]]] = {}
    try:
        with remote.open_stream(tar) as f, tarfile.open(fileobj=f, mode="r|" if remote.is_remote(tar) else "r:") as t:
            for member in t:
                if member.isdir():
                    continue
                _check(tar, member, size)
                folder, _, file = member.name.rpartition("/")
                key, _, extension = file.partition(".")
                kind = "image" if extension.lower() in _IMAGES else extension.lower()
                if kind in _KINDS:
                    key = f"{folder}/{key}" if folder else key
                    spans = samples.setdefault(key, [[0, -1] for _ in _KINDS])
                    if spans[_KINDS.index(kind)][1] >= 0:
                        raise UserError(f"{tar}: two members for {kind} of key {key!r}")
                    spans[_KINDS.index(kind)] = [member.offset_data, member.size]
                t.members = []  # tarfile keeps every header otherwise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{tar}: not an uncompressed tar, or truncated: {error}") from None
    return {"version": _VERSION, "keys": list(samples), "spans": list(samples.values())}


def _check(tar: str, member: tarfile.TarInfo, size: int) -> None:
    parts = pathlib.PurePosixPath(member.name).parts
    if not member.isreg() or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "sparse" if member.issparse() else "not a plain file"
        raise UserError(f"{tar}: member {member.name!r} is {kind}; refused")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or "\0" in member.name or not parts:
        raise UserError(f"{tar}: member {member.name!r} leads outside the archive; refused")
    if member.offset_data + member.size > size:
        raise UserError(f"{tar}: truncated inside member {member.name!r}")
