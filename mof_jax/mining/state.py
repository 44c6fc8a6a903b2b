"""Finished rows of an unfinished run, beside its output: what it goes on with after a kill."""

from __future__ import annotations

import io
import json
import os
import shutil
from typing import NamedTuple

import jax
from jaxtyping import Float, Int
import numpy as np

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, parse_json, reason

_PLAN = "plan.json"


class Pairs(NamedTuple):
    """Pairs in order of (i, j), i < j, with one row of `cosines` a feature."""

    i: Int[np.ndarray, "pairs"]
    j: Int[np.ndarray, "pairs"]
    cosines: Float[np.ndarray, "features pairs"]


class State:
    """A folder with one file a finished row of panels. Process 0 writes."""

    def __init__(self, folder: str, fingerprint: str):
        """Opens it, or starts it.

        Raises:
          UserError: it belongs to a run with other features, rules or sizes.
        """
        self.folder = folder
        path = os.path.join(folder, _PLAN)
        if os.path.exists(path):
            try:
                found = parse_json(storage.read(path))
            except Malformed as error:
                raise UserError(f"{path}: {error}; delete {folder} to start anew") from None
            if found != fingerprint:
                raise UserError(f"{folder}: an unfinished run with other features, rules or sizes; repeat that one, or delete it")
        elif jax.process_index() == 0:
            storage.make_folder(folder)
            storage.write_atomic(path, [json.dumps(fingerprint).encode()])

    def done(self, row: int) -> bool:
        """Whether a row is finished."""
        return os.path.exists(self._file(row))

    def save(self, row: int, pairs: Pairs) -> None:
        """Writes a row, whole or not at all."""
        if jax.process_index() == 0:
            out = io.BytesIO()
            np.savez(out, i=pairs.i, j=pairs.j, cosines=pairs.cosines)
            storage.write_atomic(self._file(row), [out.getvalue()])

    def load(self, row: int) -> Pairs:
        """A finished row.

        Raises:
          UserError: its file is damaged.
        """
        try:
            with np.load(self._file(row), allow_pickle=False) as found:
                pairs = Pairs(found["i"], found["j"], found["cosines"])
            if not (pairs.i.shape == pairs.j.shape == pairs.cosines.shape[1:] and pairs.cosines.ndim == 2):
                raise Malformed("its columns differ in length")
            if pairs.i.dtype.kind not in "iu" or pairs.j.dtype.kind not in "iu" or pairs.cosines.dtype.kind != "f":
                raise Malformed("its columns are no pairs")
            return pairs
        except MemoryError:
            raise
        except Exception as error:  # of zip, zlib and NumPy's heads, which have no class in common
            raise UserError(f"{self._file(row)}: damaged ({reason(error)}); delete it, and it is computed again") from None

    def remove(self) -> None:
        """The run is complete."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder)

    def _file(self, row: int) -> str:
        return os.path.join(self.folder, f"row-{row:05d}.npz")
