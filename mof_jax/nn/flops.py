"""Floating-point operations by formula. A multiply-add is two. XLA's own count is not used: it counts a scanned layer once."""

from __future__ import annotations

from mof_jax.nn.layers import BlockConfig


def block_flops(block: BlockConfig, tokens: int) -> float:
    """Forward FLOPs of one block on one sequence.

    Projections 2·T·4d², MLP 2·T·2·d·m (3 for SwiGLU), attention 2·2·T²·d (half of it when causal, since a causal kernel
    computes half). Norms, softmax and activations are left out, as is usual for MFU.
    """
    d, m = block.width, block.mlp_dim
    mlp = (3 if block.swiglu else 2) * d * m
    attention = 2 * tokens * d * (0.5 if block.causal else 1.0)
    return 2.0 * tokens * (4 * d * d + mlp + attention)


def attention_pool_flops(block: BlockConfig, tokens: int) -> float:
    """Forward FLOPs of a MAP head: keys and values of every token; query, output and MLP of the one probe."""
    d, m = block.width, block.mlp_dim
    return 2.0 * (tokens * 2 * d * d + 2 * d * d + 2 * tokens * d + 2 * d * m)


def training_factor(trained: bool, upstream: bool = False) -> float:
    """Forward plus backward as a multiple of forward.

    3 for a trained part (forward, gradient in its inputs, gradient in its weights); 2 for a frozen one with trained
    parameters `upstream` of it, whose gradient passes through; 1 for a frozen one below which nothing trains.
    Rematerialisation is not counted: MFU is about model FLOPs.
    """
    return 3.0 if trained else 2.0 if upstream else 1.0
