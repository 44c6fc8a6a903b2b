"""Pictures by path: a folder of them as a source, and those that a table names, never from outside their folder."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import pathlib
import re
import stat
from typing import ClassVar

from mof_jax import storage
from mof_jax.data.record import Record
from mof_jax.data.sources.config import FileConfig
from mof_jax.data.sources.samples import MAX_TEXT, text_of
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, check_text, kind, show

log = logging.getLogger("mof_jax.data")

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif")

_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")


@dataclasses.dataclass(frozen=True)
class FolderConfig(FileConfig):
    """Every picture below a folder, with the `.txt` beside it; a folder of folders says classes, as ImageNet does."""

    kind: ClassVar[str] = "folder"

    def open(self) -> ImageFolder:
        return ImageFolder(self.path, self.label)


class ImageFolder:
    """Every picture below a folder, in the order of their paths.

    The id is the path inside the folder; attribute `label` is the folder that holds the picture, as ImageNet is laid out. A
    `.txt` beside a picture, of its own name (as img2dataset writes `files`), is caption kind `alt`. Folders that are links are
    not entered, `.json` files beside pictures and tables not read; each is said once.
    """

    def __init__(self, path: str, name: str):
        """
        Raises:
          UserError: no such folder, or no picture in it.
        """
        linked: list[str] = []
        found = storage.find(path, linked=linked)
        files = {file: size for file, size in found.items() if is_picture(file)}
        links = ""
        if linked:
            more = f" and {len(linked) - 1:,} more" if len(linked) > 1 else ""
            links = f"folders that are links are not entered ({linked[0]!r}{more}); give each as a source of its own"
        if not files:
            if not storage.exists(path):
                raise UserError(f"{path}: no such folder")
            raise UserError(f"{path}: no picture in this folder ({', '.join(ENDINGS)})" + (links and f"; {links}"))
        stems = {os.path.splitext(file)[0] for file in files}
        beside = {file: os.path.splitext(file) for file in found if file.lower().endswith((".txt", ".json"))}
        beside = {file: (stem, ending.lower()) for file, (stem, ending) in beside.items() if stem in stems}
        self._texts = {stem: file for file, (stem, ending) in beside.items() if ending == ".txt"}
        tables = [file for file in found if os.path.basename(file) in _TABLES]
        if links:
            log.warning("%s: %s", path, links)
        if tables:
            log.warning("%s: the table %s is not read, only pictures are; give its folder, as a source of kind jsonl", path,
                        tables[0])
        if len(beside) > len(self._texts):
            log.warning("%s: %d .json files beside pictures are not read; write a table of what is needed of them", path,
                        len(beside) - len(self._texts))
        self.path, self.name, self._files = path, name, tuple(files)
        seen = files | {file: found[file] for file in self._texts.values()}
        self.fingerprint = hashlib.sha256(repr(seen).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._files)

    def id(self, index: int) -> str:
        """Path of picture `index` inside the folder; bytes that are no text stand there as escapes."""
        return self._files[index].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file, name = self._files[index], self.id(index)
        path = storage.join(self.path, file)
        _check_inside(self.path, path, self.path, name, "the picture")
        image = _read(path, self.path, name, "the picture")
        return Record(name, image, self._text(file, name), attributes={"label": os.path.dirname(name)})

    def _text(self, file: str, record: str) -> dict[str, tuple[str, ...]]:
        """What the `.txt` beside a picture says."""
        text = self._texts.get(os.path.splitext(file)[0])
        if text is None:
            return {}
        path = storage.join(self.path, text)
        _check_inside(self.path, path, self.path, record, "its .txt")
        data = _read(path, self.path, record, "its .txt", MAX_TEXT)
        try:
            return {"alt": (text_of(data, "txt"),)}
        except Malformed as error:
            raise BadExample(self.path, record, str(error)) from None


def is_picture(file: str) -> bool:
    """Whether a file is called like a picture, and not hidden."""
    return file.lower().endswith(ENDINGS) and not os.path.basename(file).startswith(".")


def read_image(root: str, relative: str, source: str, record: str, what: str = "image") -> bytes:
    """The bytes of the picture that a table names, inside folder `root`, local or remote.

    Args:
      relative: a path inside the folder, or an absolute one that leads there; `\\` is read as `/` where no file has it in its
        name. Addresses are not fetched.
      source, record: who to name in an error. what: the file is, in words.

    Raises:
      BadExample: no path, one that leads outside the folder (through a link inside it, too), or nothing is there.
    """
    if not isinstance(relative, str):
        raise BadExample(source, record, f"the {what} is {kind(relative)}, not a path")
    try:
        check_text(relative)
    except Malformed as error:
        raise BadExample(source, record, f"{what} path {show(relative)}: {error}") from None
    if _ADDRESS.match(relative):
        raise BadExample(source, record, f"{what} path {show(relative)} is an address, and none is fetched; download the "
                         "pictures (img2dataset does) and name the files")
    if "\\" in relative and (storage.is_remote(root) or not os.path.lexists(storage.join(root, relative))):
        slashed = relative.replace("\\", "/")
        if re.match("[A-Za-z]:", relative) or slashed.startswith("/") or not storage.exists(storage.join(root, slashed)):
            raise BadExample(source, record, f"{what} path {show(relative)} has backslashes, and no such file is there with / "
                             f"for them; write a path inside the {what} folder, with /")
        relative = slashed
    parts = pathlib.PurePosixPath(relative).parts
    if not parts:
        raise BadExample(source, record, f"{what} path {show(relative)} is empty")
    if storage.is_remote(root) and (relative.startswith("/") or ".." in parts):
        raise BadExample(source, record, f"{what} path {show(relative)} leads outside the {what} folder {root}")
    path = storage.join(root, *parts)
    _check_inside(root, path, source, record, f"{what} path {show(relative)}")
    return _read(path, source, record, f"{what} {show(relative)}")


def _check_inside(root: str, path: str, source: str, record: str, what: str) -> None:
    """Refuses a path that leads out of a local folder, by `..`, as an absolute one, or through a link."""
    folder = os.path.realpath(root)
    if storage.is_remote(path) or os.path.commonpath([folder, os.path.realpath(path)]) == folder:
        return
    link = os.path.commonpath([os.path.abspath(root), os.path.abspath(path)]) == os.path.abspath(root)
    raise BadExample(source, record, f"{what} {'is, or goes through, a link that leads' if link else 'leads'} outside the image "
                     f"folder {root}; copy it there, or set image_root")


def _read(path: str, source: str, record: str, what: str, most: int = storage.MAX_PICTURE) -> bytes:
    """The bytes of a file, at most `most`."""
    if not storage.is_remote(path):
        try:
            found = os.stat(path)
        except OSError:
            found = None  # why, is said below
        if found is not None and not stat.S_ISREG(found.st_mode):  # a pipe would never end
            raise BadExample(source, record, f"{what}: is not a file")
        if found is not None and found.st_size > most:
            raise BadExample(source, record, f"{what}: {found.st_size:,} bytes, of which at most {most:,} are read")
    try:
        return storage.read(path)
    except UserError as error:
        raise BadExample(source, record, f"{what}: {str(error).rpartition(': ')[2]}") from None
