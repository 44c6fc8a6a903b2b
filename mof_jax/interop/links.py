"""One table says how our parameters and the tensors of another library correspond; it is read in both directions.

    ours                                      theirs                                                how
    image/patch_embed/kernel [p·p·3, w]       …patch_embedding.weight [w, 3, p, p]                  conv
    …/attn/qkv [layers, w, 3, heads, dim]     …layers.{}.…{q,k,v}_proj.weight, each [w, w]          linear
    …/attn/out [layers, heads, dim, w]        …layers.{}.…out_proj.weight [w, w]                    out
    pool/{q,k,v}/kernel, each [w, w]          …attention.in_proj_weight [3·w, w]                    linear
    pos_embed [positions, w]                  …position_embeddings [1, positions, w]                plain, ones=1

A link joins equal parts: several tensors of theirs along their first dimension are one array of ours, or the other way
round. `{}` is the number of a layer; ours then has a leading dimension for it, whether the stack is scanned or unrolled.
Tables hold what a family can have; a model takes what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Literal, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Link(NamedTuple):
    """Arrays of ours and theirs that hold the same numbers.

    Attributes:
      ours: paths. theirs: names; one of the two has a single entry.
      how: `plain` (the same shape), `flat` (theirs has one dimension), `linear` ([out, in] there; our first dimension is
        the input), `out` (likewise; our last dimension is the output), `conv` ([out, channel, row, column] there), `pointwise`
        ([out, in, 1, 1]), `depthwise` ([channel, 1, row, column]; ours is [rows·columns, channel]).
      ones: dimensions of size one in front of theirs.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    how: Literal["plain", "flat", "linear", "out", "conv", "pointwise", "depthwise"] = "plain"
    ones: int = 0

    @property
    def stacked(self) -> bool:
        """Whether it speaks of every layer of a stack."""
        return "{}" in self.theirs[0]

    def names(self, layer: int | None) -> list[str]:
        """Their names, of one layer where there are layers."""
        return [name.format(layer) for name in self.theirs]

    def their_shape(self, ours: Shape) -> Shape:
        """Shape of each of theirs, from that of each of ours (of one layer)."""
        whole = {
            "plain": lambda: ours,
            "flat": lambda: (math.prod(ours),),
            "linear": lambda: (math.prod(ours[1:]), ours[0]),
            "out": lambda: (ours[-1], math.prod(ours[:-1])),
            "conv": lambda: (ours[1], 3, _side(ours[0] // 3), _side(ours[0] // 3)),
            "pointwise": lambda: (ours[1], ours[0], 1, 1),
            "depthwise": lambda: (ours[1], 1, _side(ours[0]), _side(ours[0])),
        }[self.how]()
        if len(self.ours) + len(self.theirs) > 2:
            whole = (whole[0] * len(self.ours) // len(self.theirs), *whole[1:])
        return (1,) * self.ones + whole

    def to_ours(self, arrays: Sequence[np.ndarray], part: int, shape: Shape) -> np.ndarray:
        """The `part`-th of ours, of that shape, from theirs (of one layer)."""
        x = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if self.ones:
            x = x.reshape(x.shape[self.ones:])
        if len(self.ours) > 1:
            x = np.split(x, len(self.ours))[part]
        if self.how in ("linear", "out"):
            x = x.T
        elif self.how == "conv":
            x = x.transpose(2, 3, 1, 0)
        elif self.how in ("pointwise", "depthwise"):  # one of two dimensions beside the output is not 1
            x = x.reshape(x.shape[0], -1).T
        return x.reshape(shape)

    def to_theirs(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Theirs, in the order of their names, from all of ours (of one layer)."""
        parts = []
        for x in arrays:
            if self.how == "linear":
                x = x.reshape(x.shape[0], -1).T
            elif self.how == "out":
                x = x.reshape(-1, x.shape[-1]).T
            elif self.how == "conv":
                side = _side(x.shape[0] // 3)
                x = x.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
            elif self.how == "pointwise":
                x = x.T[:, :, None, None]
            elif self.how == "depthwise":
                side = _side(x.shape[0])
                x = x.T.reshape(-1, 1, side, side)
            elif self.how == "flat":
                x = x.reshape(-1)
            parts.append(x)
        x = parts[0] if len(parts) == 1 else np.concatenate(parts)
        split = np.split(x, len(self.theirs)) if len(self.theirs) > 1 else [x]
        return [y.reshape((1,) * self.ones + y.shape) for y in split]


Table = tuple[Link, ...]


def renamed(table: Table, ours: tuple[str, str] = ("", ""), theirs: tuple[str, str] = ("", "")) -> Table:
    """The links whose names all start with the first of each pair, with the second in its place."""
    swap = lambda names, pair: tuple(pair[1] + name.removeprefix(pair[0]) for name in names)
    fits = lambda names, pair: all(name.startswith(pair[0]) for name in names)
    return tuple(link._replace(ours=swap(link.ours, ours), theirs=swap(link.theirs, theirs))
                 for link in table if fits(link.ours, ours) and fits(link.theirs, theirs))


def _side(pixels: int) -> int:
    return math.isqrt(pixels)


def plain(ours: str, theirs: str, ones: int = 0) -> Table:
    return (Link((ours,), (theirs,), ones=ones),)


def norm(ours: str, theirs: str) -> Table:
    """A LayerNorm."""
    return plain(f"{ours}/scale", f"{theirs}.weight") + plain(f"{ours}/bias", f"{theirs}.bias")


def linear(ours: str, theirs: str) -> Table:
    """A layer and its bias."""
    return (Link((f"{ours}/kernel",), (f"{theirs}.weight",), "linear"), *plain(f"{ours}/bias", f"{theirs}.bias"))


def patches(ours: str, theirs: str) -> Table:
    """The convolution of a patch embedding."""
    return (Link((f"{ours}/kernel",), (f"{theirs}.weight",), "conv"), *plain(f"{ours}/bias", f"{theirs}.bias"))


def attention(ours: str, weights: Sequence[str], biases: Sequence[str], out: str) -> Table:
    """Self-attention; one fused name, or three for query, key and value."""
    return (
        Link((f"{ours}/qkv",), tuple(weights), "linear"), Link((f"{ours}/qkv_bias",), tuple(biases), "flat"),
        Link((f"{ours}/out",), (f"{out}.weight",), "out"), Link((f"{ours}/out_bias",), (f"{out}.bias",)))


def separate(ours: str, theirs: Sequence[str], out: str) -> Table:
    """Self-attention whose query, key and value are layers of their own."""
    return attention(ours, [f"{name}.weight" for name in theirs], [f"{name}.bias" for name in theirs], out)


def map_head(ours: str, theirs: str) -> Table:
    """`torch.nn.MultiheadAttention` with a learned probe, then a residual MLP (SigLIP)."""
    qkv = lambda leaf: tuple(f"{ours}/{name}/{leaf}" for name in "qkv")
    return (
        *plain(f"{ours}/probe", f"{theirs}.probe", ones=1), *linear(f"{ours}/out", f"{theirs}.attention.out_proj"),
        Link(qkv("kernel"), (f"{theirs}.attention.in_proj_weight",), "linear"),
        Link(qkv("bias"), (f"{theirs}.attention.in_proj_bias",)),
        *norm(f"{ours}/norm", f"{theirs}.layernorm"),
        *linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1"), *linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"))
