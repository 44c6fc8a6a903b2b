"""Generation: the prompt is read once into a key-value cache, then one token a step; and log-probabilities of given answers.

Prompts are embeddings, so image tokens stand in them like words. Rows may be of different lengths: they are padded behind, and
what is behind a row's end is never seen. Everything is one compiled program a (batch, room) shape.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mof_jax.decode.sample import SampleConfig, next_token
from mof_jax.models.llm import LLM
from mof_jax.nn.decoder import KVCache
from mof_jax.objectives.language import token_log_probs


class Reading(NamedTuple):
    """Rows that are being continued.

    Attributes:
      cache: of what was read. lengths: tokens read, a row. logits: of each row's next token.
      done: rows that have ended. count: tokens generated.
    """

    cache: KVCache
    lengths: Int[Array, "batch"]
    logits: Float[Array, "batch vocab"]
    done: Bool[Array, "batch"]
    count: Int[Array, ""]


def read(
    llm: LLM, prompts: Float[Array, "batch tokens width"], lengths: Int[Array, "batch"], room: int, dtype: jnp.dtype
) -> Reading:
    """Reads ragged prompts; `room` tokens may follow each of them."""
    rows, tokens, _ = prompts.shape
    cache = llm.empty_cache(rows, tokens + room, dtype)
    hidden, cache = llm.extend(prompts, cache, jnp.zeros_like(lengths), dtype=dtype)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return Reading(cache, lengths, llm.logits(last), jnp.zeros(rows, bool), jnp.int32(0))


def advance(
    llm: LLM,
    reading: Reading,
    steps: int,
    config: SampleConfig,
    eos_id: int,
    keys: Key[Array, "batch"],
    dtype: jnp.dtype,
) -> tuple[Reading, Int[Array, "batch steps"]]:
    """`steps` more tokens a row, fewer if all rows end before; rows that have ended repeat `eos_id`."""
    rows = reading.lengths.shape[0]
    out = jnp.full((rows, steps), eos_id, jnp.int32)

    def more(carry: tuple[Reading, Array]) -> Array:
        return (carry[0].count < reading.count + steps) & ~carry[0].done.all()

    def step(carry: tuple[Reading, Array]) -> tuple[Reading, Array]:
        now, out = carry
        draw = jax.vmap(lambda key: jax.random.fold_in(key, now.count))(keys)
        token = jnp.where(now.done, eos_id, next_token(now.logits, config, draw))
        done = now.done | (token == eos_id)
        hidden, cache = llm.extend(llm.embed(token)[:, None].astype(dtype), now.cache, now.lengths, dtype=dtype)
        out = jax.lax.dynamic_update_slice(out, token[:, None], (0, now.count - reading.count))
        return Reading(cache, now.lengths + ~done, llm.logits(hidden[:, 0]), done, now.count + 1), out

    return jax.lax.while_loop(more, step, (reading, out))


def generate(
    llm: LLM,
    prompts: Float[Array, "batch tokens width"],
    lengths: Int[Array, "batch"],
    max_tokens: int,
    config: SampleConfig = SampleConfig(),
    *,
    eos_id: int,
    dtype: jnp.dtype = jnp.float32,
) -> Int[Array, "batch max_tokens"]:
    """Continuations of ragged prompts, `eos_id` behind their ends.

    Args:
      prompts: embeddings, row b's in its first `lengths[b]` places.
    """
    base = jax.random.key(config.seed, impl="threefry2x32")
    keys = jax.vmap(functools.partial(jax.random.fold_in, base))(jnp.arange(prompts.shape[0]))
    reading = read(llm, prompts, lengths, max_tokens, dtype)
    return advance(llm, reading, max_tokens, config, eos_id, keys, dtype)[1]


def answer_log_probs(
    llm: LLM,
    prompts: Float[Array, "batch tokens width"],
    lengths: Int[Array, "batch"],
    answers: Int[Array, "batch answer"],
    answer_lengths: Int[Array, "batch"],
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, "batch"]:
    """Σ log p(token) of each row's answer after its prompt, both ragged."""
    rows, tokens, width = prompts.shape
    room = answers.shape[1]
    place = jax.vmap(lambda x, y, at: jax.lax.dynamic_update_slice(x, y, (at, 0)))
    x = place(jnp.pad(prompts, ((0, 0), (0, room), (0, 0))), llm.embed(answers).astype(prompts.dtype), lengths)
    positions = jnp.broadcast_to(jnp.arange(tokens + room), (rows, tokens + room))
    hidden = llm(x, positions, dtype=dtype)
    # The token before an answer's first one predicts it.
    where = lengths[:, None] - 1 + jnp.arange(room)
    log_probs = token_log_probs(jnp.take_along_axis(hidden, where[:, :, None], axis=1), llm.head, answers)
    return jnp.where(jnp.arange(room) < answer_lengths[:, None], log_probs, 0.0).sum(-1)
