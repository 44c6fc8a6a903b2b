"""The train state, a plain pytree, and where its leaves live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int
import numpy as np
import optax

from mof_jax.mesh import batch_sharding, replicated
from mof_jax.nn.module import Params, flatten


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
      step: steps done.
      params: trained parameters by path. frozen: the others; they have no gradient and no optimizer state.
      opt: state of the optimizer. ema: moving average of `params`, or None.
      bad_step: first step whose loss, gradient or update was not finite, -1 if none. From there on the state stands still.
      cursor: where a data pipeline that packs stands after this step, one row a stream; None where the step says it all.
      skipped: updates that were dropped because something was not finite; None where the policy is to stop instead.
    """

    step: Int[Array, ""]
    params: Params
    frozen: Params
    opt: Any
    ema: Params | None
    bad_step: Int[Array, ""]
    cursor: Int[Array, "streams state"] | None = None
    skipped: Int[Array, ""] | None = None

    def model_params(self, ema: bool = False) -> Params:
        """All parameters by path, the averaged ones where asked for and kept."""
        return {**self.frozen, **(self.ema if ema and self.ema is not None else self.params)}


def init_fn(
    build: Callable[[nnx.Rngs], nnx.Module], trained: Mapping[str, bool], tx: optax.GradientTransformation, ema: bool,
    cursor: Int[np.ndarray, "streams state"] | None = None, skip: bool = False,
) -> Callable[[Array], TrainState]:
    """A pure function from a PRNG key to a fresh state (to be jitted with `out_shardings`)."""

    def init(key: Array) -> TrainState:
        values = flatten(build(nnx.Rngs(key)))
        params = {path: x for path, x in values.items() if trained[path]}
        frozen = {path: x for path, x in values.items() if not trained[path]}
        average = {path: jnp.copy(x) for path, x in params.items()} if ema else None
        return TrainState(jnp.int32(0), params, frozen, tx.init(params), average, jnp.int32(-1),
                          None if cursor is None else jnp.asarray(cursor), jnp.int32(0) if skip else None)

    return init


def state_shardings(mesh: Mesh, abstract: TrainState, params: Mapping[str, NamedSharding]) -> TrainState:
    """Shardings of a whole state: what mirrors a parameter lies where the parameter lies, the cursor with the rows of the
    batch, the rest is replicated."""

    def place(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        for key in reversed(keys):
            path = getattr(key, "key", None)
            # Factored or scalar statistics share the parameter's key but not its shape.
            if path in params and leaf.shape == shapes[path]:
                return params[path]
        return replicated(mesh)

    shapes = {path: x.shape for path, x in {**abstract.params, **abstract.frozen}.items()}
    placed = jax.tree_util.tree_map_with_path(place, abstract)
    return placed if abstract.cursor is None else dataclasses.replace(placed, cursor=batch_sharding(mesh))
