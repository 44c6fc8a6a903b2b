"""How the next token is drawn from its logits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """A sampling rule.

    Attributes:
      temperature: of the softmax; 0 takes the likeliest token (greedy).
      top_p: draw from the smallest set of likeliest tokens that holds this probability (nucleus, arXiv 1904.09751).
      top_k: draw from this many of the likeliest tokens, 0 for all.
      seed: of the draws; row r of a batch draws from its own stream.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError("temperature must not be negative, top_p lies in (0, 1], top_k must not be negative")


def next_token(
    logits: Float[Array, "batch vocab"], config: SampleConfig, keys: Key[Array, "batch"]
) -> Int[Array, "batch"]:
    """One token a row."""
    if config.temperature == 0.0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = allowed(logits / config.temperature, config)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def allowed(logits: Float[Array, "batch vocab"], config: SampleConfig) -> Float[Array, "batch vocab"]:
    """Logits with every token outside of top-k and the nucleus at -inf. The likeliest one always stays."""
    ranked = jnp.sort(logits, axis=-1)[:, ::-1]
    if 0 < config.top_k < logits.shape[-1]:
        logits = jnp.where(logits < ranked[:, config.top_k - 1 : config.top_k], -jnp.inf, logits)
        ranked = jnp.sort(logits, axis=-1)[:, ::-1]
    if config.top_p < 1.0:
        probability = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability  # of the likelier ones
        least = jnp.where(before < config.top_p, ranked, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
