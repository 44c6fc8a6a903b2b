"""Tokenizers as the library saved them, read here: the same ids on five hundred awkward strings."""

from __future__ import annotations

import json

import awkward
import foreign
import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers
import transformers

from mof_jax.data.text import canonical
from mof_jax.data.text import tokenizers as ours
from mof_jax.interop.families import FAMILIES
from mof_jax.interop.words import read_tokenizer, tokenizer_files

pytestmark = pytest.mark.parity
STRINGS = awkward.strings()
SPACES = ["  two  and\ttabs\n\nlines ", "snake_case _x_ __init__", "ΣΑΣ ΟΔΟΣ", "haha" * 30, "▁", " ▁ ▁a", "İI ıi"]


def compare(tokenizer, theirs, strings, context):
    want = theirs(strings, padding="max_length", max_length=context, truncation=True)["input_ids"]
    got = tokenizer(strings).tolist()
    wrong = [(text, a, b) for text, a, b in zip(strings, got, want, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(strings)}: {wrong[0]}"


def test_clip(tmp_path):
    """CLIP's own vocabulary in the library's files, and the one that ships here: equal ids."""
    shipped = ours.make(ours.TokenizerConfig(kind="clip"))
    plain = json.loads(shipped._vocabulary._tokenizer.to_str())["model"]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in plain["vocab"].items()}
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(m) for m in plain["merges"]])
    theirs.save_pretrained(tmp_path)
    config = FAMILIES["clip"].read({"model_type": "clip"})
    compare(read_tokenizer(str(tmp_path), "clip", config), theirs, [*STRINGS, *SPACES], 77)


def sentencepieces(tmp_path, name, **options):
    """A SentencePiece model of the strings themselves."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(x.split()) for x in STRINGS[:400]))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(text), model_prefix=str(tmp_path / name), hard_vocab_limit=False, minloglevel=2, **options)
    return str(tmp_path / f"{name}.model")


def byte_fallback(tmp_path):
    """(vocabulary, merges) of byte pairs between spaces, bytes at the bottom: Llama's and Gemma's kind."""
    trained = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    trained.train_from_iterator(STRINGS[:300], trainers.BpeTrainer(vocab_size=700, special_tokens=special, limit_alphabet=80))
    plain = json.loads(trained.to_str())["model"]
    return plain["vocab"], [tuple(merge) for merge in plain["merges"]]


def test_siglip(tmp_path):
    """SentencePiece, in lower case and without punctuation."""
    path = sentencepieces(tmp_path, "spiece", vocab_size=700, model_type="unigram", pad_id=-1, unk_id=2, bos_id=0, eos_id=1,
                          normalization_rule_name="nmt_nfkc")
    theirs = transformers.SiglipTokenizer(path)
    config = FAMILIES["siglip"].read({"model_type": "siglip"})
    compare(read_tokenizer(str(tmp_path), "siglip", config), theirs, [*STRINGS, *SPACES], 64)


def test_siglip_2(tmp_path):
    """Gemma's byte pairs in lower case, spaces as they are; padded behind, as the models on the hub say."""
    vocabulary, merges = byte_fallback(tmp_path)
    theirs = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=merges, padding_side="right", add_bos_token=False,
                                           add_eos_token=True)
    theirs.save_pretrained(tmp_path)
    config = FAMILIES["siglip"].read({"model_type": "siglip", "text_config": {"vocab_size": 256000}})
    compare(read_tokenizer(str(tmp_path), "siglip", config), theirs, [*STRINGS, *SPACES], 64)


def as_a_language_model(tokenizer, theirs, strings):
    """Whole texts, uncut, every space kept."""
    got, want = tokenizer.encode(strings, exact=True), theirs(strings, add_special_tokens=False)["input_ids"]
    wrong = [(text, a, b) for text, a, b in zip(strings, got, want, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(strings)}: {wrong[0]}"


def test_llama(tmp_path):
    """Llama's byte pairs, as `tokenizer.json` and as Vicuna's older `tokenizer.model`. SentencePiece has no way to say a text of
    one space alone: it becomes nothing, as an empty text does; and "▁" is no space to us before the vocabulary reads it."""
    path = sentencepieces(tmp_path, "tokenizer", vocab_size=900, model_type="bpe", byte_fallback=True, pad_id=-1, unk_id=0,
                          bos_id=1, eos_id=2, normalization_rule_name="identity", remove_extra_whitespaces=False)
    theirs = transformers.LlamaTokenizer.from_pretrained(tmp_path)
    config = FAMILIES["llama"].read({"model_type": "llama"})
    older = read_tokenizer(str(tmp_path), "llama", config)
    assert older.config.kind == "sentencepiece" and path.endswith("tokenizer.model")
    as_a_language_model(older, theirs, [text for text in [*STRINGS, *SPACES] if text not in (" ", "▁")])
    assert older.encode([" "], exact=True) == [[]]
    theirs.save_pretrained(tmp_path)
    newer = read_tokenizer(str(tmp_path), "llama", config)
    assert newer.config.kind == "hf"
    as_a_language_model(newer, theirs, [*STRINGS, *SPACES])
    assert newer.bos_id == older.bos_id == theirs.bos_token_id and newer.eos_id == older.eos_id == theirs.eos_token_id


def test_qwen(tmp_path):
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(STRINGS, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>", "<|im_end|>"],
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    plain = json.loads(trained.to_str())["model"]
    theirs = transformers.Qwen2Tokenizer(vocab=plain["vocab"], merges=[tuple(m) for m in plain["merges"]], eos_token="<|im_end|>")
    theirs.save_pretrained(tmp_path)
    tokenizer = read_tokenizer(str(tmp_path), "llama", FAMILIES["llama"].read({"model_type": "qwen2"}))
    as_a_language_model(tokenizer, theirs, [*STRINGS, *SPACES])
    assert tokenizer.pad_id == theirs.pad_token_id


def test_a_small_vocabulary_of_words(tmp_path):
    foreign.vocabulary().save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="w7")
    theirs.save_pretrained(tmp_path)
    config = FAMILIES["clip"].read(foreign.CONFIGS["clip"])
    compare(read_tokenizer(str(tmp_path), "clip", config), theirs, ["w1 w2", "", "w3 " * 50, "unknown"], foreign.CONTEXT)
    assert np.array(STRINGS).shape == (500,)


# CLIP's own code repairs these (entities, ligatures, curly quotes, control characters) and the library's class does not.
TIDY = [text for text in STRINGS if canonical.tidy(text) == text and "<|" not in text]


@pytest.mark.parametrize("name", ["AutoTokenizer", "CLIPTokenizer"])
def test_the_files_of_clips_own_vocabulary_give_our_ids(name, tmp_path):
    """As an export writes them; up to the end of each text, behind which nothing is read."""
    shipped = ours.make(ours.TokenizerConfig(kind="clip"))
    for file, data in tokenizer_files(shipped, "clip", {}).items():
        (tmp_path / file).write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES["clip"].write(FAMILIES["clip"].read({"model_type": "clip"}))))
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert len(theirs) == 49408 and theirs.model_max_length == 77 and type(theirs).__name__ == "CLIPTokenizer"
    assert len(TIDY) > 150
    want, got = theirs(TIDY, truncation=True)["input_ids"], shipped(TIDY).tolist()
    wrong = [(text, a[: len(b)], b) for text, a, b in zip(TIDY, got, want, strict=True) if a[: len(b)] != b]
    assert not wrong, f"{len(wrong)} of {len(TIDY)}: {wrong[0]}"
    assert all(row[-1] == 49407 for row in want)


@pytest.mark.parametrize(
    "options", [dict(kind="bpe"), dict(kind="wordlevel"), dict(kind="bpe", lowercase=False, bos=True)], ids=str)
def test_a_vocabulary_that_was_trained_here_gives_our_ids_there(options, tmp_path):
    """With padding, and the ends that our tokenizer puts around a text."""
    trained = ours.train(STRINGS, config=ours.TokenizerConfig(vocab_size=600, context_length=24, **options))
    for file, data in tokenizer_files(trained, "clip", {}).items():
        (tmp_path / file).write_bytes(data)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in STRINGS if not any(c in text for c in "ΣΟ")]  # a final sigma is one of Python's
    want = theirs(texts, padding="max_length", max_length=24, truncation=True)["input_ids"]
    wrong = [(text, a, b) for text, a, b in zip(texts, trained(texts).tolist(), want, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[0]}"
