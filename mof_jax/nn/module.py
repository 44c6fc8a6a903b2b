"""Parameters that know what they are, and models as flat dictionaries of arrays.

A parameter is declared with the names of its dimensions (`("embed", "mlp")`), which `mof_jax.mesh` maps to mesh axes, and with
what an optimizer and another run's parameters have to know of it. What changes without a gradient is `moving`.
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
    rngs: nnx.Rngs, init: Initializer, shape: Sequence[int], axes: Axes, *, matrix: Matrix | None = None, decay: bool = True,
    bounds: tuple[float, float] | None = None, resample: Callable[[Array], Array] | None = None,
) -> nnx.Param:
    """A float32 parameter of `shape` whose dimensions are called `axes`.

    Args:
      matrix: if it acts as a linear map.
      decay: whether weight decay pulls it to 0 where no rule of the config says otherwise; biases, scales and learned positions
        are left alone.
      bounds: (low, high) in which it is kept after each update, unless a rule says otherwise.
      resample: from the parameter of a model of another size to this one's, e.g. positions of another grid; hashable.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names for shape {tuple(shape)}")
    return nnx.Param(init(rngs.params(), tuple(shape), jnp.float32), axes=axes, matrix=matrix, decay=decay, bounds=bounds,
                     resample=resample)


class Moving(nnx.Param):
    """What changes without a gradient: see `moving`. A parameter, because NNX's filters would lose anything else."""


def moving(value: Array, axes: Axes) -> Moving:
    """A variable that a step sets and no gradient trains: a queue, a centre, running statistics.

    It has a path, axes and a place in checkpoints as a parameter has, a dtype of its own, and never an optimizer state.

    Args:
      value: of the first step.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"{len(axes)} axis names for shape {value.shape}")
    return Moving(value, axes=axes, matrix=None, decay=False, bounds=None, resample=None)


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A model without its arrays: merges a flat dict of parameters back into a module.

    Attributes:
      shapes: abstract value of each parameter, by path, in a fixed order.
      axes: logical axis names of each parameter; leading dimensions beyond the names belong to a layer stack.
      matrices: the parameters that act as linear maps.
      undecayed, bounds, resample: what `param` was told of some of them.
      moving: those that change without a gradient.
      build: what makes the model.
    """

    shapes: Mapping[str, jax.ShapeDtypeStruct]
    axes: Mapping[str, Axes]
    matrices: Mapping[str, Matrix]
    undecayed: frozenset[str]
    bounds: Mapping[str, tuple[float, float]]
    resample: Mapping[str, Callable[[Array], Array]]
    moving: frozenset[str]
    build: Callable[[nnx.Rngs], nnx.Module]
    _graphdef: Any
    _treedef: Any

    @classmethod
    def of(cls, build: Callable[[nnx.Rngs], nnx.Module]) -> Skeleton:
        """The skeleton of `build(rngs)`, without computing a single parameter."""
        model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        graphdef, state = nnx.split(model, nnx.Param)
        # Metadata lives on the Param, so it has to be read before the state turns into leaves.
        variables = {"/".join(map(str, path)): p for path, p in nnx.to_flat_state(state)}
        meta = {path: p.get_metadata() for path, p in variables.items()}
        leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
        shapes = {_path(keys): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for keys, leaf in leaves}
        said = lambda what: {path: meta[path][what] for path in shapes if meta[path][what] is not None}
        still = frozenset(path for path, kept in said("decay").items() if not kept)
        moves = frozenset(path for path in shapes if isinstance(variables[path], Moving))
        return cls(shapes, said("axes"), said("matrix"), still, said("bounds"), said("resample"), moves, build, graphdef, treedef)

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
