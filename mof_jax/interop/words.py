"""Tokenizer files of other libraries ↔ our `Tokenizer`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
import dataclasses
import functools
import json
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mof_jax import storage
from mof_jax.data.text.tokenizers import Tokenizer, TokenizerConfig, make
from mof_jax.data.text.vocabularies import CLIP_PATTERN
from mof_jax.errors import UserError
from mof_jax.interop import sentences
from mof_jax.interop.values import Values
from mof_jax.interop.weights import read_json
from mof_jax.parsing import Malformed, decode, is_count, is_text, show

CONFIG = "tokenizer_config.json"
# What lies beside a vocabulary and is carried as it is.
FILES = (CONFIG, "special_tokens_map.json", "generation_config.json", "chat_template.json", "chat_template.jinja")
_CLIP_VOCABULARY = 49408
_LEFT = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")  # of a file that does not say where they pad
_SIGLIP2_VOCABULARY = 256000  # Gemma's, read in lower case and padded with 0 (arXiv 2502.14786)


def read_tokenizer(folder: str, family: str, config: Any, theirs: Mapping[str, Any] | None = None) -> Tokenizer | None:
    """The tokenizer beside the weights of a family's model; None if there is none.

    Args:
      config: the model's, ours. theirs: its config file.

    Raises:
      UserError: a file that is no vocabulary, or one that is read there as it is not read here.
    """
    text = getattr(config, "text", None)
    context = {} if text is None else {"context_length": _context(folder, family, text.context_length)}
    given = {name: storage.join(folder, name) for name in ("tokenizer.json", "spiece.model", "tokenizer.model")}
    found = {name: path for name, path in given.items() if storage.exists(path)}
    if family == "bert":
        return _bert(folder, found.get("tokenizer.json"), **context)
    if family == "siglip" and "spiece.model" in found:
        return make(TokenizerConfig(kind="sentencepiece", path=found["spiece.model"], pieces="transformers", **context))
    clip = family in ("clip", "open_clip") and text.vocab_size == _CLIP_VOCABULARY
    if family == "open_clip":
        named = _of_open_clip(theirs or {}, storage.join(folder, "open_clip_config.json"))
        if named and "tokenizer.json" not in found:
            raise UserError(f"{folder}: its words are those of {show(named)} (hf_tokenizer_name), and there is no "
                            "tokenizer.json; save that tokenizer there")
        if named:
            return _padded(make(TokenizerConfig(kind="hf", path=found["tokenizer.json"], pieces="open_clip", **context)), folder)
        if clip:  # that library then reads its own
            return make(TokenizerConfig(kind="clip", **context))
    if "tokenizer.json" in found:
        lower = dict(lowercase=True, eos=True, bos=False) if family == "siglip" and text.vocab_size == _SIGLIP2_VOCABULARY else {}
        options = dict(kind="hf", path=found["tokenizer.json"], pieces="transformers")
        return _padded(make(TokenizerConfig(**options, **context, **lower)), folder)
    if family in ("llama", "llava") and "tokenizer.model" in found:
        return make(TokenizerConfig(kind="sentencepiece", path=found["tokenizer.model"], lowercase=False, strip_punctuation=False,
                                    bos=True, eos=False))
    if clip:
        _check_clip(folder)
    return make(TokenizerConfig(kind="clip", **context)) if clip else None


def _context(folder: str, family: str, positions: int) -> int:
    """Where the library cuts texts, and pads them to: the positions, or fewer if `tokenizer_config.json` says so.

    Raises:
      UserError: texts that are padded or cut in front, or not lower-cased where the family's are.
    """
    path = storage.join(folder, CONFIG)
    if family == "open_clip" or not storage.exists(path):  # OpenCLIP's own config says it
        return positions
    values = Values(read_json(path), path)
    if values.get("tokenizer_class") in _LEFT and values.get("padding_side") is None:
        raise UserError(f"{path}: leaves padding_side to {values.get('tokenizer_class')}, which pads in front; here texts are "
                        "padded behind")
    values.only("padding_side", "right", None)
    values.only("truncation_side", "right", None)
    if family == "siglip":
        values.only("do_lower_case", True, None)
    limit = values.get("model_max_length")  # the library's word for none is a number beyond any text
    return min(limit, positions) if is_count(limit) and limit > 2 else positions


def _of_open_clip(theirs: Mapping[str, Any], where: str) -> str | None:
    """The name of the Hugging Face tokenizer with which an OpenCLIP reads, None for its own.

    Raises:
      UserError: a way of reading that is not built here.
    """
    text = Values(theirs, where).section("model_cfg").section("text_cfg")
    name = text.get("hf_tokenizer_name")
    if not isinstance(name, (str, type(None))):
        raise text.wrong("hf_tokenizer_name", "is no name")
    text.only("tokenizer_mode", None)
    options = text.section("tokenizer_kwargs")
    options.only("clean", "whitespace" if name else "lower")
    options.only("strip_sep_token", False)
    options.only("language", None)
    options.close()
    return name or None


def _bert(folder: str, path: str | None, context_length: int) -> Tokenizer | None:
    """BERT's, cut where sentence-transformers or the library would cut."""
    named = read_json(storage.join(folder, CONFIG)) if storage.exists(storage.join(folder, CONFIG)) else {}
    limit, lower = sentences.reading_of(folder, context_length)
    if path is None:
        return None
    normaliser = read_json(path).get("normalizer")
    for key, inner in _BERT_NORMALISER.items():  # the library's class makes the file's rules anew by these
        if isinstance(normaliser, Mapping) and normaliser.get("type") == "BertNormalizer" and key in named:
            if named[key] != normaliser.get(inner):
                raise UserError(f"{storage.join(folder, CONFIG)}: {key} {show(named[key])} goes against the normalizer of "
                                f"tokenizer.json ({inner} {show(normaliser.get(inner))}); save the tokenizer anew")
    if lower and not _lowers(normaliser):
        raise UserError(f"{storage.join(folder, sentences.LENGTH)}: do_lower_case True, and tokenizer.json tells cases apart; "
                        "write false there and lower-case the texts before")
    tokenizer = _padded(make(TokenizerConfig(kind="hf", path=path, pieces="transformers", context_length=limit)), folder)
    if tokenizer.pad_id == tokenizer.end_id:
        raise UserError(f"{folder}: its tokenizer has no padding but the id that ends texts, {tokenizer.end_id}, and both would "
                        f"be hidden; name a pad_token in {CONFIG}")
    return tokenizer


def _lowers(normaliser: Any) -> bool:
    """Whether a normalizer of a `tokenizer.json`, or one in its sequence, makes letters small."""
    if not isinstance(normaliser, Mapping):
        return False
    inner = normaliser.get("normalizers")
    bert = normaliser.get("type") == "BertNormalizer" and normaliser.get("lowercase") is True
    return normaliser.get("type") == "Lowercase" or bert or (isinstance(inner, list) and any(map(_lowers, inner)))


_BERT_NORMALISER = {
    "do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}


def _check_clip(folder: str) -> None:
    """Refuses a vocabulary of 49,408 entries that is not CLIP's own, in the older files."""
    path = storage.join(folder, "vocab.json")
    if storage.exists(path) and read_json(path) != clip_model()["vocab"]:
        raise UserError(f"{path}: another vocabulary than CLIP's own; save its tokenizer.json beside it "
                        "(`AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`)")


def tokenizer_files(tokenizer: Tokenizer, family: str, kept: Mapping[str, Any]) -> dict[str, bytes]:
    """Files by name with which the other library reads as we do. OpenCLIP has CLIP's own vocabulary itself: no files.

    Args:
      kept: those of `FILES` that came with the tokenizer, parsed.

    Raises:
      UserError: no file of that family can say it.
    """
    config = tokenizer.config
    if config.kind == "sentencepiece":
        if family == "siglip" and not (config.lowercase and config.strip_punctuation and tokenizer.end_id is not None):
            raise UserError("tokenizer: SigLIP's files stand for captions in lower case, without punctuation and with an end; "
                            "this one reads otherwise")
        name = "spiece.model" if family == "siglip" else "tokenizer.model"
        return {name: base64.b64decode(tokenizer.save()["vocabulary"])} | _texts(kept)
    if config.kind == "clip" and family == "open_clip" and "vocabulary" not in tokenizer.save():
        return {}
    if config.kind == "clip" and family == "siglip":
        raise UserError("tokenizer: CLIP's pads with the id of '!', which no file of transformers can say beside a SigLIP, whose "
                        "last token is read")
    said = {"model_max_length": tokenizer.context_length}
    if config.kind == "clip":
        files = _clip_files(tokenizer)
        ends = {"bos_token": _CLIP_START, "eos_token": _CLIP_END, "unk_token": _CLIP_END, "pad_token": _CLIP_END}
        said |= {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "add_prefix_space": False, "errors": "replace"} | ends
        return files | _texts({CONFIG: said, "special_tokens_map.json": ends} | dict(kept))
    names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    said |= {"tokenizer_class": "PreTrainedTokenizerFast"} | {
        key: tokenizer.token(i) for key, i in names.items() if i is not None and tokenizer.token(i) is not None}
    vocabulary = base64.b64decode(tokenizer.save()["vocabulary"])
    # A file that came from there says all of it, or its class does (SigLIP 2's lower case).
    own = config.lowercase or config.strip_punctuation or config.bos is not None or config.eos is not None
    theirs = config.kind == "hf" and (config.pieces != "ours" and not own or family == "siglip" and CONFIG in kept)
    return {"tokenizer.json": vocabulary if theirs else _whole(tokenizer, vocabulary)} | _texts({CONFIG: said} | dict(kept))


def _texts(kept: Mapping[str, Any]) -> dict[str, bytes]:
    text = lambda x: x if isinstance(x, str) else json.dumps(x, indent=2, ensure_ascii=False)
    return {name: text(kept[name]).encode() for name in FILES if name in kept}


def _whole(tokenizer: Tokenizer, vocabulary: bytes) -> bytes:
    """A `tokenizer.json` with what is done around a vocabulary here: the canonical form of a text before, the ends around it."""
    made, c = tokenizers.Tokenizer.from_str(vocabulary.decode()), tokenizer.config
    steps = [normalizers.Replace("_", " "), normalizers.Replace(tokenizers.Regex(r"[!-/:-@\[-`{-~]"), "")] * c.strip_punctuation
    steps += [normalizers.Lowercase()] * c.lowercase
    if c.pieces != "transformers":
        steps += [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    made.normalizer = normalizers.Sequence([*steps, *([made.normalizer] if made.normalizer else [])])
    before, after = tokenizer.ends
    if c.kind != "hf" or c.bos is not None or c.eos is not None:
        named = [(tokenizer.token(i), i) for i in dict.fromkeys((*before, *after))]
        made.post_processor = processors.TemplateProcessing(
            single=[*map(tokenizer.token, before), "$A", *map(tokenizer.token, after)], special_tokens=named)
    return made.to_str().encode()


_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"


@functools.cache
def clip_model() -> dict[str, Any]:
    """CLIP's own vocabulary and merges, its ends as `transformers` calls them."""
    return _named_there(make(TokenizerConfig(kind="clip")).model())


def _named_there(model: Mapping[str, Any]) -> dict[str, Any]:
    names = {"<start_of_text>": _CLIP_START, "<end_of_text>": _CLIP_END}
    return {"vocab": {names.get(token, token): i for token, i in model["vocab"].items()},
            "merges": [tuple(x.split(" ")) if isinstance(x, str) else tuple(x) for x in model["merges"]]}


def _clip_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """`vocab.json` and `merges.txt`, and both with the rules of the library's class for them as `tokenizer.json`."""
    model = _named_there(tokenizer.model())
    made = tokenizers.Tokenizer(models.BPE(model["vocab"], model["merges"], unk_token=_CLIP_END, continuing_subword_prefix="",
                                           end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = tokenizers.Regex(r"<\|startoftext\|>|<\|endoftext\|>|" + CLIP_PATTERN)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([_CLIP_START, _CLIP_END])
    start, end = (model["vocab"][name] for name in (_CLIP_START, _CLIP_END))
    made.post_processor = processors.RobertaProcessing((_CLIP_END, end), (_CLIP_START, start), False, False)
    merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"]), ""])
    return {"tokenizer.json": made.to_str().encode(), "merges.txt": merges.encode(),
            "vocab.json": json.dumps(model["vocab"], ensure_ascii=False).encode()}


def read_kept(folder: str) -> dict[str, Any]:
    """Those of `FILES` that a folder has: JSON parsed, the others as text.

    Raises:
      UserError: a file that is neither.
    """
    found: dict[str, Any] = {}
    for name in FILES:
        path = storage.join(folder, name)
        if not storage.exists(path):
            continue
        try:
            found[name] = read_json(path) if name.endswith(".json") else decode(storage.read(path))
        except Malformed as error:
            raise UserError(f"{path}: {error}") from None
    return found


def _padded(tokenizer: Tokenizer, folder: str) -> Tokenizer:
    """With the padding token that `tokenizer_config.json` names, or else the older file beside it, if they name one."""
    for name in (CONFIG, "special_tokens_map.json"):
        path = storage.join(folder, name)
        pad = read_json(path).get("pad_token") if storage.exists(path) else None
        word = pad.get("content") if isinstance(pad, dict) else pad
        token = tokenizer.token_id(word) if is_text(word) else None
        if token is not None:
            return tokenizer if token == tokenizer.pad_id else make(dataclasses.replace(tokenizer.config, pad_id=token))
    return tokenizer
