"""Vocabularies of others, saved tokenizers, and texts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import pathlib

import sentencepiece
import tokenizers as hf

from mof_jax.data.text import vocabularies
from mof_jax.data.text.tokenizers import CLIP_VOCABULARY, TokenizerConfig, load, make, train

from ..harness import Seed, Target
from .samples import dumped

_TEXTS = ["a red apple", "", "zebra ßİ", "  a\n\nb "]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def _use(tokenizer) -> None:
    ids = tokenizer(_TEXTS)
    assert ids.shape == (len(_TEXTS), tokenizer.context_length) and 0 <= ids.min() and ids.max() < tokenizer.vocab_size
    tokenizer.encode(_TEXTS, exact=True)
    tokenizer.decode(ids[0])


def _wordlevel() -> bytes:
    words = [*_SPECIAL, "a", "red", "apple", "</s>"]
    made = hf.Tokenizer(hf.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = hf.normalizers.Sequence(
        [hf.normalizers.NFKC(), hf.normalizers.Lowercase(), hf.normalizers.Replace("x", "y")]
    )
    made.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    made.add_special_tokens(_SPECIAL)
    made.post_processor = hf.processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    made.enable_padding(length=20, pad_id=0)
    made.enable_truncation(16)
    return made.to_str().encode()


def _bytes_level() -> bytes:
    made = hf.Tokenizer(hf.models.BPE())
    made.pre_tokenizer, made.decoder = hf.pre_tokenizers.ByteLevel(False), hf.decoders.ByteLevel()
    made.train_from_iterator(
        ["a red apple", "a red car"],
        hf.trainers.BpeTrainer(
            vocab_size=280,
            special_tokens=["<pad>", "<unk>", "<s>", "</s>"],
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return made.to_str().encode()


def _read_hf(folder: pathlib.Path) -> None:
    _use(make(TokenizerConfig("hf", str(folder / "tokenizer.json"))))


def _read_ours(folder: pathlib.Path) -> None:
    path = next(folder.glob("*.json"))
    _use(make(TokenizerConfig(path.stem, str(path), context_length=16)))


def _seeds_of_ours() -> list[Seed]:
    return [
        Seed(
            {f"{kind}.json": base64.b64decode(train(_TEXTS, 300, 16, kind).save()["vocabulary"])},
            {f"{kind}.json": "json"},
        )
        for kind in ("bpe", "wordlevel")
    ]


def _sentencepiece() -> bytes:
    out = io.BytesIO()
    lines = [f"{a} {b} number {i}" for i in range(20) for a in ("red", "green") for b in ("apple", "car", "cat")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


def _read_pieces(folder: pathlib.Path) -> None:
    for pieces in ("ours", "transformers"):
        _use(make(TokenizerConfig("sentencepiece", str(folder / "x.model"), pieces=pieces)))


def _read_merges(folder: pathlib.Path) -> None:
    """CLIP's merges, packed again: what changes is the text, not the archive around it."""
    (folder / "x.txt.gz").write_bytes(gzip.compress((folder / "x.txt").read_bytes(), 0))
    _use(make(TokenizerConfig("clip", str(folder / "x.txt.gz"))))


def _seeds_of_saved() -> list[Seed]:
    return [
        Seed({"x.json": dumped(train(_TEXTS, 300, 16, kind).save())}, {"x.json": "json"})
        for kind in ("bpe", "wordlevel")
    ]


def _read_saved(folder: pathlib.Path) -> None:
    """Sealed again, where that is what was changed."""
    try:
        found = json.loads((folder / "x.json").read_bytes())
        if not isinstance(found, dict):
            return
        found["sha256"] = hashlib.sha256(base64.b64decode(found["vocabulary"])).hexdigest()
    except (ValueError, RecursionError, TypeError, KeyError):
        if "found" not in locals() or not isinstance(found, dict):
            return
    _use(load(found))


_TOKENIZERS = [train(_TEXTS, 300, 16, kind) for kind in ("bpe", "wordlevel")]


def _read_texts(folder: pathlib.Path) -> None:
    """Any text of JSON becomes ids or one line."""
    data = (folder / "x.json").read_bytes()
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = data.decode("latin-1")
    texts = found if isinstance(found, list) else [found]
    for tokenizer in _TOKENIZERS:
        ids = tokenizer([text if isinstance(text, str) else repr(text)[:1000] for text in texts])
        assert ids.shape == (len(texts), tokenizer.context_length) and (ids < tokenizer.vocab_size).all()


TARGETS = [
    Target(
        "tokenizer-json",
        lambda: [Seed({"tokenizer.json": data}, {"tokenizer.json": "json"}) for data in (_wordlevel(), _bytes_level())],
        _read_hf,
    ),
    Target("tokenizer-ours", _seeds_of_ours, _read_ours),
    Target("sentencepiece", lambda: [Seed({"x.model": _sentencepiece()}, {"x.model": "bytes"})], _read_pieces, 0.5),
    Target(
        "clip-merges",
        lambda: [Seed({"x.txt": gzip.decompress(vocabularies.read(CLIP_VOCABULARY))}, {"x.txt": "bytes"})],
        _read_merges,
        0.02,
        long=True,
    ),
    Target("tokenizer-saved", _seeds_of_saved, _read_saved),
    Target(
        "texts", lambda: [Seed({"x.json": dumped(["a red apple", "x", "日本 ß"])}, {"x.json": "json"})], _read_texts
    ),
]
