"""What a training document is, and how it becomes tokens.

A document is a list of parts: texts, special tokens and pictures, in reading order. Every text says whether its tokens
are learned; the loss mask comes from that and from nothing else, because every text is tokenized on its own. A picture
takes a fixed number of positions, which its image tokens fill inside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re
from typing import Literal, TypeAlias

from jaxtyping import Bool, Int32, UInt8
import numpy as np

from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.data.text.vocabularies import UnreadableText
from mof_jax.errors import BadExample, UserError

Kind = Literal["caption", "interleaved", "text", "chat"]
OnLong = Literal["error", "truncate"]

IMAGE = "<image>"
# What other formats have where a picture, a video or a sound goes: with a number anywhere; without one where it stands alone at
# an end of the text, or beside an <image>. Elsewhere such a tag is a word, of a text about HTML or types for one.
_NUMBERED = re.compile(r"<(?:image|img|picture|video|audio|speech|sound)[ _-]?\d+>")
_TAG = "(<(?:img|picture|video|audio|speech|sound)>)"
_BESIDE = re.compile(rf"{IMAGE}[ \t]*{_TAG}|{_TAG}[ \t]*{IMAGE}")
_ALONE = re.compile(_TAG)
_MEDIUM = re.compile(r"<(?:video|audio|speech|sound)>(?=[ \t]*\n)|(?<=\n)<(?:video|audio|speech|sound)>(?=[ \t]*$)")  # by a role


@dataclasses.dataclass(frozen=True)
class Text:
    """Words; `supervised` says whether they are learned."""

    text: str
    supervised: bool = True


@dataclasses.dataclass(frozen=True)
class Special:
    """One special token: `bos`, `eos`, or a token's own spelling such as `<|im_end|>`.

    `bos` is left out where the tokenizer has none; a spelling that is not a token of the vocabulary is read as text.
    """

    name: str
    supervised: bool = False


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, encoded (PNG, JPEG, WebP) or as pixels."""

    image: bytes | UInt8[np.ndarray, "height width 3"]


Part: TypeAlias = Text | Special | Picture


@dataclasses.dataclass(frozen=True)
class Document:
    """One training document.

    Attributes:
      id: name of the record inside its source.
      kind: what sort of document it is.
      parts: in reading order.
    """

    id: str
    kind: Kind
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A document as tokens, n positions in all.

    Attributes:
      id: name of the record inside its source.
      tokens: ids; the pad id where a picture stands.
      supervised: which positions are learned, as labels; never a picture's, never the first.
      starts: first position of every picture.
      pictures: the pictures, aligned with `starts`.
      image_tokens: positions a picture takes.
    """

    id: str
    tokens: Int32[np.ndarray, "n"]
    supervised: Bool[np.ndarray, "n"]
    starts: tuple[int, ...]
    pictures: tuple[bytes | UInt8[np.ndarray, "height width 3"], ...]
    image_tokens: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def size(self) -> int:
        """What the sample counts for in a mixture: supervised tokens and image tokens."""
        return int(self.supervised.sum()) + self.image_tokens * len(self.starts)


def place(parts: Sequence[Text | Special], pictures: Sequence[bytes], source: str, record: str | int) -> tuple[Part, ...]:
    """The parts, with a picture at every `<image>` of a text, in order.

    Raises:
      BadExample: another number of placeholders than of pictures, or a placeholder of something that is no picture.
    """
    pieces: list[Part] = []
    left = list(pictures)
    count = sum(part.text.count(IMAGE) for part in parts if isinstance(part, Text))
    for part in parts:
        if isinstance(part, Special):
            pieces.append(part)
            continue
        if (unknown := _foreign(part.text)) is not None:
            raise BadExample(source, record, f"unknown placeholder {unknown}; pictures stand at {IMAGE}, nothing else is read")
        if count != len(pictures):
            raise BadExample(source, record, f"{count} {IMAGE} placeholders for {len(pictures)} images")
        for i, words in enumerate(part.text.split(IMAGE)):
            if i:
                pieces.append(Picture(left.pop(0)))
            if words:
                pieces.append(Text(words, part.supervised))
    if left:
        raise BadExample(source, record, f"{count} {IMAGE} placeholders for {len(pictures)} images")
    return tuple(pieces)


def _foreign(text: str) -> str | None:
    """A placeholder of another format, None where there is none."""
    if (numbered := _NUMBERED.search(text)) is not None:
        return numbered[0]
    if (beside := _BESIDE.search(text)) is not None:
        return beside[1] or beside[2]
    if (medium := _MEDIUM.search(text)) is not None:
        return medium[0]
    words = text.replace(IMAGE, "\n").strip()
    ends = words.partition("\n")[0].strip(), words.rpartition("\n")[2].strip()
    return next((end for end in ends if _ALONE.fullmatch(end)), None)


def tokenize(record: str, parts: Sequence[Part], tokenizer: Tokenizer, image_tokens: int) -> Sample:
    """The parts one after the other as tokens; what training and generation share. Nothing is cut, nothing is checked.

    Raises:
      UserError: the parts end with `eos` and the tokenizer has none.
    """
    words = [p.text if isinstance(p, Text) else p.name for p in parts if not isinstance(p, Picture)]
    encoded = iter(tokenizer.encode(words, exact=True))
    tokens: list[int] = []
    supervised: list[bool] = []
    starts: list[int] = []
    pictures = []
    for part in parts:
        if isinstance(part, Picture):
            starts.append(len(tokens))
            pictures.append(part.image)
            ids, learned = [tokenizer.pad_id] * image_tokens, False
        else:
            ids, learned = next(encoded), part.supervised
            if isinstance(part, Special):
                ids = _special(part.name, ids, tokenizer)
        tokens += ids
        supervised += [learned] * len(ids)
    return Sample(record, np.array(tokens, np.int32), np.array(supervised, bool), tuple(starts), tuple(pictures), image_tokens)


def _special(name: str, spelled: list[int], tokenizer: Tokenizer) -> list[int]:
    """Ids of a special token; `spelled` are those of its name read as text."""
    if name == "bos":
        return [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    if name == "eos":
        if tokenizer.eos_id is None:
            raise UserError("tokenizer: its vocabulary has no end-of-text token, which every document needs")
        return [tokenizer.eos_id]
    token = tokenizer.token_id(name)
    return spelled if token is None else [token]


def encode(
    document: Document,
    tokenizer: Tokenizer,
    image_tokens: int,
    max_length: int,
    *,
    max_images: int | None = None,
    on_long: OnLong = "error",
    source: str = "documents",
) -> Sample:
    """A document as a sample of at most `max_length` positions and `max_images` pictures.

    Args:
      image_tokens: positions a picture takes.
      on_long: what becomes of a longer document: an error, or its beginning is kept; a picture is never split, and what
        follows the last learned token goes too.
      source: who to name in an error.

    Raises:
      BadExample: too long (under `error`), without a token to learn, or of words that the vocabulary cannot read.
    """
    try:
        sample = tokenize(document.id, document.parts, tokenizer, image_tokens)
    except UnreadableText as error:
        raise BadExample(source, document.id, str(error)) from None
    most = len(sample.starts) if max_images is None else max_images
    if len(sample) > max_length or len(sample.starts) > most:
        if on_long == "error":
            limit = f"{max_length} and {most}" if max_images is not None else str(max_length)
            raise BadExample(source, document.id, f"too long: {len(sample)} tokens with {len(sample.starts)} images, at most "
                             f"{limit} fit; raise the limits or set on_long='truncate'")
        sample = _cut(sample, max_length, most)
    supervised = sample.supervised.copy()
    supervised[:1] = False  # nothing precedes the first token, so nothing can predict it
    if not supervised.any():
        raise BadExample(source, document.id, f"no supervised token among {len(sample)} (kind {document.kind})")
    return dataclasses.replace(sample, supervised=supervised)


def _cut(sample: Sample, max_length: int, max_images: int) -> Sample:
    """The beginning of a sample, up to the last learned token of what fits."""
    fits = [i < max_images and start + sample.image_tokens <= max_length for i, start in enumerate(sample.starts)]
    first_out = next((start for start, inside in zip(sample.starts, fits) if not inside), max_length)
    learned = np.flatnonzero(sample.supervised[: min(max_length, first_out)])
    end = int(learned[-1]) + 1 if len(learned) else 0
    kept = sum(start < end for start in sample.starts)
    return dataclasses.replace(sample, tokens=sample.tokens[:end], supervised=sample.supervised[:end],
                               starts=sample.starts[:kept], pictures=sample.pictures[:kept])
