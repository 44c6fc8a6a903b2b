"""A stack of identical layers, scanned, with a rematerialisation policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.nn import dropout as drop

Remat = Literal["none", "full", "dots"]

_POLICIES: dict[str, Any] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Stack(nnx.Module):
    """`depth` layers whose parameters are stacked along a leading axis and run by one `lax.scan`.

    Program size and compile time do not grow with depth. `unroll` layers are laid out per scan iteration: `unroll=depth`
    gives the plain unrolled network (fastest on a CPU, most compile time).
    """

    def __init__(
        self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs, *, remat: Remat = "none", unroll: int = 1
    ):
        self.depth, self.remat, self.unroll = depth, remat, unroll
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        # Split on the host side of the trace, so that layer l's initial values depend on (seed, l) alone.
        keys = jax.random.split(rngs.params(), depth)
        layers = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key)), nnx.Param))(keys)
        self.layers = nnx.merge(graphdef, layers)

    def __call__(
        self, x: Float[Array, "batch tokens width"], *args: Any, keys: drop.Keys | None = None
    ) -> Float[Array, "batch tokens width"]:
        """Runs all layers; `args` go to each of them, `keys` are folded with the layer's index."""
        graphdef, params = nnx.split(self.layers)

        def body(x: Array, layer: tuple[Any, Array]) -> tuple[Array, None]:
            params, index = layer
            return nnx.merge(graphdef, params)(x, *args, keys=drop.fold(keys, index)), None

        if self.remat != "none":
            body = jax.checkpoint(body, policy=_POLICIES[self.remat], prevent_cse=False)
        x, _ = jax.lax.scan(body, x, (params, jnp.arange(self.depth)), unroll=min(self.unroll, self.depth))
        return x

    def carry(
        self, x: Float[Array, "batch tokens width"], state: Any, *args: Any, method: Callable[..., tuple[Array, Any]]
    ) -> tuple[Float[Array, "batch tokens width"], Any]:
        """Runs `method(layer, x, own, *args) -> (x, own)` of every layer, `own` being its slice of `state` (a cache)."""
        graphdef, params = nnx.split(self.layers)

        def body(x: Array, layer: tuple[Any, Any]) -> tuple[Array, Any]:
            return method(nnx.merge(graphdef, layer[0]), x, layer[1], *args)

        return jax.lax.scan(body, x, (params, state), unroll=min(self.unroll, self.depth))
