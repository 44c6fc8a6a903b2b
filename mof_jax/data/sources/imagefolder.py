"""Pictures by path: a folder of them as a source, and those that a table names, never from outside their folder."""

from __future__ import annotations

import hashlib
import os
import pathlib

from mof_jax.data import remote
from mof_jax.data.record import Record
from mof_jax.errors import BadExample, UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif")


class ImageFolder:
    """Every picture below a folder, in the order of their paths, without texts.

    The id is the path inside the folder; attribute `label` is the folder that holds the picture, as ImageNet is laid out.
    """

    def __init__(self, path: str, name: str):
        """
        Raises:
          UserError: no such folder, or no picture in it.
        """
        files = {file: size for file, size in remote.find(path).items() if is_picture(file)}
        if not files:
            raise UserError(f"{path}: " + (f"no picture in this folder ({', '.join(ENDINGS)})" if remote.exists(path)
                                           else "no such folder"))
        self.path, self.name, self._files = path, name, tuple(files)
        self.fingerprint = hashlib.sha256(repr(files).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._files)

    def id(self, index: int) -> str:
        """Path of picture `index` inside the folder."""
        return self._files[index]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = self._files[index]
        return Record(file, read_image(self.path, file, self.path, file), {}, attributes={"label": os.path.dirname(file)})


def is_picture(file: str) -> bool:
    """Whether a file is called like a picture, and not hidden."""
    return file.lower().endswith(ENDINGS) and not os.path.basename(file).startswith(".")


def read_image(root: str, relative: str, source: str, record: str) -> bytes:
    """The bytes of the picture at `relative` inside folder `root`, local or remote.

    Args:
      source, record: who to name in an error.

    Raises:
      BadExample: the path leads outside the folder (a link inside it included), or nothing is there.
    """
    parts = pathlib.PurePosixPath(relative).parts
    if "://" in relative or "\\" in relative or "\0" in relative or relative.startswith("/") or ".." in parts or not parts:
        raise BadExample(source, record, f"image path {relative!r} leads outside the image folder")
    path = remote.join(root, *parts)
    if not remote.is_remote(path):
        folder = os.path.realpath(root)  # a link inside the folder may still lead out of it
        if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
            raise BadExample(source, record, f"image path {relative!r} leads outside the image folder")
    try:
        return remote.read(path)
    except UserError as error:
        raise BadExample(source, record, f"image {relative!r}: {str(error).rpartition(': ')[2]}") from None
