"""What the tests of documents, packing and their pipeline are made of."""

from __future__ import annotations

from collections.abc import Sequence
import functools

import numpy as np

from mof_jax.data.packing.sequences import Sample
from mof_jax.data.text import tokenizers

WORDS = ("a red apple and a green bus. Q: what is it? A: yes, no; USER: ASSISTANT: user assistant system helpful "
         "one two three four left right above below dog cat car how many are there in the picture").split()


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
    """A byte-pair tokenizer of a few words, upper case kept."""
    config = tokenizers.TokenizerConfig(kind="bpe", vocab_size=400, lowercase=False)
    return tokenizers.train([" ".join(WORDS)] * 3, config=config)


def sample(length: int, images: Sequence[int] = (), image_tokens: int = 4, size: int = 8, name: str = "s") -> Sample:
    """A sample with pictures at the given starts; every token is the sample's length, every text token is learned."""
    supervised = np.ones(length, bool)
    for start in images:
        supervised[start : start + image_tokens] = False
    supervised[0] = False
    pixels = tuple(np.full((size, size, 3), 1 + i, np.uint8) for i in range(len(images)))
    return Sample(name, np.full(length, length, np.int32), supervised, tuple(images), pixels, image_tokens)
