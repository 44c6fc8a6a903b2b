"""Pictures that a table names by path: read from one folder, never from outside it, whoever wrote the table."""

from __future__ import annotations

import os
import pathlib

from mof_jax.data import remote
from mof_jax.errors import BadExample, UserError


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
