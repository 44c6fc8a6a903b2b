"""The files of sentence-transformers beside a BERT: which modules a text runs through, how its tokens become one feature.

    modules.json ─▶ Transformer (this folder) ─▶ Pooling (1_Pooling/config.json) ─▶ Normalize

Without them a sentence is the mean of its tokens. Features here have length one, as behind a Normalize.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.interop.values import Values
from mof_jax.interop.weights import read_json
from mof_jax.parsing import Malformed, parse_json, show

MODULES, LENGTH, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
# Ours by theirs; a sum over the root of the count has the direction of the mean, and features here have length one.
_POOLS = {"mean": "gap", "mean_sqrt_len_tokens": "gap", "cls": "first", "max": "max"}
POOLS = frozenset(_POOLS.values())
_MODES = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
          "weightedmean_tokens": "weightedmean", "lasttoken": "lasttoken"}
_TEXTS = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def pool_of(folder: str) -> str:
    """How a sentence is pooled, in our words.

    Raises:
      UserError: a module or a way of pooling that is not built here, or a prompt that is put before each text.
    """
    root, inside = _root(folder)
    if root is None:
        return "gap"
    _check_prompts(root)
    kinds = [(kind, path) for kind, path in _modules(root) if kind != "Normalize"]
    if kinds[:1] != [("Transformer", inside)] or len(kinds) > 2 or (len(kinds) == 2 and kinds[1][0] != "Pooling"):
        named = ", ".join(f"{kind} ({path})" if path else kind for kind, path in kinds)
        raise UserError(f"{storage.join(root, MODULES)}: modules {show(named, 200)}; a Transformer, a Pooling and a Normalize "
                        "are built here")
    if len(kinds) == 1:
        raise UserError(f"{storage.join(root, MODULES)}: names no Pooling, so a text has no feature")
    return _pooling(storage.join(storage.join(root, kinds[1][1]), "config.json"))


def reading_of(folder: str, positions: int) -> tuple[int, bool]:
    """(the longest text in tokens, at most `positions`; whether texts are lower-cased before the vocabulary sees them).

    Raises:
      UserError: a key that is not known.
    """
    path = storage.join(folder, LENGTH)
    if not storage.exists(path):
        return positions, False
    values = Values(read_json(path), path)
    values.only("transformer_task", "feature-extraction")
    values.only("module_output_name", "token_embeddings", None)
    values.only("modality_config", _TEXTS, None)
    values.only("processing_kwargs", {}, None)
    for key in ("query_length", "document_length", "query_expansion", "tokenizer_name_or_path"):
        values.only(key, None)
    values.free("unpad_inputs")  # the same numbers, sooner
    limit = positions if values.get("max_seq_length") is None else values.count("max_seq_length", positions, least=3)
    lower = values.get("do_lower_case") is not None and values.flag("do_lower_case", False)
    values.close()
    return min(limit, positions), lower


def files(pool: str, width: int, length: int) -> dict[str, Any]:
    """The same files of a model of ours, by name."""
    on = next(name for name, ours in _POOLS.items() if ours == pool)
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [dict(idx=i, name=str(i), path=path, type=f"sentence_transformers.models.{kind}")
               for i, (kind, path) in enumerate(kinds)]
    flags = {f"pooling_mode_{theirs}": ours == on for theirs, ours in _MODES.items()}
    return {MODULES: modules, LENGTH: dict(max_seq_length=length, do_lower_case=False),
            f"{kinds[1][1]}/config.json": dict(word_embedding_dimension=width) | flags}


def _root(folder: str) -> tuple[str | None, str]:
    """(folder of modules.json, path of the Transformer in it); a Transformer may lie in a folder of its own."""
    if storage.exists(storage.join(folder, MODULES)):
        return folder, ""
    parent, name = os.path.split(folder.rstrip("/"))
    if parent and storage.exists(storage.join(parent, MODULES)) and ("Transformer", name) in _modules(parent):
        return parent, name
    return None, ""


def _modules(root: str) -> list[tuple[str, str]]:
    """(class, folder) of each module, in order."""
    path = storage.join(root, MODULES)
    try:
        found = parse_json(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    modules = []
    for module in found if isinstance(found, list) else [None]:
        named = module if isinstance(module, Mapping) else {}
        kind, where = named.get("type"), named.get("path", "")
        if not isinstance(kind, str) or not isinstance(where, str) or os.path.basename(where) != where:
            raise UserError(f"{path}: {show(module)} is no module with a type and a folder")
        modules.append((kind.rpartition(".")[2], where))
    return modules


def _pooling(path: str) -> str:
    """Our word for a Pooling's config: one flag for each way, or one name."""
    values = Values(read_json(path), path)
    values.free("word_embedding_dimension", "embedding_dimension")  # the width, which is the model's
    values.free("include_prompt")  # there is none
    flags = {ours: values.flag(f"pooling_mode_{theirs}", False) for theirs, ours in _MODES.items()
             if f"pooling_mode_{theirs}" in values}
    named = values.get("pooling_mode")
    named = [name for name, on in flags.items() if on] or ["mean"] if named is None else named
    values.close()
    chosen = named if isinstance(named, list) else [named]
    if len(chosen) != 1 or not isinstance(chosen[0], str) or chosen[0] not in _POOLS:
        raise UserError(f"{path}: a pooling of {show(chosen)}; one of {', '.join(_POOLS)} is built here")
    return _POOLS[chosen[0]]


def _check_prompts(root: str) -> None:
    """Refuses a prompt that the library puts before every text unasked."""
    path = storage.join(root, PROMPTS)
    if not storage.exists(path):
        return
    found: dict[str, Any] = read_json(path)
    name, prompts = found.get("default_prompt_name"), found.get("prompts")
    text = prompts.get(name) if isinstance(prompts, Mapping) and isinstance(name, str) else name
    if text not in (None, ""):
        raise UserError(f"{path}: default_prompt_name {show(name)} puts {show(text)} before every text, which is not done here; "
                        "write null there, and the prompt before your texts")
