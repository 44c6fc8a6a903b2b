"""The container of the embedded pictures: a folder of plain files, checked before use.

    manifest.json     schema, what made the pack, and the size and SHA-256 of every other file
    index.json        concepts (labels, tags, families) and, per vendor, which concepts have a picture and its size
    images.bin        the WebP files one after the other, in the order of the index
    locales.json.xz   labels and tags in other languages; read only when one is asked for
    twemoji.tsv, unseen.tsv   the evaluation lists: one `hex <TAB> label` a line, in candidate order

There is no pickle and no offset table: offsets are sums of sizes, and a pack whose sizes do not add up to the length
of `images.bin`, or whose checksums differ, is refused before a picture is handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import lzma
import mmap
import os
import pathlib
from typing import Any

from mof_jax.errors import UserError, lookup
from mof_jax.parsing import is_count, is_text, parse_object

SCHEMA = 1
MAX_FILE = 64 << 20  # bytes; also what locales.json.xz may unpack to


@dataclasses.dataclass(frozen=True)
class Concept:
    """One emoji: what it is called, and on which side of the split it lies.

    Attributes:
      number: its place in the index; pictures of one concept share it.
      hex: its code points, lower-case, FE0F removed (`1f469-200d-1f373`).
      label: the English name, unique.
      tags: English keywords.
      family: see `mof_jax.data.worlds.families`.
      flag: whether it is a flag.
      held_out: whether its family is kept from training.
    """

    number: int
    hex: str
    label: str
    tags: tuple[str, ...]
    family: str
    flag: bool
    held_out: bool


@dataclasses.dataclass(frozen=True)
class Picture:
    """Where one WebP file lies in `images.bin`."""

    vendor: str
    concept: int
    start: int
    size: int


class Pack:
    """An open pack; immutable, safe to read from many threads.

    Raises:
      UserError: a file is missing, of another size or checksum, or does not follow the schema.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.manifest = _manifest(root)
        self.name = str(self.manifest.get("name", root.name))
        index = _guard(root / "index.json", lambda: parse_object(self._file("index.json")))
        self.concepts, self.pictures = _guard(root / "index.json", lambda: _index(index))
        end = self.pictures[-1].start + self.pictures[-1].size
        if end != self._entry("images.bin")["bytes"]:
            raise UserError(f"{root / 'images.bin'}: the index describes {end} bytes, {_AGAIN}")
        self._images = self._map("images.bin")
        names = [name for name in self.manifest["files"] if name.endswith(".tsv")]
        self._lists = {name[:-4]: _guard(root / name, lambda n=name: self._list(n)) for name in names}

    def image(self, picture: Picture) -> bytes:
        """The WebP file of one picture."""
        return self._images[picture.start : picture.start + picture.size]

    def evaluation_list(self, name: str) -> tuple[Concept, ...]:
        """The concepts of `name.tsv`, in file order."""
        return lookup(self._lists, name, "evaluation list")

    def locale(self, name: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Labels [concepts] and tags [concepts, any] of one language other than `en`."""
        return lookup(self._locales, name, "locale")

    @property
    def locales(self) -> tuple[str, ...]:
        """Every language of the captions, `en` first."""
        return ("en", *(name for name in self.manifest["locales"] if name != "en"))

    def _list(self, name: str) -> tuple[Concept, ...]:
        by_hex = {concept.hex: concept for concept in self.concepts}
        rows = [line.split("\t") for line in self._file(name).decode().splitlines()]
        concepts = tuple(by_hex[key] for key, _ in rows)
        if [concept.label for concept in concepts] != [label for _, label in rows]:
            raise ValueError("labels differ from the index")
        return concepts

    @functools.cached_property
    def _locales(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        def parse():
            unpack = lzma.LZMADecompressor(memlimit=256 << 20)
            text = unpack.decompress(self._file("locales.json.xz"), max_length=MAX_FILE)
            if not unpack.eof:
                raise ValueError(f"unpacks to more than {MAX_FILE} bytes")
            table = {name: (value["labels"], value["tags"]) for name, value in parse_object(text).items()}
            if any(len(column) != len(self.concepts) for columns in table.values() for column in columns):
                raise ValueError("not one entry a concept")
            rows = (row for labels, tags in table.values() for row in zip(labels, tags))
            if not all(all(map(is_text, (label, *tags))) for label, tags in rows):
                raise ValueError("labels or tags that are no texts")
            return table

        return _guard(self.root / "locales.json.xz", parse)

    def _entry(self, name: str) -> Mapping[str, Any]:
        return _guard(self.root / "manifest.json", lambda: self.manifest["files"][name])

    def _file(self, name: str) -> bytes:
        with self._map(name) as content:
            return content[:]

    def _map(self, name: str) -> mmap.mmap:
        """The file mapped into memory, after its size and checksum were compared with the manifest."""
        path, entry = self.root / name, self._entry(name)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry["bytes"] or not 0 < size <= MAX_FILE:
                    raise UserError(f"{path}: {size} bytes, the manifest says {entry['bytes']}; {_AGAIN}")
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; {_AGAIN}") from None
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise UserError(f"{path}: wrong checksum; {_AGAIN}")
        return content


_AGAIN = "the file is damaged: reinstall mof_jax or run scripts/build_emoji5.py again"


@functools.lru_cache(maxsize=4)
def read(root: str) -> Pack:
    """The pack in folder `root`, opened once a process."""
    return Pack(pathlib.Path(root))


def encode_index(concepts: Sequence[Concept], sizes: Mapping[str, Mapping[int, int]]) -> bytes:
    """`index.json`: one line a concept, so that a change shows in a diff.

    Args:
      concepts: by number.
      sizes: vendor → concept number → bytes of its picture, both in the order of `images.bin`.
    """
    dump = functools.partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    rows = [dump([c.hex, c.label, c.family, int(c.flag), int(c.held_out), c.tags]) for c in concepts]
    vendors = [f"{dump(v)}:{dump([list(table), list(table.values())])}" for v, table in sizes.items()]
    parts = ['{"concepts":[\n', ",\n".join(rows), '\n],"pictures":{\n', ",\n".join(vendors), "\n}}\n"]
    return "".join(parts).encode()


def _index(index: Mapping[str, Any]) -> tuple[tuple[Concept, ...], tuple[Picture, ...]]:
    """The inverse of `encode_index`; refuses sizes and concept numbers that make no sense."""
    concepts = tuple(
        Concept(number, key, label, tuple(tags), family, bool(flag), bool(held))
        for number, (key, label, family, flag, held, tags) in enumerate(index["concepts"])
    )
    for c in concepts:
        if not all(map(is_text, (c.hex, c.label, c.family, *c.tags))):
            raise ValueError(f"concept {c.number}: words that are no texts")
    pictures, start = [], 0
    for vendor, (numbers, sizes) in index["pictures"].items():
        for number, size in zip(numbers, sizes, strict=True):
            if not is_count(number, len(concepts)):
                raise ValueError(f"concept number {number!r}")
            if not is_count(size, MAX_FILE + 1) or not size:
                raise ValueError(f"picture size {size!r}")
            pictures.append(Picture(vendor, number, start, size))
            start += size
    if not pictures:
        raise ValueError("no pictures")
    return concepts, tuple(pictures)


def _manifest(root: pathlib.Path) -> Mapping[str, Any]:
    """`manifest.json`, with every field that is read later checked."""
    path = root / "manifest.json"

    def parse():
        manifest = parse_object(path.read_bytes())
        if manifest.get("schema") != SCHEMA:
            raise ValueError(f"not a pack of schema {SCHEMA}")
        for name, entry in manifest["files"].items():
            if pathlib.PurePath(name).name != name:  # a pack reads nothing outside its folder
                raise ValueError(f"file name {name!r}")
            if not (is_count(entry["bytes"]) and isinstance(entry["sha256"], str)):
                raise ValueError(f"entry of {name}")
        if not all(isinstance(name, str) for name in manifest["locales"]):
            raise ValueError("locales")
        return manifest

    try:
        return _guard(path, parse)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {_AGAIN}") from None


def _guard(path: pathlib.Path, parse: Callable[[], Any]) -> Any:
    """`parse()`, with what a malformed file raises turned into one `UserError`."""
    try:
        return parse()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, lzma.LZMAError) as error:
        raise UserError(f"{path}: malformed ({type(error).__name__}: {error}); {_AGAIN}") from None
