"""Tokenizer files of other libraries ↔ our `Tokenizer`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from mof_jax.data import remote
from mof_jax.data.tokenizers import Tokenizer, TokenizerConfig, make
from mof_jax.errors import UserError
from mof_jax.interop.weights import read_json

CONFIG = "tokenizer_config.json"
# What lies beside a vocabulary and is carried as it is.
FILES = (CONFIG, "special_tokens_map.json", "generation_config.json", "chat_template.json", "chat_template.jinja")
_SENTENCES = "sentence_bert_config.json"  # sentence-transformers': cuts texts earlier than the positions would allow
_CLIP_VOCABULARY = 49408
_SIGLIP2_VOCABULARY = 256000  # Gemma's, read in lower case and padded with 0 (arXiv 2502.14786)


def read_tokenizer(folder: str, family: str, config: Any) -> Tokenizer | None:
    """The tokenizer beside the weights of a family's model; None if there is none.

    Args:
      config: the model's, ours.

    Raises:
      UserError: a file that is no vocabulary.
    """
    text = getattr(config, "text", None)
    context = {} if text is None else {"context_length": text.context_length}
    if family == "bert" and remote.exists(remote.join(folder, _SENTENCES)):
        limit = read_json(remote.join(folder, _SENTENCES)).get("max_seq_length")
        context = {"context_length": min(limit, text.context_length) if isinstance(limit, int) else text.context_length}
    given = {name: remote.join(folder, name) for name in ("tokenizer.json", "spiece.model", "tokenizer.model")}
    found = {name: path for name, path in given.items() if remote.exists(path)}
    if family == "siglip" and "spiece.model" in found:
        return make(TokenizerConfig(kind="sentencepiece", path=found["spiece.model"], pieces="transformers", **context))
    clip = family in ("clip", "open_clip") and text.vocab_size == _CLIP_VOCABULARY
    if clip and family == "open_clip":  # that library always reads its own
        return make(TokenizerConfig(kind="clip", **context))
    if "tokenizer.json" in found:
        lower = dict(lowercase=True, eos=True, bos=False) if family == "siglip" and text.vocab_size == _SIGLIP2_VOCABULARY else {}
        options = dict(kind="hf", path=found["tokenizer.json"], pieces="transformers")
        return _padded(make(TokenizerConfig(**options, **context, **lower)), folder)
    if family in ("llama", "llava") and "tokenizer.model" in found:
        return make(TokenizerConfig(kind="sentencepiece", path=found["tokenizer.model"], lowercase=False, strip_punctuation=False,
                                    bos=True, eos=False))
    return make(TokenizerConfig(kind="clip", **context)) if clip else None


def tokenizer_files(tokenizer: Tokenizer, family: str, kept: Mapping[str, Any]) -> dict[str, bytes]:
    """Files by name that the other library reads; empty if it needs none, or if it has none like this.

    Args:
      kept: those of `FILES` that came with the tokenizer, parsed.
    """
    kind, saved = tokenizer.config.kind, tokenizer.save()
    if "vocabulary" not in saved:  # CLIP's own: every library ships it
        return {}
    name = {"sentencepiece": "spiece.model" if family == "siglip" else "tokenizer.model"}.get(kind, "tokenizer.json")
    files = {name: base64.b64decode(saved["vocabulary"])}
    if kind != "sentencepiece":
        kept = {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.context_length}} | dict(kept)
    text = lambda x: x if isinstance(x, str) else json.dumps(x, indent=2, ensure_ascii=False)
    return files | {name: text(kept[name]).encode() for name in FILES if name in kept}


def read_kept(folder: str) -> dict[str, Any]:
    """Those of `FILES` that a folder has: JSON parsed, the others as text.

    Raises:
      UserError: a file that is neither.
    """
    found: dict[str, Any] = {}
    for name in FILES:
        path = remote.join(folder, name)
        if not remote.exists(path):
            continue
        try:
            found[name] = read_json(path) if name.endswith(".json") else remote.read(path).decode()
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text in UTF-8") from None
    return found


def _padded(tokenizer: Tokenizer, folder: str) -> Tokenizer:
    """With the padding token that `tokenizer_config.json` names, if it names one."""
    path = remote.join(folder, CONFIG)
    if not remote.exists(path):
        return tokenizer
    pad = read_json(path).get("pad_token")
    name = pad.get("content") if isinstance(pad, dict) else pad
    token = tokenizer.token_id(name) if isinstance(name, str) else None
    if token is None or token == tokenizer.pad_id:
        return tokenizer
    return make(dataclasses.replace(tokenizer.config, pad_id=token))
