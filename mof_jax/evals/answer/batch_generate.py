"""Many questions to a model, in blocks that fit into memory; and the names that say how a number came about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import sys
import time
from typing import TypeVar
import zlib

import jax
from jaxtyping import Float, Int
import numpy as np

from mof_jax.data.keyed import Draws
from mof_jax.decode.respond import Generator, Prompt
from mof_jax.errors import BadExample, UserError

T = TypeVar("T")

_PICTURES = 4096  # held in memory at once; some 600 MB of COCO's
_READERS = 16  # threads: pictures may lie in an object store
_SHOTS = 31  # what a key is for

SHORT_ANSWER = "Reply with one word or a short phrase."


def ask(
    generator: Generator, items: Sequence[T], prompt: Callable[[T], Prompt], source: str, *, max_tokens: int,
    stop: Sequence[str] = (), pictures: int = 1,
) -> list[str]:
    """One greedy answer an item.

    Args:
      prompt: what an item asks; it is called from several threads, a block of items before the block's answers.
      source: who to name where a picture is bad.
      pictures: in one prompt, at most.

    Raises:
      BadExample: a picture that is missing or cannot be decoded.
    """
    answers: list[str] = []
    with _named(source):
        for prompts in _blocks(items, prompt, source, pictures):
            answers += generator.answer(prompts, max_tokens=max_tokens, stop=stop)
    return answers


def empty(answers: Sequence[str]) -> int:
    """How many answers are nothing; they count as wrong."""
    return sum(not answer.strip() for answer in answers)


def ask_likelihood(
    generator: Generator, items: Sequence[tuple[T, str]], prompt: Callable[[T], Prompt], source: str
) -> tuple[Float[np.ndarray, "items"], Int[np.ndarray, "items"]]:
    """Σ log p of the answer that stands beside each item, and the answer's number of tokens.

    Raises:
      BadExample: as `ask`.
    """
    sums, counts, done = [], [], 0
    with _named(source):
        for prompts in _blocks(items, lambda item: prompt(item[0]), source, 1):
            found = generator.log_probs(prompts, [answer for _, answer in items[done : done + len(prompts)]])
            sums.append(found[0])
            counts.append(found[1])
            done += len(prompts)
    return np.concatenate(sums), np.concatenate(counts)


def _blocks(items: Sequence[T], prompt: Callable[[T], Prompt], source: str, pictures: int) -> Iterator[list[Prompt]]:
    """The prompts of one block of items after the other; between blocks a line says how long it will take."""
    size, begun = max(1, _PICTURES // pictures), time.perf_counter()
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(items), size):
            if start and not jax.process_index():
                left = (time.perf_counter() - begun) * (len(items) / start - 1)
                print(f"{source}: {start:,} of {len(items):,} asked, {left / 60:,.0f} minutes left", file=sys.stderr, flush=True)
            yield list(pool.map(prompt, items[start : start + size]))


@contextlib.contextmanager
def _named(source: str) -> Iterator[None]:
    """Names the benchmark's file where a generator, which knows none, complains about a `prompt`."""
    try:
        yield
    except BadExample as error:
        raise BadExample(source if error.source == "prompt" else error.source, error.record, error.reason) from None


def draw_shots(seed: int, record: str, pool: Sequence[T], count: int, barred: Callable[[T], bool], source: str) -> list[T]:
    """`count` distinct examples for one question, a pure function of (seed, record, pool).

    Args:
      barred: examples that would give the answer away (the question's own picture).
      source: file of the pool, to name in an error.

    Raises:
      UserError: the pool is too small.
    """
    draws, drawn = Draws(_SHOTS, seed, zlib.crc32(record.encode())), {}
    # Rejection: the pool may hold half a million examples, of which a few are drawn.
    for _ in range(1000 + 50 * count):
        if len(drawn) == count:
            return list(drawn.values())
        at = draws.below(len(pool))
        if not barred(pool[at]):
            drawn.setdefault(at, pool[at])
    raise UserError(f"{source}: {len(pool)} examples are too few to draw {count} shots from, besides the question's own")


def named_prompt(name: str, instruction: str, default: str) -> str:
    """`name` where the instruction is the default one, else `name+` with eight digits that identify it."""
    return name if instruction == default else f"{name}+{zlib.crc32(instruction.encode()):08x}"
