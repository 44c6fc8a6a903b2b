"""What the torch side of every library has in common."""

from __future__ import annotations

import numpy as np
import torch


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fresh weights at which every part matters: fan-in scaled matrices, biases and norms away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(p + 0.2 * noise if p.ndim < 2 else noise * p[0].numel() ** -0.5)
    return model.eval()


def weights(model: torch.nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The parameters by name, as numpy; scalars keep no dimension."""
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters() if name not in leave_out}


def pixels(images: np.ndarray) -> torch.Tensor:
    """[batch, height, width, 3] -> torch's [batch, 3, height, width]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def tokens(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))


def arrays(**tensors: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: x.detach().numpy() for name, x in tensors.items()}
