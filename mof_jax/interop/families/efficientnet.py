"""EfficientNet-Lite under the names of EfficientNet-PyTorch. Its files come without a config; the tensors say which size it is.

Theirs is [out, in, row, column], depthwise [channels, 1, row, column]; `_bn0` is behind `_expand_conv`, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import MOST_PIXELS, Values
from mof_jax.interop.weights import Weights
from mof_jax.models.efficientnet import SIZES, EfficientNetConfig
from mof_jax.models.tower import Tower, TowerConfig

_BEHIND = (
    Ignored(r"_fc\..*", "the classifier: it is behind the features", keep=True),
    Ignored(r".*\.num_batches_tracked", "a counter of its training"))


def table(config: TowerConfig) -> Table:
    e = "encoder"
    found = [*links.patches(f"{e}/stem", "_conv_stem"), *_norm(f"{e}/stem", "_bn0"),
             *_conv("pointwise", f"{e}/head", "_conv_head", "_bn1"), *links.linear(f"{e}/project", "_project")]
    for i in range(len(config.encoder.blocks)):
        ours, theirs = f"{e}/blocks/{i}", f"_blocks.{i}"
        found += [*_conv("pointwise", f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0"),
                  *_conv("depthwise", f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"),
                  *_conv("pointwise", f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2")]
    return tuple(found)


def _conv(how: str, ours: str, theirs: str, norm: str) -> Table:
    return (links.Link((f"{ours}/kernel",), (f"{theirs}.weight",), how), *_norm(ours, norm))


def _norm(ours: str, theirs: str) -> Table:
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return tuple(link for mine, other in names.items() for link in links.plain(f"{ours}/norm/{mine}", f"{theirs}.{other}"))


def read(theirs: Mapping[str, Any] | Values) -> TowerConfig:
    values = Values.of(theirs)
    factor = lambda key: float(values.number(key, 1.0, least=0.01, most=6))  # of the largest published, 5.3
    encoder = dict(
        kind="efficientnet", width_factor=factor("width_coefficient"), depth_factor=factor("depth_coefficient"),
        image_size=values.count("image_size", 224, most=MOST_PIXELS), norm_eps=float(values.number("batch_norm_eps", 1e-3)))
    values.transformers()
    values.close()
    return configs.build(TowerConfig, dict(encoder=encoder), values.where)


def settle(config: TowerConfig, weights: Weights) -> TowerConfig:
    """The config itself, once the file has as many blocks: each is a module of its own, and a hundred take a minute."""
    count = len(config.encoder.blocks)
    if f"_blocks.{count - 1}._project_conv.weight" not in weights:
        raise UserError(f"{weights.where}: has no _blocks.{count - 1}; its config.json (depth_coefficient) speaks of {count} "
                        "blocks")
    return config


def write(config: TowerConfig) -> dict[str, Any]:
    e = config.encoder
    return dict(model_type="efficientnet_lite", width_coefficient=e.width_factor, depth_coefficient=e.depth_factor,
                image_size=e.image_size, batch_norm_eps=e.norm_eps)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """The config of a file that is one of the published sizes."""
    for name in SIZES:
        config = TowerConfig(EfficientNetConfig(variant=name))
        last = len(config.encoder.blocks) - 1
        if f"_blocks.{last + 1}._bn2.bias" in weights or f"_blocks.{last}._project_conv.weight" not in weights:
            continue
        shape = config.encoder.blocks[-1]
        if weights.shape(f"_blocks.{last}._project_conv.weight")[:2] == (shape.outputs, shape.hidden):
            return write(config)
    return None


EFFICIENTNET = Family("efficientnet", "tower", ("efficientnet_lite",), read, write, Tower, table, lambda config: _BEHIND,
                      settle=settle, recognise=recognise)
