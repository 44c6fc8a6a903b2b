"""Parameters that know their logical axes, and models as flat dictionaries of arrays.

A parameter is declared with the names of its dimensions (`("embed", "mlp")`); `mof_jax.mesh` maps names to mesh axes.
Training sees a model as `dict[path, array]`: rules match the paths, optimizers map over the values, and a checkpoint is
readable without the code that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array

Params = dict[str, Array]
Axes = tuple[str | None, ...]
Initializer = Callable[..., Array]

zeros = nnx.initializers.zeros
ones = nnx.initializers.ones
normal = nnx.initializers.normal
# Fan-in scaled, truncated at two standard deviations: the ViT / big_vision default for kernels.
lecun = nnx.initializers.lecun_normal
xavier = nnx.initializers.xavier_uniform


class Matrix(NamedTuple):
    """Which dimensions of a parameter are a matrix's inputs and outputs, counted from the last (so that they stay right
    in a layer stack); the others are batch dimensions. Optimizers that work on matrices (Muon) read it."""

    inputs: tuple[int, ...] = (-2,)
    outputs: tuple[int, ...] = (-1,)


def param(
    rngs: nnx.Rngs, init: Initializer, shape: Sequence[int], axes: Axes, *, matrix: Matrix | None = None
) -> nnx.Param:
    """A float32 parameter of `shape` whose dimensions are called `axes`; `matrix` if it acts as a linear map."""
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names for shape {tuple(shape)}")
    return nnx.Param(init(rngs.params(), tuple(shape), jnp.float32), axes=axes, matrix=matrix)


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A model without its arrays: merges a flat dict of parameters back into a module.

    Attributes:
      shapes: abstract value of each parameter, by path, in a fixed order.
      axes: logical axis names of each parameter; leading dimensions beyond the names belong to a layer stack.
      matrices: the parameters that act as linear maps.
      build: what makes the model.
    """

    shapes: Mapping[str, jax.ShapeDtypeStruct]
    axes: Mapping[str, Axes]
    matrices: Mapping[str, Matrix]
    build: Callable[[nnx.Rngs], nnx.Module]
    _graphdef: Any
    _treedef: Any

    @classmethod
    def of(cls, build: Callable[[nnx.Rngs], nnx.Module]) -> Skeleton:
        """The skeleton of `build(rngs)`, without computing a single parameter."""
        model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        graphdef, state = nnx.split(model, nnx.Param)
        # Metadata lives on the Param, so it has to be read before the state turns into leaves.
        meta = {"/".join(map(str, path)): p.get_metadata() for path, p in nnx.to_flat_state(state)}
        leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
        shapes = {_path(keys): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for keys, leaf in leaves}
        axes = {path: meta[path]["axes"] for path in shapes}
        matrices = {path: meta[path]["matrix"] for path in shapes if meta[path]["matrix"] is not None}
        return cls(shapes, axes, matrices, build, graphdef, treedef)

    def merge(self, params: Mapping[str, Array]) -> nnx.Module:
        """The module holding `params`; every path of `shapes` must be there."""
        return nnx.merge(self._graphdef, self._treedef.unflatten([params[path] for path in self.shapes]))


def flatten(model: nnx.Module) -> Params:
    """The parameters of `model` by path, `image/blocks/attn/qkv/kernel`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))
    return {_path(keys): leaf for keys, leaf in leaves}


def _path(keys: tuple[Any, ...]) -> str:
    names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys]
    return "/".join(n for n in names if n not in ("value", ".value"))  # NNX appends the Variable's own field
