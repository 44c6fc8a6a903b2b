"""A picture of what a model retrieves: queries and their five best answers, right ones framed."""

from __future__ import annotations

import dataclasses
import os

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mof_jax.data import images
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.evals.encoder import Encoder, records
from mof_jax.evals.ranking import nearest
from mof_jax.evals.retrieval import candidates, item_ids

_CELL, _LABEL, _GAP = 96, 260, 10
_RIGHT, _WRONG, _INK = (0, 114, 178), (222, 222, 222), (34, 34, 34)  # blue and grey: told apart by everyone


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Writes `retrieval.png`: caption queries with their top pictures, picture queries with their top captions.

    Attributes:
      queries: rows of each half, spread evenly over the source. k: answers shown.
      texts: kinds of text that count as captions.
    """

    source: SourceConfig
    name: str = "retrieval"
    queries: int = 6
    k: int = 5
    texts: tuple[str, ...] = ("alt",)

    def run(self, encoder: Encoder) -> dict[str, float]:
        """Nothing to measure; the file lands in the encoder's picture folder."""
        if encoder.pictures is None:
            return {}
        source = open_source(self.source)
        items = records(source)
        ids = item_ids(items)
        captions, caption_ids = candidates(items, self.texts)
        pixels, words = encoder.images(source), encoder.texts(captions)
        asked = np.linspace(0, len(captions) - 1, self.queries + 2).astype(int)[1:-1]
        shown = np.linspace(0, len(items) - 1, 2 * self.queries + 2).astype(int)[1:-1][::2]
        _, pictures = nearest(encoder.mesh, words[asked], pixels, self.k)
        _, texts = nearest(encoder.mesh, pixels[shown], words, self.k)
        if jax.process_index():
            return {}
        picture = lambda i: images.decode(items[i].image).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
        upper = [(captions[q], [(picture(i), ids[i] == caption_ids[q]) for i in row]) for q, row in zip(asked, pictures)]
        lower = [(picture(q), [(captions[t], caption_ids[t] == ids[q]) for t in row]) for q, row in zip(shown, texts)]
        os.makedirs(encoder.pictures, exist_ok=True)
        draw(upper, lower, self.k).save(os.path.join(encoder.pictures, f"{self.name}.png"))
        return {}


def draw(upper: list, lower: list, k: int) -> Image.Image:
    """The sheet: rows of (caption, [(picture, right)]) above rows of (picture, [(caption, right)])."""
    row = _CELL + 2 * _GAP
    width = _LABEL + k * row
    sheet = Image.new("RGB", (width, (len(upper) + len(lower)) * row + 3 * _LABEL // 4), "white")
    pen, y = ImageDraw.Draw(sheet), _GAP
    y = _title(pen, y, f"Caption → the {k} closest pictures (the right one framed)")
    for caption, answers in upper:
        _text(pen, (_GAP, y + _CELL // 2 - 10), caption, 16, _LABEL - 2 * _GAP)
        for i, (picture, right) in enumerate(answers):
            x = _LABEL + i * row
            sheet.paste(picture, (x, y))
            pen.rectangle((x - 4, y - 4, x + _CELL + 3, y + _CELL + 3), outline=_RIGHT if right else _WRONG,
                          width=4 if right else 1)
        y += row
    y = _title(pen, y + _GAP, f"Picture → the {k} closest captions (the right one in blue)")
    for picture, answers in lower:
        sheet.paste(picture, (_GAP, y))
        for i, (caption, right) in enumerate(answers):
            _text(pen, (_CELL + 4 * _GAP, y + i * _CELL // k), f"{i + 1}  {caption}", 14, width - _CELL - 5 * _GAP,
                  _RIGHT if right else _INK)
        y += row
    return sheet.crop((0, 0, width, y))


def _title(pen: ImageDraw.ImageDraw, y: int, text: str) -> int:
    _text(pen, (_GAP, y), text, 18, 10_000)
    return y + 40


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, room: int, fill: tuple = _INK) -> None:
    """One line of text, shortened to `room` pixels."""
    font = ImageFont.load_default(size)
    while text and pen.textlength(text, font=font) > room:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    pen.text(at, text, font=font, fill=fill)
