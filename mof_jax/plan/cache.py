"""What the compiler said of a program, kept: the same program for the same slices is not compiled twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import gzip
import hashlib
import importlib.metadata
import json
import os
from typing import Any
import zlib

import jax

from mof_jax import storage
from mof_jax.hardware import Topology
from mof_jax.parsing import Malformed, parse_object

FOLDER = "~/.cache/mof_jax/plans"


def key_of(program: str, topology: Topology, options: Mapping[str, float] | None = None) -> str:
    """A name for a program (as StableHLO) on slices, with everything else that its compilation depends on: the compiler, its
    flags, and the options of this compilation."""
    try:
        compiler = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        compiler = "none"
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    parts = [program, str(topology), jax.__version__, compiler, *flags, *(f"{k}={v}" for k, v in sorted((options or {}).items()))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def cached(key: str, compute: Callable[[], dict[str, Any]], folder: str | None = FOLDER) -> dict[str, Any]:
    """What `compute` returned when it was asked under this name before, or returns now, as JSON. An entry that cannot be read is
    made anew.

    Args:
      folder: where entries lie; None for nowhere.
    """
    if folder is None:
        return compute()
    path = os.path.join(os.path.expanduser(folder), f"{key}.json.gz")
    try:
        with gzip.open(path, "rb") as f:
            return parse_object(f.read())
    except (OSError, EOFError, Malformed, zlib.error):
        found = compute()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    storage.write_atomic(path, [gzip.compress(json.dumps(found).encode())])
    return found
