"""Vocabulary files and what reads them: Hugging Face `tokenizers`, CLIP's merges, SentencePiece.

`parse` makes a `Vocabulary` of a file's bytes, `train` makes such a file of counted words. Files come from outside, so
sizes are bounded and whatever a parser raises becomes one `UserError` that names the file. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Protocol
import zlib

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from mof_jax.errors import UserError

CLIP_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
CLIP_MERGES = 49152 - 256 - 2
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")  # ids 0 to 3 of the trained kinds
MAX_FILE = 64 << 20  # bytes of a vocabulary file, unpacked


class Vocabulary(Protocol):
    """Splits canonical text into ids. `data` is the vocabulary's file, from which `parse` makes it again."""

    data: bytes
    size: int
    special: tuple[int | None, int | None, int | None]  # bos, eos, pad: as far as the file knows them
    template: tuple[tuple[int, ...], tuple[int, ...]]  # what the file itself puts before and after a text

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token(self, name: str) -> int | None: ...

    def name(self, token: int) -> str | None: ...


class _Fast:
    """A vocabulary of Hugging Face's `tokenizers`."""

    def __init__(self, data: bytes, tokenizer: tokenizers.Tokenizer, special: Sequence[str | int | None]):
        self.data, self._tokenizer = data, tokenizer
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "</s>" in a caption is four characters
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.special = tuple(tokenizer.token_to_id(s) if isinstance(s, str) else s for s in special)
        probe = tokenizer.encode("a")
        inside = [i for i, masked in enumerate(probe.special_tokens_mask) if not masked] or [len(probe.ids)]
        self.template = (tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :]))

    def encode(self, texts):
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids):
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def token(self, name):
        return self._tokenizer.token_to_id(name)

    def name(self, token):
        return self._tokenizer.id_to_token(token)

    def model(self):
        return json.loads(self._tokenizer.to_str())["model"]


class _SentencePiece:
    """A SentencePiece model."""

    template = ((), ())

    def __init__(self, data: bytes):
        self.data = data
        self._model = sentencepiece.SentencePieceProcessor()
        self._model.LoadFromSerializedProto(data)
        self.size = self._model.vocab_size()
        # Not the model's own pad id: SigLIP pads with eos, although its model has a <pad>.
        self.special = (*(i if i >= 0 else None for i in (self._model.bos_id(), self._model.eos_id())), None)

    def encode(self, texts):
        return self._model.encode(list(texts), out_type=int)

    def decode(self, ids):
        return self._model.decode(list(ids))

    def token(self, name):
        found = self._model.piece_to_id(name)
        return found if self._model.id_to_piece(found) == name else None

    def name(self, token):
        return self._model.id_to_piece(token) if 0 <= token < self.size else None


def parse(kind: str, data: bytes, where: str) -> Vocabulary:
    """The vocabulary in a file's bytes; `where` is named if they are not one."""
    try:
        if kind == "sentencepiece":
            return _SentencePiece(data)
        if kind == "clip":
            return _Fast(data, _clip(data), ("<start_of_text>", "<end_of_text>", 0))
        tokenizer = tokenizers.Tokenizer.from_str(data.decode())
        if kind in ("wordlevel", "bpe"):
            return _Fast(data, tokenizer, (SPECIAL[2], SPECIAL[3], SPECIAL[0]))
        bos, eos, pad = _named(tokenizer, _BOS, _EOS, _PAD)
        pad = (tokenizer.padding or {}).get("pad_id", pad)
        tokenizer.no_padding()
        return _Fast(data, tokenizer, (bos, eos, pad))
    except Exception as error:  # noqa: BLE001  `tokenizers` raises bare Exception
        raise UserError(f"{where}: not a {kind} vocabulary ({str(error).strip()[:200]})") from None


_BOS = ("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>")
_EOS = ("</s>", "<eos>", "[SEP]", "<|end_of_text|>", "<|endoftext|>")
_PAD = ("<pad>", "[PAD]", "<|pad|>")


def _named(tokenizer: tokenizers.Tokenizer, *names: Sequence[str]) -> list[int | None]:
    """The id of the first name a vocabulary has, for each list of names."""
    ids = [[tokenizer.token_to_id(name) for name in group] for group in names]
    return [next((i for i in group if i is not None), None) for group in ids]


def splitter(kind: str) -> pre_tokenizers.PreTokenizer:
    """Words and punctuation marks; for `bpe` words with the space before them, as bytes."""
    return pre_tokenizers.Whitespace() if kind == "wordlevel" else pre_tokenizers.ByteLevel(add_prefix_space=True)


def train(kind: str, words: Sequence[str], counts: Mapping[str, int], vocab_size: int) -> bytes:
    """A vocabulary file of kind `wordlevel` or `bpe`.

    Args:
      words: most frequent first, ties by spelling, so that equal counts give equal ids.
      counts: of each word.
      vocab_size: entries at most, `SPECIAL` included.
    """
    if kind == "wordlevel":
        words = [*SPECIAL, *words][:vocab_size]
        tokenizer = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=SPECIAL[1]))
    else:
        tokenizer = _train_pairs(words, counts, vocab_size)
    tokenizer.pre_tokenizer = splitter(kind)
    return tokenizer.to_str().encode()


def _train_pairs(words: Sequence[str], counts: Mapping[str, int], vocab_size: int) -> tokenizers.Tokenizer:
    """Byte pairs over counted words (already written in the byte alphabet)."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(SPECIAL) + len(alphabet):
        raise UserError(f"tokenizer: vocab_size {vocab_size}: bpe needs {len(SPECIAL) + len(alphabet)} for bytes alone")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((word for word in words for _ in range(counts[word])), trainer)
    plain = json.loads(tokenizer.to_str())["model"]  # without the trainer's "added tokens", which would split captions
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in plain["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(plain["vocab"], merges))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _clip(data: bytes) -> tokenizers.Tokenizer:
    """CLIP's byte pairs: bytes, bytes that end a word, the merges in order, start and end of text."""
    lines = _gunzip(data).decode().split("\n")[1 : CLIP_MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != CLIP_MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{CLIP_MERGES} merges expected")
    # The order of the byte alphabet: printable Latin-1 by code, then the stand-ins of the other bytes by theirs.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<start_of_text>", "<end_of_text>"]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, merges, end_of_word_suffix="</w>")
    tokenizer = tokenizers.Tokenizer(model)
    words = pre_tokenizers.Split(tokenizers.Regex(CLIP_PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    suffix = tokenizers.decoders.Replace("</w>", " ")
    tokenizer.decoder = tokenizers.decoders.Sequence([suffix, tokenizers.decoders.ByteLevel()])
    return tokenizer


def _gunzip(data: bytes) -> bytes:
    """The content of a gzip file, refused if it is larger than `MAX_FILE`."""
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    text = unpack.decompress(data, MAX_FILE)
    if not unpack.eof:
        raise ValueError("cut short, or too large")
    return text


def read(path: pathlib.Path) -> bytes:
    """A vocabulary file, or a `UserError` that names it."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UserError(f"{path}: {size} bytes, too large for a vocabulary")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error} (vocabulary file)") from None
