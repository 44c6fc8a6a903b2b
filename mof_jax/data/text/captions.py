"""Which words go with a picture this time.

A record holds texts by kind (alt text, synthetic captions, tags). Each time an example is drawn, a kind is chosen with
configured probabilities (VeCLIP draws alt text or a synthetic caption with equal chance), then one of its captions,
then the caption is shortened, tagged, put into a template or dropped. All of it is keyed per (seed, epoch, example).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import re

import numpy as np

from mof_jax.data import keyed
from mof_jax.data.record import Record, Source
from mof_jax.errors import BadExample, UserError
from mof_jax.ranges import NotNegative, Share, Whole

TAGS = "tags"
NEGATIVE = "negative"  # texts that do not fit their picture, on purpose
_SAMPLE = 64  # records that say which kinds a source has
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """How to choose a caption.

    Attributes:
      probabilities: chance of each kind, e.g. `{"alt": 0.5, "synthetic": 0.5}`. A kind that a record lacks gives its
        share to the others; a kind of probability 0 is used only where nothing else is there. Empty: every kind the
        record has, equally often, except tags and `negative` ones, which do not fit the picture on purpose.
      dropout: chance of an empty caption (for training with missing text).
      tags: append up to this many random entries of the record's `tags`: "label, tag, tag".
      sentences: keep this many consecutive sentences of a longer caption, from a random start; 0 keeps all.
      templates: phrases with `{}` for the caption, one drawn at random, e.g. `("a photo of {}",)`.
    """

    probabilities: dict[str, NotNegative] = dataclasses.field(default_factory=dict)
    dropout: Share = 0.0
    tags: Whole = 0
    sentences: Whole = 0
    templates: tuple[str, ...] = ()

    def __post_init__(self):
        if any(not 0 <= p < math.inf for p in self.probabilities.values()):
            raise ValueError(f"probabilities must not be negative or infinite, got {self.probabilities}")
        if self.probabilities and not sum(self.probabilities.values()) > 0:
            raise ValueError("probabilities: at least one must be positive")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {self.dropout}")
        if min(self.tags, self.sentences) < 0:
            raise ValueError("tags and sentences count, they cannot be negative")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} needs exactly one {{}}")


def kinds(source: Source, sample: int = _SAMPLE) -> dict[str, int]:
    """Kinds of text in a source, with the number of records that have some, among `sample` of them, evenly spread.

    Raises:
      UserError: none of these records can be read.
    """
    found: dict[str, int] = {}
    bad: list[BadExample] = []
    places = np.unique(np.linspace(0, len(source) - 1, sample).astype(int)).tolist()
    for index in places:
        try:
            record = source[index]
        except BadExample as error:
            bad.append(error)
            continue
        for kind, values in record.texts.items():
            found[kind] = found.get(kind, 0) + any(text.strip() for text in values)
    if len(bad) == len(places):
        raise UserError(f"{source.name}: none of {len(places)} records that were looked at can be read; the first: {bad[0]}")
    return {kind: count for kind, count in found.items() if count}


def kind_of(source: Source, wanted: str = "", how: str = "text_fields") -> str:
    """The kind of text to take from a source: `wanted`, else what it has, `alt` or its only kind besides tags and negatives.

    Args:
      how: what chooses another one, for the error.

    Raises:
      UserError: it has no such kind, or several of which none is `alt`; the line lists what it has.
    """
    has = kinds(source)
    words = [kind for kind in has if kind.partition(":")[0] not in (TAGS, NEGATIVE)]
    listed = ", ".join(has) or "none; name the column of the texts with text_fields"
    if wanted:
        if wanted not in has:
            raise UserError(f"{source.name}: no text of kind {wanted!r}; the source has {listed}; choose with {how}")
        return wanted
    if "alt" in words or len(words) == 1:
        return "alt" if "alt" in words else words[0]
    what = "several kinds of text" if words else "no kind of text to take by default"
    raise UserError(f"{source.name}: {what}; the source has {listed}; choose with {how}")


def choose(record: Record, config: CaptionConfig, draws: keyed.Draws, source: str = "source") -> str:
    """One caption of `record`.

    Raises:
      BadExample: the record has no usable text of the configured kinds.
    """
    texts, kind = _texts_and_kind(record, config, draws, source)
    caption = draws.choice(texts[kind]).strip()
    if config.sentences:
        caption = _consecutive_sentences(caption, config.sentences, draws)
    return _finished(caption, texts, config, draws)


def choose_distinct(record: Record, config: CaptionConfig, draws: keyed.Draws, count: int, source: str = "source") -> list[str]:
    """`count` captions of `record`, drawn without replacement as DreamLIP does (arXiv 2403.17007): of each kind every text,
    or with `sentences` every run of so many sentences of any of its texts, comes once before one comes twice.

    Raises:
      BadExample: the record has no usable text of the configured kinds.
    """
    pools: dict[str, list[str]] = {}
    found = []
    for _ in range(count):
        texts, kind = _texts_and_kind(record, config, draws, source)
        if not pools.get(kind):
            runs = [run for text in texts[kind] for run in _runs(text.strip(), config.sentences)]
            pools[kind] = draws.sample(runs, len(runs))
        found.append(_finished(pools[kind].pop(), texts, config, draws))
    return found


def _texts_and_kind(
    record: Record, config: CaptionConfig, draws: keyed.Draws, source: str
) -> tuple[dict[str, list[str]], str]:
    """The texts of a record by kind, empty ones left out, and the kind to use."""
    texts = {kind: [t for t in values if t.strip()] for kind, values in record.texts.items()}
    kind = _kind({k: v for k, v in texts.items() if v}, config.probabilities, draws)
    if kind is None:
        wanted = ", ".join(config.probabilities) or "any kind"
        has = ", ".join(k if texts[k] else f"{k} (empty)" for k in texts) or "no text"
        how = "captions.probabilities chooses" if any(texts.values()) else "text_fields names the column of the texts"
        raise BadExample(source, record.id, f"empty caption: wants {wanted}, has {has}; {how}")
    return texts, kind


def _finished(caption: str, texts: Mapping[str, list[str]], config: CaptionConfig, draws: keyed.Draws) -> str:
    """A caption with its tags, in a template, or dropped."""
    if config.tags:
        tags = [t.strip() for t in texts.get(TAGS, ()) if t.strip() != caption]
        caption = ", ".join([caption, *draws.sample(tags, draws.below(config.tags + 1))])
    if config.templates:
        caption = draws.choice(config.templates).replace("{}", caption)
    # Drawn last, so that a run with dropout sees the captions of the run without it.
    return "" if config.dropout and draws.uniform() < config.dropout else caption


def _kind(texts: Mapping[str, list[str]], probabilities: Mapping[str, float], draws: keyed.Draws) -> str | None:
    """The kind of text to use among those present, or None."""
    if not probabilities:
        usable = [k for k in texts if k.partition(":")[0] != NEGATIVE]  # "negative:de" too
        kinds = sorted(k for k in usable if k.partition(":")[0] != TAGS) or sorted(usable)
        return draws.choice(kinds) if kinds else None
    present = [k for k in probabilities if k in texts]
    if not present:
        return None
    weights = [probabilities[k] for k in present]
    return present[draws.weighted(weights)] if sum(weights) > 0 else present[0]


def _runs(caption: str, n: int) -> list[str]:
    """Every run of n consecutive sentences; the caption itself for n = 0, or where it has no more."""
    sentences = [s for s in _SENTENCE.split(caption) if s] if n else []
    return [" ".join(sentences[i : i + n]) for i in range(len(sentences) - n + 1)] if len(sentences) > n else [caption]


def _consecutive_sentences(caption: str, n: int, draws: keyed.Draws) -> str:
    sentences = [s for s in _SENTENCE.split(caption) if s]
    if len(sentences) <= n:
        return caption
    start = draws.below(len(sentences) - n + 1)
    return " ".join(sentences[start : start + n])
