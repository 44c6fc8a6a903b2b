"""One pair of every pattern of `data.worlds.pattern_world` with its question:

    python scripts/pattern_sheet.py docs/patterns.png
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFont

from mof_jax.data.pairs import PATTERNS
from mof_jax.data.worlds.pattern_world import render, scene

SIDE, GAP, TEXT, COLUMNS, NUMBER = 150, 14, 44, 3, 7


def main(path: str) -> None:
    """Writes the sheet."""
    width, height = 2 * SIDE + 4 + 2 * GAP, SIDE + TEXT + 2 * GAP
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(PATTERNS) // COLUMNS) * height), "white")
    pen, small, large = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(15)
    for n, pattern in enumerate(PATTERNS):
        x, y = n % COLUMNS * width + GAP, n // COLUMNS * height + GAP
        facts = scene(pattern, NUMBER, "test")
        for which in (0, 1):
            left = x + which * (SIDE + 4)
            sheet.paste(Image.fromarray(render(facts, which, SIDE)), (left, y))
            answer = facts.options[facts.answers[which]]
            pen.text((left + SIDE / 2, y + SIDE + 28), answer, font=large, fill=(0, 114, 178), anchor="mt")
        pen.text((x, y + SIDE + 6), facts.question, font=small, fill=(34, 34, 34))
    sheet.save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
