"""Captions to token ids, one interface for every vocabulary.

    kind            vocabulary                                   around the text    padding    context
    bpe, wordlevel  trained on the captions of the run           … eos              <pad>      32
    clip            CLIP's 49,408 byte pairs, shipped here       bos … eos          0          77
    sentencepiece   a `.model` file (SigLIP, T5, Gemma, LLaMA)   … eos              eos        64
    hf              any Hugging Face `tokenizer.json`            as the file says   its own    77

A tokenizer is its resolved config plus its vocabulary; `save` returns both as plain JSON, so that they travel inside a
checkpoint and evaluation cannot read captions in another way than training did. Nothing is unpickled. Text that spells
a special token is read as text: a caption cannot end itself with "</s>".

Parity: `clip` equals OpenCLIP's tokenizer, except that mis-decoded text (mojibake, repaired there by ftfy) is left as
it is. `sentencepiece` with its defaults is SigLIP's; SigLIP 2 has `strip_punctuation=False, pad_id=0`. Where `transformers`
reads a caption in another way than the code that a model was trained with, `pieces="transformers"` does as it does.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any, Literal

from jaxtyping import Int32
import numpy as np

from mof_jax import config as configs
from mof_jax.data.text import vocabularies
from mof_jax.data.text.canonical import canonical, tidy
from mof_jax.data.text.vocabulary_bounds import MAX_CONTEXT, MAX_IDS
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, reason
from mof_jax.ranges import Count, Whole
from mof_jax.storage import expand

SCHEMA = 1
CLIP_VOCABULARY = pathlib.Path(__file__).parent / "vocab" / "bpe_simple_vocab_16e6.txt.gz"

_DEFAULTS = {  # context length, lower-case, strip punctuation, bos, eos; None: as the vocabulary file says
    "wordlevel": (32, True, False, False, True),
    "bpe": (32, True, False, False, True),
    "clip": (77, True, False, True, True),
    "sentencepiece": (64, True, True, False, True),
    "hf": (77, False, False, None, None),
}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """What a config says about text; None takes the kind's default (the table above).

    Attributes:
      kind: which vocabulary.
      path: the vocabulary file (`.model`, `tokenizer.json`, a CLIP merges file); None for CLIP's own or one to train. For
        `run`, the work dir of the run whose tokenizer is used, as it is, or `hf:FOLDER` of another library's model.
      vocab_size: entries a trained vocabulary may have, special tokens included, at most 4,194,304; otherwise ignored.
      records: of each source, evenly spread, that a vocabulary is trained on.
      context_length: tokens a caption, special tokens included, at most 1,048,576; longer captions are cut and keep their eos.
      lowercase, strip_punctuation: canonical form of the text before it is split.
      bos, eos: whether the token is added.
      pad_id: what fills the rest.
      pieces: whose ids these are where libraries differ. `transformers`: of a `sentencepiece` caption whose punctuation is
        stripped (SigLIP), `_` is deleted with it, and the text is split behind "<unk>▁", which decides ties in a long run of
        one letter; under `hf` spaces stay as they are, for the file's own rules, and letters are lower-cased one by one (a
        final Σ is no ς). `open_clip`: under `hf` the text is tidied as CLIP's is.
    """

    kind: Literal["wordlevel", "bpe", "clip", "sentencepiece", "hf", "run"] = "bpe"
    path: str | None = None
    vocab_size: Count = 4096
    records: Count = 100_000
    context_length: Count | None = None
    lowercase: bool | None = None
    strip_punctuation: bool | None = None
    bos: bool | None = None
    eos: bool | None = None
    pad_id: Whole | None = None
    pieces: Literal["ours", "transformers", "open_clip"] = "ours"

    def __post_init__(self):
        if self.context_length is not None and not 1 <= self.context_length <= MAX_CONTEXT:
            raise ValueError(f"context_length {self.context_length}: at least 1, at most {MAX_CONTEXT}")
        if self.records < 1:
            raise ValueError(f"records {self.records}: at least 1")
        if self.kind == "run" and not self.path:
            raise ValueError("kind 'run' needs path, the work dir of another run")
        if self.kind in ("wordlevel", "bpe") and self.vocab_size <= len(vocabularies.SPECIAL):
            raise ValueError(f"vocab_size {self.vocab_size}: at least {len(vocabularies.SPECIAL) + 1}")
        if self.kind in ("wordlevel", "bpe") and self.vocab_size > MAX_IDS:
            raise ValueError(f"vocab_size {self.vocab_size}: at most {MAX_IDS}")

    def resolved(self) -> TokenizerConfig:
        """The config with the kind's defaults filled in."""
        names = ("context_length", "lowercase", "strip_punctuation", "bos", "eos")
        missing = {n: v for n, v in zip(names, _DEFAULTS[self.kind]) if getattr(self, n) is None}
        return dataclasses.replace(self, **missing)


class Tokenizer:
    """Texts → ids. Made by `make`, `train` or `load`; safe to call from many threads.

    Attributes:
      config: with every default filled in.
      vocab_size: number of ids; every id is below it.
      context_length: columns of the result.
      pad_id: id after the end of the text.
      bos_id, eos_id: ids around the text, None where the kind has no such token.
      end_id: the id that every text ends with, None if nothing is put there.
    """

    def __init__(self, config: TokenizerConfig, vocabulary: vocabularies.Vocabulary):
        self.config = config = config.resolved()
        self._vocabulary = vocabulary
        self.vocab_size, self.context_length = vocabulary.size, config.context_length
        bos, eos, pad = vocabulary.special
        before, after = vocabulary.template
        self._before = before if config.bos is None else self._edge(config.bos, bos, "bos")
        self._after = after if config.eos is None else self._edge(config.eos, eos, "eos")
        self.bos_id = self._before[0] if self._before else bos
        self.eos_id = self._after[-1] if self._after else eos
        default = next(i for i in (pad, self.eos_id, 0) if i is not None)
        self.pad_id = default if config.pad_id is None else config.pad_id
        self.end_id = self._after[-1] if self._after else None
        self._room = self.context_length - len(self._before) - len(self._after)
        if self._room < 1:
            raise UserError(f"tokenizer: context_length {self.context_length} leaves no room for text")
        if not 0 <= self.pad_id < self.vocab_size:
            raise UserError(f"tokenizer: pad_id {self.pad_id} is not an id of a vocabulary of {self.vocab_size}")

    def _edge(self, wanted: bool, token: int | None, name: str) -> tuple[int, ...]:
        if wanted and token is None:
            raise UserError(f"tokenizer: {self.config.path or self.config.kind} has no {name} token; set {name}=False")
        return (token,) if wanted else ()

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "n context"]:
        """Ids of each text, cut to the context (eos kept) and padded to it."""
        ids = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        for row, tokens in zip(ids, self.encode(texts)):
            tokens = [*self._before, *tokens[: self._room], *self._after]
            row[: len(tokens)] = tokens
        return ids

    def encode(self, texts: Sequence[str], exact: bool = False) -> list[list[int]]:
        """Ids of each text, without special tokens, uncut.

        Args:
          exact: keep spaces and line breaks as they are, so that the ids of consecutive pieces of a document, joined, are
            those of a language model's text. A vocabulary that puts one more space before every text itself
            (SentencePiece) takes that one from the text.

        Raises:
          UnreadableText: a text that the vocabulary cannot split.
        """
        if isinstance(texts, str):
            raise TypeError("a list of texts is expected; one string would be read letter by letter")
        if exact:
            return self._vocabulary.encode([self._piece(text) for text in texts])
        found = self._vocabulary.encode([self._lead + self.canonical(text) for text in texts])
        return [ids[self._lead_ids:] for ids in found] if self._lead else found

    def token_id(self, name: str) -> int | None:
        """The id of the token spelled `name`, special tokens included; None if the vocabulary has no such token."""
        return self._vocabulary.token(name)

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that are put before and behind every text."""
        return self._before, self._after

    def token(self, number: int) -> str | None:
        """How the token of an id is spelled; None where the vocabulary has none."""
        return self._vocabulary.name(number)

    def model(self) -> dict[str, Any]:
        """Vocabulary and merges of a kind of byte pairs, as a `tokenizer.json` has them."""
        return self._vocabulary.model()

    def _piece(self, text: str) -> str:
        text = tidy(text) if self._tidied else text
        text = canonical(text, self.config.lowercase, self.config.strip_punctuation, collapse=False)
        return text.removeprefix(" ") if self._adds_space else text

    @functools.cached_property
    def _adds_space(self) -> bool:
        """Whether the vocabulary reads "a" as " a", and " a" as "  a"."""
        first, second, both, spaced = self._vocabulary.encode(["x", "a", "x a", " a"])
        return both == first + second and spaced != second

    def decode(self, ids: Sequence[int], strip: bool = True) -> str:
        """The text of ids, without special tokens, and by default without spaces around it."""
        skip = {self.pad_id, *self._before, *self._after}
        text = self._vocabulary.decode([int(i) for i in ids if int(i) not in skip])
        return text.strip() if strip else text

    def canonical(self, text: str) -> str:
        """The text as the vocabulary sees it."""
        c = self.config
        if self._tidied:
            text = tidy(text)
        theirs = c.pieces == "transformers"
        if theirs and c.kind == "hf":
            text = "".join(map(str.lower, text)) if c.lowercase else text
            return canonical(text, False, c.strip_punctuation, collapse=False)
        return canonical(text, c.lowercase, c.strip_punctuation, underscore_is_space=not theirs)

    @property
    def _tidied(self) -> bool:
        return self.config.kind == "clip" or self.config.pieces == "open_clip"

    @property
    def _lead(self) -> str:
        """What a caption is read behind, and cut off again."""
        return "<unk>▁" if self.config.pieces == "transformers" and self.config.kind == "sentencepiece" else ""

    @functools.cached_property
    def _lead_ids(self) -> int:
        return len(self._vocabulary.encode(["<unk>"])[0])

    def save(self) -> dict[str, Any]:
        """Config and vocabulary as JSON values; CLIP's own vocabulary by checksum, since it ships with the package."""
        data = self._vocabulary.data
        saved = {
            "schema": SCHEMA,
            "config": configs.to_dict(dataclasses.replace(self.config, path=None)),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if not (self.config.kind == "clip" and saved["sha256"] == hashlib.sha256(vocabularies.read(CLIP_VOCABULARY)).hexdigest()):
            saved["vocabulary"] = base64.b64encode(data).decode("ascii")
        return saved

    def __reduce__(self):
        return load, (self.save(),)


def make(config: TokenizerConfig | Mapping[str, Any], texts: Iterable[str] | None = None) -> Tokenizer:
    """The tokenizer of a config.

    Args:
      config: a `TokenizerConfig`, or the config section it is built from.
      texts: captions to train on; needed by `wordlevel` and `bpe` without a path, not read otherwise.

    Raises:
      UserError: the vocabulary file is missing or damaged, or there is nothing to train on.
    """
    if not isinstance(config, TokenizerConfig):
        config = configs.build(TokenizerConfig, config, "tokenizer")
    if config.path is None and config.kind in ("wordlevel", "bpe"):
        if texts is None:
            raise UserError(f"tokenizer: kind {config.kind!r} is trained on captions, and none were given")
        return train(texts, config=config)
    if config.path is None and config.kind != "clip":
        raise UserError(f"tokenizer: kind {config.kind!r} needs path, the vocabulary file")
    path = pathlib.Path(expand(config.path)) if config.path else CLIP_VOCABULARY
    return Tokenizer(config, vocabularies.parse(config.kind, vocabularies.read(path), str(path)))


def train(
    texts: Iterable[str],
    vocab_size: int = 4096,
    context_length: int = 32,
    kind: Literal["wordlevel", "bpe"] = "bpe",
    config: TokenizerConfig | None = None,
) -> Tokenizer:
    """A vocabulary of the texts' own words or byte pairs; the same texts, in any order, give the same ids.

    Args:
      texts: captions; read once.
      vocab_size: entries at most, `<pad> <unk> <s> </s>` included.
      context_length: tokens a caption.
      kind: `bpe` (bytes at the bottom, nothing is unknown) or `wordlevel` (one id a word or punctuation mark, any other
        is `<unk>`: captions of concepts that training never named may become equal).
      config: instead of the three above.
    """
    config = config or TokenizerConfig(kind=kind, vocab_size=vocab_size, context_length=context_length)
    config = config.resolved()
    split = vocabularies.splitter(config.kind)
    counts: Counter[str] = Counter()
    for text in texts:
        clean = canonical(text, config.lowercase, config.strip_punctuation)
        counts.update(vocabularies.words(split, clean))
    if not counts:
        raise UserError("tokenizer: no words in the captions to train on")
    words = sorted(counts, key=lambda word: (-counts[word], word))
    data = vocabularies.train(config.kind, words, counts, config.vocab_size)
    return Tokenizer(config, vocabularies.parse(config.kind, data, "trained vocabulary"))


def load(saved: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote.

    Raises:
      UserError: another schema, a damaged vocabulary, or a CLIP vocabulary this package does not have.
    """
    try:
        if saved["schema"] != SCHEMA:
            raise ValueError(f"schema {saved['schema']}, this version reads {SCHEMA}")
        if not isinstance(saved["config"], Mapping):
            raise Malformed("its config is no section")
        config = configs.build(TokenizerConfig, saved["config"], "tokenizer")
        shipped = "vocabulary" not in saved and config.kind == "clip"
        data = vocabularies.read(CLIP_VOCABULARY) if shipped else base64.b64decode(saved["vocabulary"], validate=True)
        if hashlib.sha256(data).hexdigest() != saved["sha256"]:
            raise ValueError("wrong checksum")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"saved tokenizer: damaged ({type(error).__name__}: {reason(error)})") from None
    return Tokenizer(config, vocabularies.parse(config.kind, data, "saved tokenizer"))
