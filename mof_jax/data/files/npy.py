"""Arrays of numbers from `.npy` files, whose head is checked before anything of the array's size is asked for."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from mof_jax.parsing import Malformed, is_count, reason, show


def parse_npy(data: bytes) -> np.ndarray:
    """The array that a `.npy` file holds, numbers only; its header is checked before anything of the array's size is asked for.

    Raises:
      Malformed: another format, a header that is damaged or does not describe the file, or an array of Python objects.
    """
    stream = io.BytesIO(data)
    shape, fortran, dtype = read_header(stream)
    body = memoryview(data)[stream.tell():]
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise Malformed(f"{len(body):,} bytes of values, and its header says {expected:,}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, column by column, dtype) from the head of a `.npy` file, which is left where the values begin.

    Raises:
      Malformed: no such head, a version that is not read here, sizes that are no sizes, or an array of Python objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise Malformed(f".npy version {version} is not read here; save it with np.save")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Malformed:
        raise
    except Exception as error:  # NumPy evaluates the head as Python: SyntaxError, TokenError, EOFError, OverflowError, …
        raise Malformed(f"not a .npy file ({reason(error)})") from None
    if dtype.hasobject or dtype.kind not in "fubi":
        raise Malformed(f"holds {dtype}, not numbers; pickled arrays are never loaded")
    if len(shape) > 64 or not all(is_count(n) for n in shape) or math.prod(shape) * dtype.itemsize >= 1 << 63:
        raise Malformed(f"says that its shape is {show(shape)}")
    return shape, fortran, dtype
