"""What sources hold, wherever they lie: how a run that goes on knows that its data is what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import concurrent.futures
import dataclasses
import hashlib
import math
import os
from typing import Any
import zlib

import numpy as np

from mof_jax.data.filter import Subset
from mof_jax.data.record import Source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import BadExample

_SAMPLED = 64  # records that are looked at, evenly spread


def content(config: SourceConfig, whole: Source, kept: Source) -> dict[str, Any]:
    """Of one source of a mixture.

    Up to 64 records are read, their pictures too, but not decoded. A local file of rows, which is read as a whole when it is
    opened, is read once more for a digest of all of it. What comes with the package is told by the config.

    Args:
      whole: the source. kept: what its filter leaves of it.

    Returns:
      `records`, `kept`, `chosen` (a digest of which), `digest` of the sample, `file` of the whole; the same for a copy elsewhere.
    """
    found = {"records": len(whole), "kept": len(kept)}
    if isinstance(kept, Subset) and kept is not whole:
        found["chosen"] = _hex(zlib.crc32(np.ascontiguousarray(kept.indices)))
    if not config.embedded:
        found["digest"] = _sampled(whole)
        if os.path.isfile(path := getattr(whole, "path", "")):
            with open(path, "rb") as file:
                found["file"] = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return found


def _sampled(source: Source) -> str:
    picked = np.unique(np.linspace(0, len(source) - 1, _SAMPLED).astype(int)).tolist()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return _hex(zlib.crc32(repr(list(pool.map(lambda index: _record(source, index), picked))).encode()))


def _record(source: Source, index: int) -> int:
    try:
        return _digest(source[index])
    except BadExample as error:
        return _digest(error.record)


def _digest(value: Any) -> int:
    """Of whatever records are made of."""
    if isinstance(value, (bytes, str)):
        return zlib.crc32(value if isinstance(value, bytes) else value.encode(errors="surrogatepass"))
    if dataclasses.is_dataclass(value):
        given = [getattr(value, f.name) for f in dataclasses.fields(value) if f.compare]
        return _digest(given + [value.arrays] if getattr(value, "arrays", None) else given)  # few records have arrays
    if isinstance(value, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return _digest(sorted((str(key), _digest(inner)) for key, inner in value.items()))
    if isinstance(value, Sequence):
        return zlib.crc32(b",".join(b"%d" % _digest(inner) for inner in value))
    return _digest("nan" if isinstance(value, float) and math.isnan(value) else repr(value))


def _hex(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:12]
