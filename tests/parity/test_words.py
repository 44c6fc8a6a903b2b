"""Tokenizers as the library saved them, read here: the same ids on five hundred awkward strings."""

from __future__ import annotations

import json

import awkward
import foreign
import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
import transformers

from mof_jax.data import tokenizers as ours
from mof_jax.interop.families import FAMILIES
from mof_jax.interop.words import read_tokenizer

pytestmark = pytest.mark.parity
STRINGS = awkward.strings()


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
    compare(read_tokenizer(str(tmp_path), "clip", config), theirs, STRINGS, 77)


def test_byte_pairs_of_a_language_model(tmp_path):
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trained.train_from_iterator(STRINGS, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>", "<|im_end|>"],
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    theirs.save_pretrained(tmp_path)
    tokenizer = read_tokenizer(str(tmp_path), "llama", FAMILIES["llama"].read({"model_type": "qwen2"}))
    assert tokenizer.encode(STRINGS, exact=True) == theirs(STRINGS)["input_ids"]
    assert tokenizer.pad_id == theirs.pad_token_id


def test_siglip(tmp_path):
    """SentencePiece, in lower case and without punctuation. Two kinds of strings are left out: with an underscore, which the
    library deletes and big_vision, in which SigLIP was trained, reads as a space (so do we); and three hundred x, whose splits
    tie."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(x.split()) for x in STRINGS[:400]))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(text), model_prefix=str(tmp_path / "spiece"), vocab_size=700, model_type="unigram", pad_id=-1, unk_id=2,
        bos_id=0, eos_id=1, hard_vocab_limit=False, minloglevel=2, normalization_rule_name="nmt_nfkc")
    theirs = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    config = FAMILIES["siglip"].read({"model_type": "siglip"})
    strings = [text for text in STRINGS if "_" not in text and text != "x" * 300]
    assert len(strings) > 450
    compare(read_tokenizer(str(tmp_path), "siglip", config), theirs, strings, 64)


def test_a_small_vocabulary_of_words(tmp_path):
    foreign.vocabulary().save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="w7")
    theirs.save_pretrained(tmp_path)
    config = FAMILIES["clip"].read(foreign.CONFIGS["clip"])
    compare(read_tokenizer(str(tmp_path), "clip", config), theirs, ["w1 w2", "", "w3 " * 50, "unknown"], foreign.CONTEXT)
    assert np.array(STRINGS).shape == (500,)
