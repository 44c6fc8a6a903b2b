"""Texts of an example as ids: long ones, short ones, wrong ones on purpose; as many fields, or kinds in one,
as a loss reads."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import ClassVar, Literal

import jax
from jaxtyping import Int32
import numpy as np

from mof_jax.data.fields.field import Example, Field, OpenField, Setting, bad
from mof_jax.data.text import captions
from mof_jax.data.text.captions import CaptionConfig
from mof_jax.data.text.vocabularies import UnreadableText
from mof_jax.errors import BadExample, UserError
from mof_jax.ranges import Count, NotNegative, Share, Whole

_CHOICE = tuple(f.name for f in dataclasses.fields(CaptionConfig))


@dataclasses.dataclass(frozen=True)
class Captions(Field):
    """Texts as ids of tokens, int32 [batch, captions, context]; `captions` is `count`, or `count` for each of
    `kinds`.

    Attributes:
      count: captions an example.
      kinds: kinds of text of which an example shows `count` each, in this order, e.g. `("long", "short",
        "negative")`; none for one that is drawn by `probabilities`.
      distinct: draw the captions of an example without replacement, until its texts (with `sentences`, all
        runs of so many sentences) are used up.
      missing: what an example without such a text is: a bad one (`error`), or one with an `empty` text.
      probabilities, dropout, tags, sentences, templates: see `text.captions.CaptionConfig`; what is left out
        is as the example's source says.
    """

    kind: ClassVar[str] = "captions"

    count: Count = 1
    kinds: tuple[str, ...] = ()
    distinct: bool = False
    missing: Literal["error", "empty"] = "error"
    probabilities: dict[str, NotNegative] | None = None
    dropout: Share | None = None
    tags: Whole | None = None
    sentences: Whole | None = None
    templates: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.kinds and self.probabilities:
            raise ValueError("kinds and probabilities both say which texts; leave one out")
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds {', '.join(self.kinds)}: each once; count says how many of each")
        self.choices(CaptionConfig())  # which checks what is given

    def choices(self, source: CaptionConfig) -> list[CaptionConfig]:
        """How each part of the captions is chosen from records of a source: one entry, or one for each of
        `kinds`."""
        given = {name: value for name in _CHOICE if (value := getattr(self, name)) is not None}
        own = dataclasses.replace(source, **given)
        return [dataclasses.replace(own, probabilities={kind: 1.0}) for kind in self.kinds] or [own]

    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, self.count * max(1, len(self.kinds)), context), np.int32)

    def open(self, setting: Setting) -> OpenCaptions:
        return OpenCaptions(self, setting)


class OpenCaptions(OpenField[list[str]]):
    """Chooses texts one example at a time, and tokenizes those of many."""

    def __init__(self, config: Captions, setting: Setting):
        if setting.tokenizer is None:
            raise UserError(f"data.fields.{setting.name}: captions need a tokenizer; set data.captions=0 to "
                            "read pictures only")
        self._config, self._tokenizer = config, setting.tokenizer
        self._key, self._sources = setting.key, setting.sources
        self._choices = [config.choices(source.captions) for source in setting.configs]

    def load(self, example: Example) -> list[str]:
        choices = self._choices[example.source]
        if len(choices) == 1:
            return self._some(example, choices[0], 0)
        return [text for part, choice in enumerate(choices) for text in self._some(example, choice, part)]

    def _some(self, example: Example, choice: CaptionConfig, part: int) -> list[str]:
        """`count` captions by one choice."""
        c, name = self._config, self._sources[example.source].name
        try:
            if c.distinct:
                draws = example.draws(self._key, part)
                return captions.choose_distinct(example.record, choice, draws, c.count, name)
            keyed = [example.draws(self._key, part * c.count + n) for n in range(c.count)]
            return [captions.choose(example.record, choice, draws, name) for draws in keyed]
        except BadExample:
            if c.missing == "error":
                raise
            return [""] * c.count

    def collate(self, values: Sequence[list[str]]) -> Int32[np.ndarray, "n captions context"]:
        tokens = np.asarray(self._tokenizer([text for some in values for text in some]), np.int32)
        return tokens.reshape(len(values), -1, tokens.shape[-1])

    def check(self, value: list[str], example: Example) -> None:
        try:
            self._tokenizer(value)
        except UnreadableText as error:
            raise bad(example, self._sources, str(error)) from None
