"""Vocabulary files from anywhere: bounded in ids, padding and what their rules make of a text; whatever fails is one line."""

import base64
import copy
import io
import json
import struct

import numpy as np
import pytest
import sentencepiece

from mof_jax.config import build
from mof_jax.data.load import DataConfig, Loader
from mof_jax.data.mixture import Located
from mof_jax.data.packing.documents import Document
from mof_jax.data.packing.sequences import Text, encode
from mof_jax.data.record import Record
from mof_jax.data.text.tokenizers import load, make, train
from mof_jax.data.text.vocabularies import UnreadableText
from mof_jax.data.text.vocabulary_bounds import check_sentencepiece
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed

FILE = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"a": 0, "<unk>": 1, "b": 2, "aa": 3, "<pad>": 4}}}


@pytest.fixture
def made(tmp_path):
    """The tokenizer of a file that differs from `FILE` in some parts."""
    def made(kind="hf", model=None, eos=False, **parts):
        spec = {**copy.deepcopy(FILE), **parts}
        spec["model"] |= model or {}
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(spec))
        return make({"kind": kind, "path": str(path), "eos": eos, "context_length": 8})

    return made


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*rules, name="normalizers"):
    return {"type": "Sequence", name: list(rules)}


def string(text):
    return {"String": text}


def regex(text):
    return {"Regex": text}


TABLE = struct.pack("<I", 4) + b"trie"  # and the forms behind it


@pytest.mark.parametrize("parts, says", [
    ({"normalizer": sequence(*[replace(string("a"), "a" * 1000)] * 3)}, "may make a text 1,000,000,000 times as long"),
    ({"normalizer": replace(string("a"), "b" * 65)}, "may make a text 65 times as long; at most 64 are read"),
    ({"normalizer": sequence(*[replace(string("a"), "aa")] * 7)}, "128 times"),
    ({"normalizer": sequence(sequence(replace(string("a"), "a" * 10)), replace(string("a"), "a" * 10))}, "100 times"),
    ({"normalizer": sequence(*[replace(regex(""), "x")] * 7)}, "128 times"),
    ({"normalizer": sequence(*[replace(regex("(?=a)"), "x")] * 7)}, "128 times"),
    ({"normalizer": sequence(*[replace(regex("a*"), "x")] * 7)}, "128 times"),
    ({"normalizer": sequence(*[replace(regex("a\\K"), "x")] * 7)}, "128 times"),
    ({"normalizer": replace(regex("\\p{L}"), "x" * 65)}, "65 times"),
    ({"normalizer": replace(string(""), "x" * 64)}, "65 times"),
    ({"normalizer": sequence(*[{"type": "ByteLevel"}] * 4)}, "256 times"),
    ({"pre_tokenizer": sequence(*[{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}] * 4,
                                name="pretokenizers")}, "256 times"),
    ({"normalizer": replace(string("a"), "a" * 20),
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}, "80 times"),
    ({"decoder": sequence(*[replace(string("a"), "a" * 10)] * 2, name="decoders")}, "its decoder may make a text 100 times"),
    ({"normalizer": {"type": "Prepend", "prepend": "x" * 257}}, "puts 257 letters before every text"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(TABLE + b"ok\0" + b"y" * 257).decode()}},
     "turns a character into 257 bytes"),
    ({"model": {"vocab": {"a": 0, "<unk>": 1, "b": 4294967295}}}, "has the id 4,294,967,295; ids below 4,194,304 are read"),
    ({"model": {"vocab": {"a": 0, "<unk>": 1, "b": 1 << 22}}}, "has the id 4,194,304"),
    ({"model": {"vocab": {"a": 0, "<unk>": 1, "b": 1 << 32}}}, "not a hf vocabulary"),
    ({"model": {"vocab": {}}}, "not a hf vocabulary"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}}, "drops merges at random"),
    ({"model": {"type": "WordPiece", "continuing_subword_prefix": "x" * 257, "max_input_chars_per_word": 100}}, "257 letters"),
    ({"model": {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 10**6}}, "max_input_chars"),
    ({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}},
                                                                  {"Sequence": {"id": "A", "type_id": 0}}],
                         "pair": [], "special_tokens": {"x": {"id": "x", "ids": [99], "tokens": ["x"]}}}},
     "puts the id 99 around a text, and its largest is 4"),
])
def test_what_asks_too_much_is_refused_by_name(made, parts, says):
    with pytest.raises(UserError, match=f"tokenizer.json: .*{says}") as caught:
        made(**parts)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("normalizer", [
    replace(regex("\\s+"), " "), replace(string(" "), "▁"), sequence(*[replace(regex(" {2,}"), " ")] * 40),
    sequence(*[replace(regex("\\p{Z}"), " ")] * 40), sequence({"type": "Prepend", "prepend": "▁"}, replace(string(" "), "▁")),
    sequence({"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}), replace(string("``"), '"'),
    replace(string("\n"), "<newline>"), {"type": "ByteLevel"},
])
def test_rules_that_vocabularies_have_are_read(made, normalizer):
    assert made(normalizer=normalizer).vocab_size == 5


@pytest.mark.parametrize("kind", ["hf", "wordlevel", "bpe"])
def test_padding_and_truncation_of_the_file_are_not_obeyed(made, kind):
    padding = {"strategy": {"Fixed": 200_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 4,
               "pad_type_id": 0, "pad_token": "<pad>"}
    truncation = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    tokenizer = made(kind, padding=padding, truncation=truncation)
    assert tokenizer.encode(["a b a"]) == [[0, 2, 0]] and tokenizer(["a b"]).tolist() == [[0, 2, 4, 4, 4, 4, 4, 4]]


UNREADABLE = {
    "unknown word": ({"model": {"unk_token": "[UNK]"}}, "a zzz", "Missing \\[UNK\\] token|WordLevel error"),
    "backtracking": ({"pre_tokenizer": sequence(
        {"type": "Whitespace"}, {"type": "Split", "pattern": regex("(?:a|aa)+c"), "behavior": "Isolated", "invert": False},
        name="pretokenizers")}, "a" * 60 + "b", "retry-limit"),
    "surrogate": ({}, "a \ud83d cat", "half a surrogate pair"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_text_that_a_vocabulary_cannot_read_is_one_line(made, name):
    parts, text, says = UNREADABLE[name]
    tokenizer = made(**parts)
    assert tokenizer.encode(["a", "aa"]) == [[0], [3]]
    for read in (tokenizer, tokenizer.encode, lambda texts: tokenizer.encode(texts, exact=True)):
        with pytest.raises(UnreadableText, match=f"a text that its vocabulary cannot read, '.*: .*({says})") as caught:
            read(["a", text, "b"])
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert tokenizer.encode(["a", "aa"]) == [[0], [3]]


@pytest.mark.parametrize("text", [3, None, ["a"], b"a"])
def test_what_is_no_text_is_one_line(made, text):
    with pytest.raises(UnreadableText, match="it is .*, not text"):
        made()._vocabulary.encode(["a", text])


@pytest.mark.parametrize("name", UNREADABLE)
def test_such_a_text_is_one_bad_example_of_a_run(made, name, monkeypatch):
    parts, text, says = UNREADABLE[name]

    class Captions:
        name = "captions"

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return Record(f"r{index}", None, {"alt": (text if index == 2 else "a b",)})

    monkeypatch.setattr("mof_jax.data.reader.open_source", lambda config: Captions())
    where = Located(np.zeros(6, int), np.arange(6), np.zeros(6, int))
    config = {"sources": [{"kind": "jsonl", "path": "x", "name": "captions"}], "views": 0}
    rows = Loader(build(DataConfig, {**config, "on_error": "skip"}), made(**parts), 0).rows(where)
    assert [found for found, _ in rows.replaced] == ["captions:r2"] and rows.arrays["text"].shape == (6, 1, 8)
    assert (rows.arrays["text"][:, 0, :2] == [0, 2]).all()
    with pytest.raises(BadExample, match=f"captions: record r2: .*({says})"):
        Loader(build(DataConfig, config), made(**parts), 0).rows(where)
    with pytest.raises(BadExample, match=f"documents: record d: .*({says})"):
        encode(Document("d", "text", (Text(text, True),)), made(**parts), 1, 99)


def test_a_vocabulary_is_not_trained_on_half_characters():
    for kind in ("wordlevel", "bpe"):
        with pytest.raises(UnreadableText, match="half a surrogate pair"):
            train(["a cat", "a \ud83d"], kind=kind, vocab_size=300)


@pytest.mark.parametrize("values, says", [
    ({"context_length": 1 << 33}, "at least 1, at most 1048576"), ({"context_length": 0}, "at least 1"),
    ({"vocab_size": 1 << 23}, "vocab_size 8388608: at most 4194304")])
def test_sizes_are_bounded_in_configs_and_in_what_was_saved(values, says):
    with pytest.raises(UserError, match=says):
        make({"kind": "wordlevel", **values}, ["a cat"])
    saved = train(["a cat"], kind="wordlevel").save()
    with pytest.raises(UserError, match=says):
        load({**saved, "config": {**saved["config"], **values}})


@pytest.mark.parametrize("change", [
    {"config": 3}, {"config": []}, {"config": None}, {"schema": []}, {"vocabulary": 3}, {"vocabulary": "\ud83d"},
    {"sha256": None}, {"vocabulary": base64.b64encode(b"[" * 10**5).decode()}])
def test_what_was_saved_is_looked_at(change):
    with pytest.raises(UserError, match="saved tokenizer"):
        load({**train(["a cat"], kind="wordlevel").save(), **change})


def test_an_interrupt_passes(made, monkeypatch):
    tokenizer = made()

    class Stopped:
        def encode_batch(self, texts, add_special_tokens):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer._vocabulary, "_tokenizer", Stopped())
    with pytest.raises(KeyboardInterrupt):
        tokenizer(["a"])


# SentencePiece


def model(tmp_path, rule: str = "") -> str:
    lines, out = [f"a cat {n} b" for n in range(60)], io.BytesIO()
    options = {}
    if rule:
        (tmp_path / "rules.tsv").write_text(rule)
        options["normalization_rule_tsv"] = str(tmp_path / "rules.tsv")
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, vocab_size=30,
                                             hard_vocab_limit=False, minloglevel=2, **options)
    (tmp_path / "s.model").write_bytes(out.getvalue())
    return str(tmp_path / "s.model")


def test_sentencepiece_forms_are_bounded(tmp_path):
    letters = lambda n: "62 " * (n - 1) + "62"
    assert make({"kind": "sentencepiece", "path": model(tmp_path)}).encode(["a cat"])[0]
    assert make({"kind": "sentencepiece", "path": model(tmp_path, f"7A\t{letters(200)}\n")}).encode(["z"])[0]
    with pytest.raises(UserError, match="s.model: .*its table of forms turns a character into 300 bytes"):
        make({"kind": "sentencepiece", "path": model(tmp_path, f"7A\t{letters(300)}\n")})


def test_sentencepiece_texts(tmp_path):
    tokenizer = make({"kind": "sentencepiece", "path": model(tmp_path)})
    with pytest.raises(UnreadableText, match=r"'a \\ud83d': half a surrogate pair"):
        tokenizer(["a cat", "a \ud83d"])


@pytest.mark.parametrize("data", [
    b"\x1a\xff\xff\xff\xff\x7f", b"\x80" * 20, b"\x1b", b"\x1a\x06\x12\x04\xff\xff\xff\x7f", b"\x1a\x05\x12\x03abc"])
def test_damaged_models_are_one_line(data):
    with pytest.raises(Malformed, match="damaged"):
        check_sentencepiece(data)
