"""The jobs of the study, and the files that they leave: one each, whole or not at all."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from typing import Any

import numpy as np

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, parse_object, reason


@dataclasses.dataclass(frozen=True)
class Job:
    """One piece of work: what kind, of which tower or arm, with which seed.

    Attributes:
      cost: relative; dear ones go first, so that the workers end together.
    """

    kind: str
    name: str
    seed: int
    cost: float = 1.0

    @property
    def file(self) -> str:
        """Where its result goes, inside the study's folder."""
        return f"{self.kind}/{self.name}-{self.seed}.{'npz' if self.kind in ('features', 'language') else 'json'}"


def write(folder: str, job: Job, result: dict[str, Any]) -> None:
    """The job's results, whole or not at all."""
    storage.write_atomic(os.path.join(folder, job.file), [json.dumps(result).encode()])


def read(folder: str, job: Job) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
      UserError: it is damaged.
    """
    path = os.path.join(folder, job.file)
    try:
        return parse_object(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}; delete it, and the job is done again") from None


def write_arrays(folder: str, job: Job, arrays: dict[str, np.ndarray]) -> None:
    """The job's arrays by name, whole or not at all."""
    out = io.BytesIO()
    np.savez(out, **arrays)
    storage.write_atomic(os.path.join(folder, job.file), [out.getbuffer()])


def read_arrays(folder: str, job: Job, *names: str) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote: all of it, or those of the names that are there.

    Raises:
      UserError: it is damaged.
    """
    path = os.path.join(folder, job.file)
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files if not names or name in names}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # NumPy gives other members as bytes
            raise Malformed("a member is no array")
        return arrays
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # of zip, zlib and NumPy's heads, which have no class in common
        raise UserError(f"{path}: damaged ({reason(error)}); delete it, and the job is done again") from None
