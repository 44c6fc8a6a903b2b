"""Five hundred strings and a handful of pictures on which tokenizers and image processors come apart."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

_LETTERS = ["abcXYZ", "äöüßÄÖÜéèñçøåŁő", "αβγΔΩ", "Привет", "日本語中文字", "한국어", "العربية", "עברית", "हिन्दी", "ไทย",
            "ǅǈﬁﬂĲŉ", "𝒜𝔅ℂ"]
_MARKS = ["🙂🚗👩‍🔬🏳️‍🌈", "!?.,;:'\"()[]{}<>", "@#$%^&*_+-=/\\|~`", "’‘“”–—…«»", "0123456789", "½²③Ⅷ",
          "\t\n  \u00a0\u3000", "\u0301\u200d\ufe0f"]
_WORDS = ["a photo of a dog", "It's the cats' 3rd", "they'll we've I'm he'd", "&amp;amp; &lt;br&gt; &#39;quote&#39;",
          "www.x.org/a?b=c&d=e", "word_with_underscores", "CamelCaseAndUPPER", "e\u0301 and é", "ｆｕｌｌ ｗｉｄｔｈ",
          "1,000,000.50", "x" * 300, "lorem ipsum dolor " * 40]


def strings(count: int = 500) -> list[str]:
    """The same each time; the first are short and hand-picked, the others mixed from all alphabets."""
    rng = np.random.default_rng(0)
    found = ["", " ", "a", "\n", *_WORDS]
    while len(found) < count:
        pieces = []
        for _ in range(rng.integers(1, 9)):
            pool = (_LETTERS, _MARKS, _WORDS[:10])[rng.integers(3)]
            piece = pool[rng.integers(len(pool))]
            start = rng.integers(len(piece))
            pieces.append(piece[start : start + rng.integers(1, 8)])
        found.append((" " if rng.random() < 0.6 else "").join(pieces))
    return found


def pictures() -> dict[str, bytes]:
    """Encoded pictures of odd shapes and modes."""
    rng = np.random.default_rng(0)

    def smooth(h: int, w: int) -> np.ndarray:
        waves = np.sin(np.arange(h)[:, None, None] / 7 + np.arange(w)[None, :, None] / 5 + np.arange(3) * 2)
        return np.clip(128 + 90 * waves + rng.normal(0, 20, (h, w, 3)), 0, 255).astype(np.uint8)

    def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    shapes = ((91, 37), (37, 91), (480, 640), (24, 24), (32, 32), (23, 25), (33, 50), (7, 300), (300, 3), (2, 3), (1, 1), (1, 50),
              (50, 1))
    found = {f"rgb {h}x{w}": saved(Image.fromarray(smooth(h, w))) for h, w in shapes}
    # A ramp of transparency, with colours under what cannot be seen.
    clear = np.linspace(0, 255, 60 * 45).reshape(60, 45, 1).astype(np.uint8)
    grey, palette = Image.fromarray(smooth(60, 80)[..., 0]), Image.fromarray(smooth(50, 70)).quantize(32)
    found |= {
        "grey": saved(grey), "black and white": saved(grey.convert("1")), "palette": saved(palette), "gif": saved(palette, "GIF"),
        "palette with a transparent colour": saved(palette, transparency=3),
        "palette with transparencies": saved(palette, transparency=bytes(range(0, 256, 8))),
        "rgb with a transparent colour": saved(Image.fromarray(smooth(40, 30) // 64 * 64), transparency=(128, 128, 128)),
        "rgba": saved(Image.fromarray(np.dstack([smooth(60, 45), clear]))),
        "rgba opaque": saved(Image.fromarray(np.dstack([smooth(60, 45), np.full((60, 45), 255, np.uint8)]))),
        "rgba webp": saved(Image.fromarray(np.dstack([smooth(60, 45), clear])), "WEBP", lossless=True),
        "la": saved(Image.fromarray(np.dstack([smooth(60, 45)[..., :1], clear]))),
        "16-bit": saved(Image.fromarray(smooth(60, 80)[..., 0].astype(np.uint16) * 200)),
        "16-bit dark": saved(Image.fromarray(smooth(60, 80)[..., 0].astype(np.uint16))),
        "jpeg": saved(Image.fromarray(smooth(480, 641)), "JPEG", quality=90),
        "grey jpeg": saved(Image.fromarray(smooth(61, 80)[..., 0]), "JPEG"),
        "cmyk jpeg": saved(Image.fromarray(smooth(61, 80)).convert("CMYK"), "JPEG")}
    for turn in (2, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turn
        found[f"turned {turn}"] = saved(Image.fromarray(smooth(48, 81)), "JPEG", exif=exif)
    return found
