"""Weights that `torch.save` wrote (`.bin`, `.pt`, `.pth`), by torch's weights-only loader: it builds tensors and runs no code.

A pickle is a program. Python's own unpickler, which would run it, is used nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
import re
import zipfile

import ml_dtypes
import numpy as np

from mof_jax.errors import UserError

SUFFIXES = (".bin", ".pt", ".pth")
_OLDEST = (2, 6)  # before, a file could break out of the weights-only loader (CVE-2025-32434)


def read(path: str) -> dict[str, np.ndarray]:
    """Tensors by name. Files since torch 1.6 stay on disk until a tensor is read; older ones are read whole.

    Raises:
      UserError: no torch, or one that is too old; a file of anything but tensors by name.
    """
    if "://" in path:
        raise UserError(f"{path}: pickled weights are read from a local file; copy it from there")
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: pickled weights only, which can run code when opened: pip install 'mof_jax[torch]' for a "
                        "loader that refuses to, or save them as safetensors") from None
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < _OLDEST:
        raise UserError(f"{path}: torch {torch.__version__} is too old to read pickles safely; pip install "
                        "'mof_jax[torch]' for a newer one")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # noqa: BLE001  whatever a damaged or hostile file makes of the loader
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {wanted[1]}" if wanted else f"{type(error).__name__}, a damaged file or no weights"
        raise UserError(f"{path}: refused by the weights-only loader ({reason}); nothing of it was run") from None
    if not isinstance(found, Mapping) or not all(isinstance(x, torch.Tensor) for x in found.values()):
        raise UserError(f"{path}: holds other things than tensors by name; save the model's state_dict alone, as safetensors")
    return {str(name): _array(path, str(name), x.detach()) for name, x in found.items()}


def _array(path: str, name: str, x) -> np.ndarray:
    """A view of a tensor, bfloat16 too."""
    import torch

    try:
        if x.dtype == torch.bfloat16:
            return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return x.numpy()
    except (TypeError, RuntimeError):
        raise UserError(f"{path}: {name} is a tensor of kind {x.dtype}, {x.layout}; dense floats are read here") from None
