"""Scaled dot-product attention: one function, one mask, several kernels.

    kernel     runs on        masks
    xla        anything       all
    splash     TPU            causal, windows, segments (other masks, and other devices, take the XLA path)
    cudnn      NVIDIA GPUs    all, the dense form of them; bf16 or f16
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

Kernel = Literal["xla", "splash", "cudnn"]

_NEVER = -1e30  # finite, so that a fully masked row gives a mean instead of NaN
_LANES = 128  # splash wants lengths that are multiples of it
_ROWS = ("data", "fsdp")  # mesh axes of the batch; heads are over `tensor`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Which keys a query may see: what every part that is given allows.

    Attributes:
      causal: no later keys; the queries are the last ones of the keys.
      query_segments, key_segments: only keys of the query's own document (packed sequences); padding has an id of its own.
      prefix: keys that every query of their document sees, later ones too (prefix-LM); only changes what `causal` forbids.
      dense: any other rule, `True` where a key is seen.
      window: how many keys back a query sees, its own among them; 0 for all. In packed rows a document's keys lie together, so
        they are counted as they lie.
    """

    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    query_segments: Int[Array, "batch queries"] | None = None
    key_segments: Int[Array, "batch keys"] | None = None
    prefix: Bool[Array, "batch keys"] | None = None
    dense: Bool[Array, "batch #queries keys"] | None = None
    window: int = dataclasses.field(default=0, metadata={"static": True})

    @classmethod
    def packed(cls, segment_ids: Int[Array, "batch tokens"], causal: bool = True) -> Mask:
        """Self-attention within the documents of packed rows."""
        return cls(causal, segment_ids, segment_ids)

    def to_dense(self, queries: int, keys: int) -> Bool[Array, "batch #queries keys"] | None:
        """The whole rule as one array, None if everything is seen; the first axis is 1 where examples do not differ."""
        parts = []
        if self.causal:
            before = jnp.tri(queries, keys, keys - queries, dtype=bool)[None]
            parts.append(before if self.prefix is None else before | self.prefix[:, None])
        if self.window:
            parts.append(~jnp.tri(queries, keys, keys - queries - self.window, dtype=bool)[None])
        if self.query_segments is not None:
            parts.append(self.query_segments[:, :, None] == self.key_segments[:, None])
        if self.dense is not None:
            parts.append(self.dense)
        return functools.reduce(jnp.logical_and, parts) if parts else None


def attention(
    q: Float[Array, "batch queries heads dim"],
    k: Float[Array, "batch keys kv_heads dim"],
    v: Float[Array, "batch keys kv_heads dim"],
    mask: Mask = Mask(),
    *,
    kernel: Kernel = "xla",
) -> Float[Array, "batch queries heads dim"]:
    """softmax(q kᵀ / √dim) v, with the softmax in float32.

    Heads may share keys and values (grouped queries, arXiv 2305.13245): query head h reads head h·kv_heads // heads. A
    query that sees no key gets the mean of all values.
    """
    if kernel == "cudnn":
        # Plain causality is the kernel's own, which skips half of the work; it aligns queries and keys at their start.
        causal = mask.causal and mask.prefix is None and not mask.window and q.shape[1] == k.shape[1]
        dense = (dataclasses.replace(mask, causal=False) if causal else mask).to_dense(q.shape[1], k.shape[1])
        dense = None if dense is None else dense[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=dense, is_causal=causal, implementation="cudnn")
    if kernel == "splash" and mask.prefix is None and mask.dense is None and (
            not (mask.causal or mask.window) or q.shape[1] == k.shape[1]):
        # Mosaic refuses a precision of products that are not float32's.
        plain = q.dtype == jnp.float32 or jax.config.jax_default_matmul_precision is None
        on_tpu = _splash_on_mesh if plain else at_default_precision(_splash_on_mesh)
        return jax.lax.platform_dependent(q, k, v, mask, tpu=on_tpu, default=_reference)
    return _reference(q, k, v, mask)


def _reference(q: Array, k: Array, v: Array, mask: Mask) -> Array:
    groups = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    scores = jnp.einsum("bqhgd,bkhd->bhgqk", groups * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    seen = mask.to_dense(q.shape[1], k.shape[1])
    if seen is not None:
        scores = jnp.where(seen[:, None, None], scores, _NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhgqk,bkhd->bqhgd", weights, v).reshape(q.shape)


def _splash_on_mesh(q: Array, k: Array, v: Array, mask: Mask, *, interpret: bool = False) -> Array:
    """Splash on each device's own rows and heads, for a Pallas call cannot be partitioned by XLA.

    The mesh is the one in context (`mesh.on_mesh`). What an axis does not divide, each of its devices does whole.
    """
    mesh, run = jax.sharding.get_abstract_mesh(), functools.partial(splash, interpret=interpret)
    if mesh.empty or mesh.size == 1:
        return run(q, k, v, mask)
    shards = math.prod(mesh.shape[a] for a in _ROWS)
    rows = _ROWS if q.shape[0] % shards == 0 else None
    if q.shape[2] % mesh.shape["tensor"] == 0 and k.shape[2] % mesh.shape["tensor"]:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))  # too few shared heads for the axis
    heads = P(rows, None, "tensor" if k.shape[2] % mesh.shape["tensor"] == 0 else None)
    specs = jax.tree.map(lambda _: P(rows), mask)
    return jax.shard_map(run, in_specs=(heads, heads, heads, specs), out_specs=heads, check_vma=False)(q, k, v, mask)


def at_default_precision(f: Callable[..., Array]) -> Callable[..., Array]:
    """Runs `f`, positional arguments to an array of floats, at default matmul precision, forward and backward; reverse-mode
    gradients only, as the kernel's own."""
    here = functools.partial(jax.default_matmul_precision, None)

    @jax.custom_vjp
    def wrapped(*args):
        with here():
            return f(*args)

    def forward(*args):
        with here():
            return jax.vjp(f, *args)

    def backward(pull_back, gradient):
        with here():  # a backward pass is traced when it is asked for
            return pull_back(gradient)

    wrapped.defvjp(forward, backward)
    return wrapped


def splash(
    q: Float[Array, "batch queries heads dim"],
    k: Float[Array, "batch keys kv_heads dim"],
    v: Float[Array, "batch keys kv_heads dim"],
    mask: Mask = Mask(),
    *,
    interpret: bool = False,
) -> Float[Array, "batch queries heads dim"]:
    """The Pallas flash kernel for TPUs: causality, windows, segments. Lengths are padded to whole blocks, out of everyone's
    sight."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    queries, keys = q.shape[1], k.shape[1]
    padded = [-(-n // _LANES) * _LANES for n in (queries, keys)]
    block = lambda n: next(b for b in (512, 384, 256, 128) if n % b == 0)
    bq, bk = map(block, padded)
    sizes = pallas.BlockSizes(block_q=bq, block_kv=bk, block_kv_compute=bk, block_q_dkv=bq, block_kv_dkv=bk,
                              block_kv_dkv_compute=bk, block_q_dq=bq, block_kv_dq=bk)
    rule = pallas.CausalMask(tuple(padded)) if mask.causal else pallas.FullMask(tuple(padded))
    if mask.window:
        back = (mask.window - 1, 0 if mask.causal else None)
        rule = pallas.LocalMask(tuple(padded), window_size=back, offset=0)
    kernel = pallas.make_splash_mha(pallas.MultiHeadMask([rule] * q.shape[2]), block_sizes=sizes, head_shards=1,
                                    q_seq_shards=1, interpret=interpret)
    pad = lambda x, n: jnp.pad(x, ((0, 0), (0, n - x.shape[1])) + ((0, 0),) * (x.ndim - 2))
    # Segment 0 is the kernel's padding; ours start above it.
    ids = lambda given, x, n: pad(jnp.ones(x.shape[:2], jnp.int32) if given is None else given.astype(jnp.int32) + 1, n)
    segments = pallas.SegmentIds(ids(mask.query_segments, q, padded[0]), ids(mask.key_segments, k, padded[1]))
    heads_first = lambda x, n: pad(x, n).swapaxes(1, 2)
    out = jax.vmap(kernel)(heads_first(q * q.shape[-1] ** -0.5, padded[0]), heads_first(k, padded[1]),
                           heads_first(v, padded[1]), segment_ids=segments)
    return out.swapaxes(1, 2)[:, :queries].astype(q.dtype)
