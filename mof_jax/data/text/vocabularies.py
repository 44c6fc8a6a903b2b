"""Vocabulary files and what reads them: Hugging Face `tokenizers`, CLIP's merges, SentencePiece.

`parse` makes a `Vocabulary` of a file's bytes, `train` makes such a file of counted words. Files come from outside, so
sizes, ids and rules are bounded and whatever a parser raises becomes one `UserError` that names the file. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
from typing import Any, Protocol, TypeVar
import zlib

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from mof_jax.data.text.vocabulary_bounds import MAX_IDS, check_file, check_sentencepiece
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, check_text, kind, parse_object, reason, show

T = TypeVar("T")

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


class UnreadableText(UserError):
    """A text that a vocabulary cannot split: no text, a word it lacks where it has no word for that, or a rule that gives up."""


class _Fast:
    """A vocabulary of Hugging Face's `tokenizers`."""

    def __init__(self, data: bytes, tokenizer: tokenizers.Tokenizer, special: Sequence[str | int | None]):
        self.data, self._tokenizer = data, tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "</s>" in a caption is four characters
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        if self.size > MAX_IDS:
            raise Malformed(f"has the id {self.size - 1:,}; ids below {MAX_IDS:,} are read")
        self.special = tuple(tokenizer.token_to_id(s) if isinstance(s, str) else s for s in special)
        probe = tokenizer.encode("a")
        inside = [i for i, masked in enumerate(probe.special_tokens_mask) if not masked] or [len(probe.ids)]
        self.template = (tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :]))
        if beyond := [i for i in (*self.template[0], *self.template[1]) if i >= self.size]:
            raise Malformed(f"puts the id {beyond[0]:,} around a text, and its largest is {self.size - 1:,}")

    def encode(self, texts):
        split = lambda some: [e.ids for e in self._tokenizer.encode_batch(some, add_special_tokens=False)]
        return _encode(split, list(texts))

    def decode(self, ids):
        return _guarded(lambda: self._tokenizer.decode(list(ids), skip_special_tokens=False),
                        lambda why: UnreadableText(f"tokenizer: ids that its vocabulary cannot write out: {why}"))

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
        if self.size > MAX_IDS:
            raise Malformed(f"has {self.size:,} ids; at most {MAX_IDS:,} are read")
        # Not the model's own pad id: SigLIP pads with eos, although its model has a <pad>.
        self.special = (*(i if i >= 0 else None for i in (self._model.bos_id(), self._model.eos_id())), None)

    def encode(self, texts):
        return _encode(lambda some: self._model.encode(some, out_type=int), list(texts))

    def decode(self, ids):
        return _guarded(lambda: self._model.decode(list(ids)),
                        lambda why: UnreadableText(f"tokenizer: ids that its vocabulary cannot write out: {why}"))

    def token(self, name):
        found = self._model.piece_to_id(name)
        return found if self._model.id_to_piece(found) == name else None

    def name(self, token):
        return self._model.id_to_piece(token) if 0 <= token < self.size else None


def _guarded(action: Callable[[], T], said: Callable[[str], UserError]) -> T:
    """`action()` of another library. The one in Rust raises bare `Exception`, and panics that are not even that.

    Raises:
      UserError: `said(reason)`, for whatever the library raises.
    """
    try:
        return action()
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C, exit
        raise said(reason(error)) from None


def _encode(split: Callable[[list[str]], list[list[int]]], texts: list[str]) -> list[list[int]]:
    """`split(texts)`.

    Raises:
      UnreadableText: naming the first text that cannot be split.
    """
    try:
        return _guarded(lambda: split(texts), UnreadableText)
    except UnreadableText:
        for text in texts:
            _guarded(lambda: split([text]), lambda why: _unreadable(text, why))
        raise


def _unreadable(text: Any, why: str) -> UnreadableText:
    try:
        why = check_text(text) and why if isinstance(text, str) else f"it is {kind(text)}, not text"
    except Malformed as error:
        why = str(error)
    return UnreadableText(f"tokenizer: a text that its vocabulary cannot read, {show(text)}: {why}")


def parse(kind: str, data: bytes, where: str) -> Vocabulary:
    """The vocabulary in a file's bytes; `where` is named if they are not one, or one that asks too much (`vocabulary_bounds`).

    Raises:
      UserError: they are not.
    """
    def read() -> Vocabulary:
        if len(data) > MAX_FILE:
            raise Malformed(f"{len(data):,} bytes are too many")
        if kind == "sentencepiece":
            check_sentencepiece(data)
            return _SentencePiece(data)
        if kind == "clip":
            return _Fast(data, _clip(data), ("<start_of_text>", "<end_of_text>", 0))
        check_file(parse_object(data))
        tokenizer = tokenizers.Tokenizer.from_str(data.decode())
        if kind in ("wordlevel", "bpe"):
            return _Fast(data, tokenizer, (SPECIAL[2], SPECIAL[3], SPECIAL[0]))
        bos, eos, pad = _named(tokenizer, _BOS, _EOS, _PAD)
        pad = (tokenizer.padding or {}).get("pad_id", pad)
        return _Fast(data, tokenizer, (bos, eos, pad))

    return _guarded(read, lambda why: UserError(f"{where}: not a {kind} vocabulary ({why})"))


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


def words(split: pre_tokenizers.PreTokenizer, text: str) -> list[str]:
    """The words of a text.

    Raises:
      UnreadableText: it is none (half a surrogate pair).
    """
    return [word for word, _ in _guarded(lambda: split.pre_tokenize_str(text), lambda why: _unreadable(text, why))]


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
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: is not a file (vocabulary file)")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error} (vocabulary file)") from None
