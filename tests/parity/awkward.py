"""Five hundred strings and a handful of pictures on which tokenizers and image processors come apart."""

from __future__ import annotations

import io

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

    shapes = ((91, 37), (37, 91), (480, 640), (24, 24), (7, 300), (300, 3))
    found = {f"rgb {h}x{w}": Image.fromarray(smooth(h, w)) for h, w in shapes}
    found |= {"one row": Image.fromarray(smooth(1, 50)), "grey": Image.fromarray(smooth(60, 80)[..., 0])}
    found["palette"] = Image.fromarray(smooth(50, 70)).quantize(32)
    opaque = np.dstack([smooth(60, 45), np.full((60, 45), 255, np.uint8)])
    found["rgba opaque"] = Image.fromarray(opaque)
    out = {}
    for name, image in found.items():
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        out[name] = buffer.getvalue()
    return out
