"""Numbers of an example that are kept: in its record, or in a file beside the data, by the record's id."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mof_jax import storage
from mof_jax.data.beside import Paths, check_source, paths
from mof_jax.data.fields.field import Example, Setting, bad
from mof_jax.data.files.npy import parse_npy
from mof_jax.data.files.sidecar import ENDINGS, Sidecar
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, show


@dataclasses.dataclass(frozen=True)
class Kept:
    """Where a field's numbers are: a part of its config section.

    Attributes:
      path: a sidecar (see `files.sidecar`), or a folder with a `.npy` a record, called by its id; one for
        each source by the source's name, if the run reads several. By default the numbers are the record's
        own, see `Record.arrays`.
      column: which column of the sidecar, or which of the record's arrays; of these by default the one of the
        field's name.
    """

    path: Paths = ""
    column: str = ""


class Numbers:
    """Finds the numbers of an example.

    Raises:
      UserError: no such file, one that holds none of a source's ids, or a source that is named and not read.
    """

    def __init__(self, kept: Kept, setting: Setting):
        self._sources, self._column = setting.sources, kept.column or setting.name
        files = paths(kept.path, setting.configs, f"config.data.fields.{setting.name}.path")
        self._own = not any(files)
        self._files = [_opened(file, kept.column, c.cache_dir) for file, c in zip(files, setting.configs)]
        for file, source in zip(self._files, setting.sources):
            if isinstance(file, Sidecar):
                check_source(file, source)

    def find(self, example: Example) -> np.ndarray | None:
        """The numbers of an example, None if there are none.

        Raises:
          BadExample: a file of its own that is no array.
        """
        if self._own:
            return example.record.arrays.get(self._column)
        file = self._files[example.source]
        if isinstance(file, Sidecar):
            row = file.row(example.record.id)
            return None if row < 0 else file.values[row]
        if not file:
            return None
        name = f"{example.record.id}.npy"
        try:
            return parse_npy(read_image(file, name, file, example.record.id, "array"))
        except Malformed as error:
            raise BadExample(file, example.record.id, f"{show(name)}: {error}") from None

    def bad(self, example: Example, reason: str) -> BadExample:
        """A bad example, by the file of its numbers and its record."""
        file = self._files[example.source]
        if isinstance(file, Sidecar) or file:
            return BadExample(file.path if isinstance(file, Sidecar) else file, example.record.id, reason)
        return bad(example, self._sources, reason)

    def none(self, example: Example) -> BadExample:
        """The bad example that has no numbers at all."""
        has = ", ".join(example.record.arrays) or "none"
        own = f"has no array {self._column!r} (has {has})"
        return self.bad(example, own if self._own else "has no row here")

    def content(self) -> dict[str, Any]:
        """What the files hold, by source."""
        return {str(number): file.content() for number, file in enumerate(self._files)
                if isinstance(file, Sidecar)}


def _opened(path: str, column: str, cache_dir: str) -> Sidecar | str:
    """A sidecar, or the folder that holds an array a record; "" for nothing."""
    if not path or path.endswith(ENDINGS):
        return Sidecar(path, column, cache_dir) if path else ""
    path = storage.expand(path)
    if not storage.is_folder(path):
        raise UserError(f"{path}: neither a sidecar ({', '.join(ENDINGS)}) nor a folder of arrays")
    return path

