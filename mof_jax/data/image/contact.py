"""Contact sheets: a page of pictures with their captions, to look at data before training on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import io

from PIL import Image, ImageDraw, ImageFont

from mof_jax.data.record import Record, Source
from mof_jax.errors import BadExample

INK, QUIET, PAPER = (32, 33, 36), (128, 134, 139), (255, 255, 255)
MARGIN = 12  # pixels around the page
GAP = 8  # pixels between cells


def contact_sheet(
    source: Source | Sequence[Record],
    columns: int = 8,
    rows: int = 8,
    size: int = 64,
    caption: Callable[[Record], str] | None = None,
    indices: Iterable[int] | None = None,
) -> Image.Image:
    """A grid of captioned pictures.

    Args:
      source: what to show.
      columns: pictures a line.
      rows: lines, at most.
      size: side of a picture in pixels; others are fitted into it, keeping their shape.
      caption: text under a picture; None for its first `alt` text.
      indices: which records; None for an even walk through the source.

    Raises:
      BadExample: a picture cannot be decoded.
    """
    count = columns * rows
    chosen = list(indices) if indices is not None else _spread(len(source), count)
    records = [source[i] for i in chosen[:count]]
    caption = caption or (lambda record: next(iter(record.texts.get("alt", ())), record.id))
    cells = [(record, caption(record)) for record in records]
    cells = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return _draw(cells, size, labels=None, header=None)


def comparison_sheet(
    lines: Sequence[tuple[str, Sequence[Record | None]]], header: Sequence[str], size: int = 64
) -> Image.Image:
    """A table of pictures: a label before every line, a title above every column; None leaves a cell empty."""
    cells = [[(record, "") for record in records] for _, records in lines]
    return _draw(cells, size, labels=[label for label, _ in lines], header=header)


def _draw(cells, size: int, labels: Sequence[str] | None, header: Sequence[str] | None) -> Image.Image:
    small, plain = ImageFont.load_default(11), ImageFont.load_default(14)
    under = 0 if labels else 16
    left = MARGIN + (int(max(plain.getlength(label) for label in labels)) + 2 * GAP if labels else 0)
    top = MARGIN + (20 if header else 0)
    step = size + GAP if labels else max(size + GAP, 88)
    width = left + step * max(map(len, cells), default=1) + MARGIN
    page = Image.new("RGB", (width, top + (size + under + GAP) * len(cells) + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    for j, title in enumerate(header or ()):
        pen.text((left + j * step + size // 2, MARGIN), _fit(title, small, step), QUIET, small, anchor="ma")
    for i, row in enumerate(cells):
        y = top + i * (size + under + GAP)
        if labels:
            pen.text((left - 2 * GAP, y + size // 2), labels[i], INK, plain, anchor="rm")
        for j, (record, text) in enumerate(row):
            x = left + j * step + (0 if labels else (step - size) // 2)
            if record is not None:
                picture = _picture(record, size)
                page.paste(picture, (x + (size - picture.width) // 2, y + (size - picture.height) // 2))
            if text:
                pen.text((x + size // 2, y + size + 3), _fit(text, small, step - 4), INK, small, anchor="ma")
    return page


def _picture(record: Record, size: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(record.image)).convert("RGBA")
    except (OSError, TypeError, ValueError) as error:
        raise BadExample("contact sheet", record.id, f"not a picture ({error})") from None
    flat = Image.new("RGBA", image.size, PAPER + (255,))
    flat.alpha_composite(image)
    wanted = [max(1, round(side * size / max(flat.size))) for side in flat.size]
    return flat.convert("RGB").resize(wanted, Image.Resampling.LANCZOS)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _spread(length: int, count: int) -> list[int]:
    """`count` positions evenly over `length`, or all of them."""
    return list(range(length)) if length <= count else [i * length // count for i in range(count)]
