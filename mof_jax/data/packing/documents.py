"""From records to documents: which text, which pictures, which template, what is learned."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import get_args

from mof_jax.data.keyed import Draws
from mof_jax.data.packing.sequences import Document, Kind, Part, Picture, Special, Text, place
from mof_jax.data.record import Record
from mof_jax.data.sources import default_sources
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.text import captions, chat
from mof_jax.errors import BadExample, nearest
from mof_jax.ranges import Positive

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class Page(Record):
    """A record that is a page: texts and encoded pictures in reading order; a `Record`'s own fields describe it as a whole."""

    parts: tuple[str | bytes, ...] = ()


@dataclasses.dataclass(frozen=True)
class Chat(Record):
    """A record that is a conversation: its messages (see `chat`), and the pictures of their `<image>`s, in order."""

    messages: tuple[chat.Message, ...] = ()
    images: tuple[bytes, ...] = ()


@dataclasses.dataclass(frozen=True)
class KindConfig:
    """One kind of documents in a mixture.

    Attributes:
      weight: share of the supervised and image tokens, relative to the other kinds' weights.
      sources: where its records come from, mixed by their weights (by number of documents).
      kind: what they become; by default the name under which this section stands.

          caption      picture, caption; the record needs an image, `sources[i].captions` chooses the text
          interleaved  texts and pictures in reading order (`obelics`, `mmc4`, `pages`), all text learned
          text         words alone: those of a page without pictures, or a record's caption
          chat         a conversation (`llava`, `scenes`), the answers learned

      template: chat template; `plain` for captions unless another is named, and required for chats.
      bos, eos: whether the tokenizer's tokens surround a document; a template has a bos of its own or none, and a chat
        never ends with a further eos.
      supervise_prompts: learn a conversation's questions too.
    """

    weight: Positive = 1.0
    sources: tuple[SourceConfig, ...] = dataclasses.field(default_factory=default_sources)
    kind: str = ""
    template: str = ""
    bos: bool = True
    eos: bool = True
    supervise_prompts: bool = False

    def __post_init__(self):
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, got {self.weight}; leave a kind out to read none of it")
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}{nearest(self.kind, KINDS)}")
        if not self.sources:
            raise ValueError("sources: at least one is needed")
        if self.template and self.template not in chat.TEMPLATES:
            raise ValueError(f"template {self.template!r}{nearest(self.template, chat.TEMPLATES)}")
        if self.kind == "chat" and not self.template:
            raise ValueError(f"template: a chat needs one ({', '.join(chat.TEMPLATES)})")
        labels = [source.label for source in self.sources]
        if len(set(labels)) != len(labels):
            raise ValueError(f"sources need names of their own, got {', '.join(labels)}")

    def named(self, name: str) -> KindConfig:
        """The section with its kind filled in from the name it stands under.

        Raises:
          ValueError: the name is no kind and the section does not say one.
        """
        kind = self.kind or name
        if kind not in KINDS:
            raise ValueError(f"{name!r} is not a kind of documents{nearest(name, KINDS)}; name one in its key kind")
        return dataclasses.replace(self, kind=kind)


def compose(record: Record, config: KindConfig, wanted: captions.CaptionConfig, draws: Draws, source: str) -> Document:
    """The document that a record becomes.

    Args:
      config: with its `kind` filled in.
      wanted: how to choose among a record's texts.
      draws: what that choice draws from.
      source: who to name in an error.

    Raises:
      BadExample: the record is no such document, or breaks its template.
    """
    match config.kind:
        case "caption":
            parts = _caption(record, config, captions.choose(record, wanted, draws, source), source)
        case "interleaved":
            if not isinstance(record, Page):
                raise BadExample(source, record.id, "not a page of texts and images, as kind 'interleaved' needs")
            parts = _around([Text(p) if isinstance(p, str) else Picture(p) for p in record.parts if p], config)
        case "text":
            parts = _around([Text(_words(record, wanted, draws, source))], config)
        case _:
            if not isinstance(record, Chat):
                raise BadExample(source, record.id, "not a conversation, as kind 'chat' needs")
            spans = chat.template(config.template).spans(record.messages, source, record.id)
            if config.supervise_prompts:
                spans = [dataclasses.replace(span, supervised=True) for span in spans]
            parts = place(spans, record.images, source, record.id)
    return Document(record.id, config.kind, tuple(parts))


def _caption(record: Record, config: KindConfig, caption: str, source: str) -> Sequence[Part]:
    """Picture and caption in the words of a template."""
    image = record.image
    if image is None:
        raise BadExample(source, record.id, "no image")
    messages = ({"role": "user", "content": "<image>"}, {"role": "assistant", "content": caption})
    spans = chat.template(config.template or "plain").spans(messages, source, record.id)
    if not config.bos:
        spans = [span for span in spans if span != Special("bos")]
    if config.eos and spans[-1] != Special("eos", True):
        spans.append(Special("eos", True))
    return place(spans, [image], source, record.id)


def _around(parts: Sequence[Part], config: KindConfig) -> list[Part]:
    before = [Special("bos")] if config.bos else []
    return [*before, *parts, *([Special("eos", True)] if config.eos else [])]


def _words(record: Record, wanted: captions.CaptionConfig, draws: Draws, source: str) -> str:
    if not isinstance(record, Page):
        return captions.choose(record, wanted, draws, source)
    if any(isinstance(part, bytes) for part in record.parts):
        raise BadExample(source, record.id, "a page with images, in a kind 'text'; read it as 'interleaved'")
    words = "".join(record.parts)
    if not words.strip():
        raise BadExample(source, record.id, "an empty page")
    return words


def words(record: Record) -> list[str]:
    """Every text of a record, to train a vocabulary on."""
    if isinstance(record, Page):
        return [part for part in record.parts if isinstance(part, str)]
    if isinstance(record, Chat):
        return [message["content"].replace("<image>", " ").strip() for message in record.messages]
    return [text for kind in sorted(record.texts) for text in record.texts[kind]]
