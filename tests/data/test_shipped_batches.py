"""Batches of shipped configs, bit for bit what they were: hashes written down before a batch was a set of
fields.

Of each config 12 rows (24 where documents are packed) of three steps that follow each other, in one hash:
pictures, local views, ids of tokens, groups, cursors; and some of the texts that its vocabulary is trained
on. A change that moves one of them changes the loss lines of that config.
"""

import hashlib

import numpy as np
import pytest

from mof_jax import config as configs
from mof_jax import run
from mof_jax.data.text import tokenizers
from mof_jax.tasks import TASKS

BEFORE = {
    "clip/quickstart": "972a0cbf86a2a379",
    "clip/vit_b16": "ccfae20ce7155696",
    "mllm/quickstart:clip": "8f872349b199648b",
    "mllm/quickstart:ssl": "d79df641c483d7f7",
    "mllm/quickstart:mllm": "0f211b338f7ccf6e",
    "ssl/dino_quickstart": "e9e3e87b58d7eb02",
    "ssl/mae_quickstart": "e0be724134285a1d",
    "ssl/dino_vit_l14": "c70a653ac0c69f15",
    "mof/imof:align": "0b29326f95fb22cd",
    "sweeps/clip_scaling": "8a82703afb8ce129",
    "sweeps/lm_scaling": "20ff884ed5122a4a",
}


@pytest.fixture(scope="module")
def tokenizer():
    """Of words, so that it is trained in a moment; documents keep their punctuation."""
    words = ["a dog on a red background", "How many apples are there? Where is the cat, seen from the key?", "one two three four"]
    return tokenizers.make({"kind": "wordlevel", "strip_punctuation": False, "context_length": 24}, words)


def shipped(name: str) -> run.RunConfig:
    path, _, stage = name.partition(":")
    config = configs.load(f"configs/{path}.py")
    return run.resolve_stages(config.to_dict())[stage] if stage else run.resolve(config)


def digest(config: run.RunConfig, tokenizer: tokenizers.Tokenizer) -> str:
    kind = TASKS[config.task]
    size = 24 if config.task == "mllm" else 12
    batches = kind.pipeline(config.data, kind.texts and tokenizer, size, config.seed).batches()
    found = hashlib.sha256()
    for text in kind.texts(config.data, 20) if kind.texts else ():
        found.update(text.encode() + b"\n")
    try:
        for _ in range(3):
            arrays = next(batches)[0]
            for key in sorted(arrays):
                array = np.ascontiguousarray(arrays[key])
                found.update(f"{key} {array.dtype} {array.shape} ".encode() + array.tobytes())
    finally:
        batches.close()
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", BEFORE)
def test_batches_are_what_they_were(name, tokenizer):
    assert digest(shipped(name), tokenizer) == BEFORE[name]
