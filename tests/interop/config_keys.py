"""Every key of a config file, each with other values: what the tests that leave none out walk over."""

from __future__ import annotations

from collections.abc import Iterator
import copy
import json
from typing import Any

from parity_cases import FIXTURES

from mof_jax.errors import UserError
from mof_jax.interop.families import FAMILIES, family_of
from mof_jax.interop.family import Family
from mof_jax.interop.values import Values

# As the libraries write them, every key, with small sizes: scripts/make_parity_fixtures.py.
FULL: dict[str, dict[str, Any]] = json.loads((FIXTURES / "configs.json").read_text())
# What the base class of transformers wrote into every section before its fifth version.
BEFORE = dict(
    torch_dtype="float32", torchscript=False, use_bfloat16=False, pruned_heads={}, tie_encoder_decoder=False, max_length=20,
    min_length=0, do_sample=False, num_beams=1, temperature=1.0, top_k=50, top_p=1.0, repetition_penalty=1.0, bad_words_ids=None,
    output_scores=False, finetuning_task=None, tokenizer_class=None, prefix=None, sep_token_id=None, task_specific_params=None,
    cross_attention_hidden_size=None, add_cross_attention=False, is_decoder=False, exponential_decay_length_penalty=None)

Path = tuple[str, ...]


def family(kind: str, theirs: dict[str, Any]) -> Family:
    """Of one of `FULL`."""
    return FAMILIES["open_clip"] if kind == "open_clip" else family_of(theirs, "config.json")


def walk(theirs: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every key, sections too; names of classes are one value."""
    for key, value in theirs.items():
        yield (*path, key), value
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            yield from walk(value, (*path, key))


def changed(theirs: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy with one value replaced."""
    made = copy.deepcopy(theirs)
    section = made
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return made


def others(path: Path, value: Any) -> list[Any]:
    """Values of the same kind that are not this one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value + (value == 0), value - 1] if value > 1 else [value + 1]
    if isinstance(value, float):
        return [2 * value + 0.5 * (value == 0)]
    if isinstance(value, str):
        named = {"hidden_act": ["gelu", "quick_gelu", "gelu_new", "relu", "silu"], "model_type": [],
                 "pool_type": ["tok", "avg", "none", "argmax", "eos", "last", "first"],
                 "act_layer": ["quick_gelu", "gelu_tanh", "relu"], "global_pool": ["token", "avg", "map", "max"]}
        return [x for x in named.get(path[-1], [value + "x"]) if x != value]
    if value is None:
        return [3, 0.25, "x", True]
    return [[*value, *value], []] if isinstance(value, list) else []


def read(kind: str, theirs: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """(our config, what became of each key), or `UserError`."""
    values = Values(theirs, "config.json")
    return family(kind, theirs).read(values), values.known


def refused(kind: str, theirs: dict[str, Any]) -> str | None:
    """The line that refuses a config, None if it is read."""
    try:
        read(kind, theirs)
    except UserError as error:
        return str(error)
    return None
