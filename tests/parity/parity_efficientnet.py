"""EfficientNet-Lite of `efficientnet-lite-pytorch`, tiny and random."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params
import numpy as np
from parity_cases import IMAGE, THIN, Sample, inputs
from parity_torch import arrays, pixels, randomise, weights
import torch


def model(**changes) -> EfficientNet:
    """Lite0 with other factors or another picture size (its padding is made for one)."""
    return EfficientNet(*get_model_params("efficientnet-lite0", changes)).eval()


def features(net: EfficientNet, images: np.ndarray) -> dict[str, torch.Tensor]:
    """Tokens of normalised pictures, and their mean: what its classifier reads."""
    tokens = net.extract_features(pixels(images)).flatten(2).transpose(1, 2)
    return {"tokens": tokens, "pooled": tokens.mean(1)}


def sample(kind: str, seed: int) -> Sample:
    """Random weights and statistics, and what the model makes of random inputs."""
    thin = dict(width_coefficient=THIN[0], depth_coefficient=THIN[1])
    net, given = randomise(model(image_size=IMAGE, **thin), seed), inputs(seed, kind)
    generator = torch.Generator().manual_seed(seed + 1)
    statistics = {name: x for name, x in net.named_buffers() if x.ndim}
    for name, x in statistics.items():
        noise = torch.randn(x.shape, generator=generator)
        x.copy_(1 + noise.abs() if name.endswith("var") else 0.2 * noise)
    with torch.no_grad():
        want = arrays(**features(net, given["images"]))
    found = weights(net, ("_fc.weight", "_fc.bias")) | {name: x.numpy().copy() for name, x in statistics.items()}
    return Sample(found, given, want)
