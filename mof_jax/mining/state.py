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

from mof_jax.data import remote
from mof_jax.errors import UserError

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
            found = json.loads(remote.read(path))
            if found != fingerprint:
                raise UserError(f"{folder}: an unfinished run with other features, rules or sizes; repeat that one, or delete it")
        elif jax.process_index() == 0:
            os.makedirs(folder, exist_ok=True)
            remote.write_atomic(path, [json.dumps(fingerprint).encode()])

    def done(self, row: int) -> bool:
        """Whether a row is finished."""
        return os.path.exists(self._file(row))

    def save(self, row: int, pairs: Pairs) -> None:
        """Writes a row, whole or not at all."""
        if jax.process_index() == 0:
            out = io.BytesIO()
            np.savez(out, i=pairs.i, j=pairs.j, cosines=pairs.cosines)
            remote.write_atomic(self._file(row), [out.getvalue()])

    def load(self, row: int) -> Pairs:
        """A finished row."""
        with np.load(self._file(row), allow_pickle=False) as found:
            return Pairs(found["i"], found["j"], found["cosines"])

    def remove(self) -> None:
        """The run is complete."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder)

    def _file(self, row: int) -> str:
        return os.path.join(self.folder, f"row-{row:05d}.npz")
