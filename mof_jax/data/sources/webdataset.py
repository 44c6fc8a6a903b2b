"""WebDataset tars in img2dataset's layout (`KEY.jpg`, `KEY.txt`, `KEY.json`, `KEY.cls`), read in any order.

A tar is scanned once for where each member's bytes lie; that index is kept in the cache folder, and from then on a
record is one range read, local or remote. Nothing is ever unpacked to disk. A tar may come from anywhere, so links,
devices, sparse members and names that leave the archive are refused (see `data.files.tar`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import logging
import os
from typing import Any, ClassVar

import numpy as np

from mof_jax import storage
from mof_jax.data.files import tar
from mof_jax.data.record import Record
from mof_jax.data.sources import fields
from mof_jax.data.sources.config import FileConfig
from mof_jax.data.sources.samples import KINDS, MAX_TEXT, Endings, listed, row_of, text_of, texts_of
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, is_count, is_text, parse_object, show

log = logging.getLogger("mof_jax.data")

_VERSION = 2
_GAP = 16 << 10  # bytes of headers and padding that are cheaper to read than to skip
_NONE = (0, -1)  # where a member would lie that a sample lacks


@dataclasses.dataclass(frozen=True)
class WebDatasetConfig(FileConfig):
    """Tars in img2dataset's layout: one, a pattern, several with `::` between them, or a folder of tars.

    Attributes:
      image_field: ending of the picture where a sample has several (`jpg`, `input.jpg`).
      text_fields: caption kind to key of the `.json` member, or `txt`, `cls` or an ending like `caption.txt`.
    """

    kind: ClassVar[str] = "webdataset"

    image_field: str = ""
    text_fields: dict[str, str] = dataclasses.field(default_factory=dict)

    def open(self) -> WebDatasetSource:
        return WebDatasetSource(self.path, self.label, self.text_fields, self.cache_dir, self.image_field)


class WebDatasetSource:
    """Samples of one or many tars; `data.sources.samples` says which members make one.

    The `.txt` member is caption kind `alt`; the `.json` member gives further kinds (`synthetic`, `tags`, `texts`), and
    `scores` and `group`; the `.cls` member is attribute `label`. The id is the key. Where several tars have a key in common,
    it is the tar's name and the key, for all records of the source, so that every id names one record. What is not read of a tar
    is said when it is opened; a local tar that changes afterwards is noticed when it is read.

    Args:
      path: a tar, a pattern (`*`, `?`, `[ab]`, `{00000..00012}`, `{a,b}`), several of these with `::` between them as OpenCLIP
        takes them, or a folder of tars; local or remote.
      text_fields: caption kind -> key of the `.json` member; `txt`, `cls` or an ending like `caption.txt` for that member.
      image_field: ending of the picture where a sample has several, e.g. `jpg` or `input.jpg`.

    Raises:
      UserError: no tars, a broken or compressed one, or one with members that could do harm.
    """

    def __init__(self, path: str, name: str = "", text_fields: Mapping[str, str] | None = None, cache_dir: str = "",
                 image_field: str = ""):
        self.name, self._text_fields = name or os.path.basename(path.rstrip("/")), dict(text_fields or {})
        self._paths = _tars(path)
        if not self._paths:
            raise UserError(f"{path}: no .tar files here")
        self._kinds = KINDS + tuple(sorted({v for v in self._text_fields.values() if v.endswith(".txt")}))
        self._versions = [_version(path) for path in self._paths]
        indexes = [load_index(path, cache_dir, image_field, self._kinds[len(KINDS):]) for path in self._paths]
        # [samples, kinds, (offset, size)]; size -1 where a sample lacks that member
        self._spans = np.concatenate([index.spans for index in indexes])
        self._ends = np.cumsum([len(index.keys) for index in indexes])
        self._problems = {int(end) - len(index.keys) + n: problem for end, index in zip(self._ends, indexes)
                          for n, problem in index.problems.items()}
        self._keys = _named(self._paths, [index.keys for index in indexes])
        for file, index in zip(self._paths, indexes):
            for note in index.notes:
                log.warning("%s: %s", file, note)
        unread = sum((Counter(index.unread) for index in indexes), Counter())
        if not len(self._keys):
            raise UserError(f"{path}: no samples in {len(self._paths)} tar files" +
                            (f"; their members end in {listed(unread)}" if unread else ""))
        if unread:
            log.warning("%s: %d members are not read: %s", self.name, unread.total(), listed(unread))
        self._said = False  # that a record has no text

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def fingerprint(self) -> str:
        """Changes with the tars."""
        marks = [len(self), *(storage.fingerprint(p) for p in self._paths)]
        return hashlib.sha256(repr(marks).encode()).hexdigest()[:12]

    def id(self, index: int) -> str:
        """Key of sample `index`, behind the name of its tar where keys repeat."""
        return self._keys[index]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._ends, index, side="right"))
        file, key = os.path.basename(self._paths[place]), self._keys[index]
        if index in self._problems:
            raise BadExample(file, key, self._problems[index])
        members = self._members(place, self._spans[index].tolist(), key)
        if "image" not in members:
            raise BadExample(file, key, f"no image member, only {listed(dict.fromkeys(members, 1))}")
        try:
            row = row_of(members.get("json"))
            words = {kind: text_of(data, kind) for kind, data in members.items() if kind not in ("image", "json")}
            texts = texts_of(row, words, self._text_fields)
            scores, group = fields.scores(row), fields.group(row)
        except Malformed as error:
            raise BadExample(file, key, str(error)) from None
        if not self._said and not any(texts.values()) and (row or self._text_fields):
            self._said = True
            log.warning("%s: record %s has no text; its .json has %s; text_fields={'alt': KEY} says which it is", self.name, key,
                        ", ".join(map(show, row)) or "nothing")
        attributes = {"label": words["cls"].strip()} if "cls" in words else {}
        return Record(key, members["image"], texts, scores, group, attributes)

    def _members(self, place: int, spans: list[list[int]], key: str) -> dict[str, bytes]:
        """The bytes of a sample's members: one read if they lie side by side, as they do, else one each."""
        path = self._paths[place]
        file = os.path.basename(path)
        if (now := _version(path)) is not None and now != self._versions[place]:
            raise UserError(f"{path}: has changed since it was opened; start again, so that it is indexed anew")
        present = {kind: (offset, offset + size) for kind, (offset, size) in zip(self._kinds, spans) if size >= 0}
        large = [kind for kind, (a, b) in present.items() if b - a > (storage.MAX_PICTURE if kind == "image" else MAX_TEXT)]
        if large:
            raise BadExample(file, key, f"its member for {large[0]} is too large to be one")
        start, stop = min(a for a, _ in present.values()), max(b for _, b in present.values())
        apart = stop - start - sum(b - a for a, b in present.values()) > _GAP
        try:
            if apart:
                return {kind: storage.read(path, a, b) for kind, (a, b) in present.items()}
            data = storage.read(path, start, stop)
        except UserError as error:
            raise BadExample(file, key, str(error)) from None
        return {kind: data[a - start : b - start] for kind, (a, b) in present.items()}


def _tars(path: str) -> list[str]:
    """The tars that a path stands for.

    Raises:
      UserError: one of them is named twice.
    """
    parts = path.split("::")
    if len(parts) == 1 or not all(part.endswith(".tar") for part in parts) or storage.exists(path):
        return storage.files(path, ".tar")
    found = [file for part in parts for file in storage.files(part, ".tar")]
    if len(set(found)) != len(found):
        twice = next(file for n, file in enumerate(found) if file in found[:n])
        raise UserError(f"{path}: names {twice} twice; give it once, and the source a weight")
    return found


def _version(path: str) -> tuple[int, int] | None:
    """What tells a local file from the one that takes its place later (mounts of stores give inodes anew)."""
    try:
        stat = os.stat(path)  # of an address there is none
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _named(paths: Sequence[str], keys: Sequence[list[str]]) -> list[str]:
    """The ids of all samples: their keys, or tar and key if two tars have a key in common."""
    flat = [key for some in keys for key in some]
    if len(set(flat)) == len(flat):
        return flat
    shared = os.path.commonprefix([path.rpartition("/")[0] + "/" for path in paths]).rpartition("/")[0]
    tars = [path[len(shared) :].lstrip("/").removesuffix(".tar") for path in paths]
    return [f"{name}/{key}" for name, some in zip(tars, keys) for key in some]


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the samples of a tar lie.

    Attributes:
      keys: of the samples. spans: int64 [samples, kinds, (offset, size)], size -1 where a sample lacks that member.
      problems: sample -> why it cannot be read. unread: how many members of each ending belong to no sample.
      notes: what a user should know of the tar.
    """

    keys: list[str]
    spans: np.ndarray
    problems: dict[int, str]
    unread: dict[str, int]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON values."""
        return {"version": _VERSION, "keys": self.keys, "spans": self.spans.ravel().tolist(),
                "problems": {str(n): problem for n, problem in self.problems.items()}, "unread": self.unread,
                "notes": self.notes}


def load_index(path: str, cache_dir: str = "", image: str = "", texts: Sequence[str] = ()) -> Index:
    """Where the samples of a tar lie, from the cache or by scanning it once.

    Args:
      image, texts: see `samples.Endings`.

    Raises:
      UserError: no such tar, or see `scan`; or the cache cannot be written.
    """
    size = storage.size(path)
    chosen = hashlib.sha256(repr((image, tuple(texts))).encode()).hexdigest()[:6] + "-" if image or texts else ""
    folder = os.path.join(cache_dir or storage.default_cache(), "tar-index")
    cached = os.path.join(folder, f"{storage.fingerprint(path)}-{chosen}{os.path.basename(path)[-100:]}.json")
    if (index := _stored(cached, size, len(KINDS) + len(texts))) is not None:
        return index
    index = scan(path, size, Endings(image, texts))
    storage.make_folder(folder)
    body = json.dumps(index.to_json()).encode()
    storage.write_atomic(cached, [hashlib.sha256(body).hexdigest().encode(), b"\n", body])
    return index


def _stored(path: str, size: int, kinds: int) -> Index | None:
    """The index in a cache file; None unless it is whole and every number in it fits the tar."""
    if not os.path.isfile(path):
        return None
    try:
        digest, _, body = storage.read(path).partition(b"\n")
        if digest.decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            return None
        found = parse_object(body)
        keys, spans, problems, unread, notes = (found.get(k) for k in ("keys", "spans", "problems", "unread", "notes"))
        if found.get("version") != _VERSION or not isinstance(keys, list) or not all(map(is_text, keys)):
            return None
        if not isinstance(spans, list) or not all(type(n) is int and -1 <= n <= size for n in spans):
            return None
        array = np.array(spans, np.int64).reshape(len(keys), kinds, 2)
        if (array.clip(0).sum(-1) > size).any() or (array[..., 0] < 0).any() or not (array[..., 1] >= 0).any(-1).all():
            return None
        if not isinstance(unread, dict) or not all(map(is_count, unread.values())) or not isinstance(problems, dict):
            return None
        if not all(map(is_text, problems.values())) or not all(n.isdecimal() and int(n) < len(keys) for n in problems):
            return None
        if not isinstance(notes, list) or not all(map(is_text, notes)):
            return None
        return Index(keys, array, {int(n): problem for n, problem in problems.items()}, unread, notes)
    except (UserError, ValueError):  # `Malformed` is one
        return None  # not worth an error: it is made again


def scan(path: str, size: int, endings: Endings) -> Index:
    """Reads a tar's headers.

    Raises:
      UserError: see `WebDatasetSource`.
    """
    notes: list[str] = []
    try:
        with storage.open_stream(path) as f:
            samples, unread = endings.gather(tar.members(f, size, notes))
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    spans = [[sample.members[kind][1:] if kind in sample.members else _NONE for kind in endings.kinds] for sample in samples]
    return Index([sample.key for sample in samples], np.array(spans, np.int64).reshape(-1, len(endings.kinds), 2),
                 {n: sample.problem for n, sample in enumerate(samples) if sample.problem}, dict(unread), notes)
