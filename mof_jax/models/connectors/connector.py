"""What a connector is: a frozen dataclass that says how many tokens come out, and builds a module."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from mof_jax.nn.flops import training_factor


class ConnectorModule(nnx.Module):
    """The parameters of a connector."""

    def __call__(self, x: Float[Array, "batch patches inputs"]) -> Float[Array, "batch tokens outputs"]:
        """Tokens of patches in row-major order."""
        raise NotImplementedError

    def flops(self) -> tuple[float, float]:
        """Forward FLOPs of one image, and how many of them are products of weights with the features themselves."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Connector(abc.ABC):
    """A connector.

    Attributes:
      kind: its name in a config.
    """

    kind: ClassVar[str]

    def output_tokens(self, grid: int) -> int:
        """Tokens an image of `grid` × `grid` patches becomes: one a patch, where nothing is pooled."""
        return grid * grid

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> ConnectorModule:
        """Its parameters, for `grid` × `grid` patches of width `inputs` and tokens of width `outputs`."""


def connector_flops(connector: nnx.Module, trained: bool, upstream: bool) -> float:
    """Training FLOPs of one image; features below which nothing trains need no gradient of their own."""
    total, first = connector.flops()
    return total * training_factor(trained, upstream) - (first if trained and not upstream else 0.0)
