"""A picture of what a model retrieves: queries and their five best answers, right ones framed."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import io
import os
from typing import ClassVar

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mof_jax import storage
from mof_jax.data.image import images
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.retrieval import Pool, embed_pool, kinds_of
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.metrics.ranking import nearest
from mof_jax.evals.model import Model
from mof_jax.ranges import Count

_CELL, _LABEL, _GAP, _TITLE = 96, 220, 10, 56
_RIGHT, _WRONG, _INK = (0, 114, 178), (222, 222, 222), (34, 34, 34)  # blue and grey: told apart by everyone
_WRONG_INK = (190, 90, 0)  # orange beside blue, likewise


@dataclasses.dataclass(frozen=True)
class Gallery(Evaluator):
    """Writes `retrieval.png`: caption queries with their top pictures, picture queries with their top captions.

    Attributes:
      queries: rows of each half, spread evenly over the source. k: answers shown.
      texts: kinds of text that count as captions, see `Retrieval`.
    """

    kind: ClassVar[str] = "gallery"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "retrieval"
    queries: Count = 6
    k: Count = 5
    texts: tuple[str, ...] = ()

    def run(self, model: Model) -> dict[str, float]:
        """Nothing to measure; the file lands in the model's output folder."""
        embedder = model.embedder
        if model.output_dir is None:
            return {}
        source = open_source(self.source)
        items = records(source)
        pool = Pool.of(items, kinds_of(source, items, self.texts))
        captions = pool.captions
        pixels, words = embed_pool(embedder, source, pool), embedder.texts(captions)
        asked = np.linspace(0, len(captions) - 1, self.queries + 2).astype(int)[1:-1]
        shown = np.linspace(0, len(pixels) - 1, 2 * self.queries + 2).astype(int)[1:-1][::2]
        _, pictures = nearest(embedder.mesh, words[asked], pixels, min(self.k, len(pixels)))
        _, texts = nearest(embedder.mesh, pixels[shown], words, min(self.k, len(captions)))
        if jax.process_index():
            return {}
        picture = lambda i: cell(items[pool.rows[i]].image)
        asked_rows = [(captions[q], [(picture(i), pool.right(i, q)) for i in row]) for q, row in zip(asked, pictures)]
        shown_rows = [(picture(q), [(captions[t], pool.right(q, t)) for t in row]) for q, row in zip(shown, texts)]
        storage.make_folder(model.output_dir)
        sheet = io.BytesIO()
        draw(asked_rows, shown_rows, self.k).save(sheet, "PNG")
        storage.write_atomic(os.path.join(model.output_dir, f"{self.name}.png"), [sheet.getbuffer()])
        return {}


def cell(image: bytes) -> Image.Image:
    """An encoded picture as `draw` wants it."""
    return images.decode(image).resize((_CELL, _CELL), Image.Resampling.LANCZOS)


def draw(asked: list, shown: list, k: int, titles: tuple[str, str] | None = None) -> Image.Image:
    """The sheet: on the left rows of (caption, [(picture, right)]), on the right rows of (picture, [(caption, right)]).

    Args:
      k: answers of a row. titles: of the two halves.
    """
    left, right = titles or (f"A caption, its {k} closest pictures (the right one framed)",
                             f"A picture, its {k} closest captions")
    row = _CELL + 2 * _GAP
    middle = _LABEL + k * row + 2 * _GAP
    sheet = Image.new("RGB", (middle + _CELL + _LABEL + 8 * _GAP, _TITLE + max(len(asked), len(shown)) * row), "white")
    pen = ImageDraw.Draw(sheet)
    _text(pen, (_GAP, _GAP), left, 18, middle)
    _text(pen, (middle, _GAP), right, 18, sheet.width - middle)
    for n, (caption, answers) in enumerate(asked):
        y = _TITLE + n * row
        _text(pen, (_GAP, y + _CELL // 2 - 10), caption, 16, _LABEL - 2 * _GAP)
        for i, (picture, hit) in enumerate(answers):
            x = _LABEL + i * row
            sheet.paste(picture, (x, y))
            pen.rectangle((x - 4, y - 4, x + _CELL + 3, y + _CELL + 3), outline=_RIGHT if hit else _WRONG,
                          width=4 if hit else 1)
    for n, (picture, answers) in enumerate(shown):
        y = _TITLE + n * row
        sheet.paste(picture, (middle, y))
        for i, (caption, hit) in enumerate(answers):
            _text(pen, (middle + _CELL + 3 * _GAP, y + i * _CELL // k), f"{i + 1}  {caption}", 14, _LABEL + 4 * _GAP,
                  _RIGHT if hit else _INK)
    return sheet


def draw_answers(cells: Sequence[tuple[Image.Image, str, str, str | None]], columns: int = 4) -> Image.Image:
    """A sheet of (picture, question, answer, what is right if the answer is not): each picture with its lines below it."""
    room = _LABEL + 8 * _GAP
    width, height = room + 2 * _GAP, 2 * _CELL + 6 * _GAP
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (picture, question, answer, reference) in enumerate(cells):
        x, y = n % columns * width + _GAP, n // columns * height + _GAP
        side = 2 * _CELL - 2 * _GAP
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        _text(pen, (x, y + side + 4), question, 13, room)
        said = answer or "(nothing)"
        said, ink = (said, _RIGHT) if reference is None else (f"{said}   (it is {reference})", _WRONG_INK)
        _text(pen, (x, y + side + 22), said, 15, room, ink)
    return sheet


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, room: int, fill: tuple = _INK) -> None:
    """One line of text, shortened to `room` pixels."""
    font = ImageFont.load_default(size)
    while text and pen.textlength(text, font=font) > room:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    pen.text(at, text, font=font, fill=fill)
