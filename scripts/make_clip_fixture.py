"""Writes `tests/data/fixtures/clip_tokens.json`: what OpenCLIP's own tokenizer makes of a handful of strings.

    pip install open_clip_torch==3.3.0
    python scripts/make_clip_fixture.py tests/data/fixtures/clip_tokens.json
"""

from __future__ import annotations

import importlib.metadata
import json
import sys

TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo of a CAT.",
    "a diagram, two dogs & 3 cats!",
    "hello world!!! it's we'll they've I'd I'm you're don't",
    "woman’s hat “quoted” text",
    "keycap: #",
    "flag: Côte d’Ivoire",
    "naïve café résumé",
    "cafe\u0301",
    "12345 67,890.12",
    "日本語のテキスト",
    "😀 grinning face 👩‍🍳",
    "multiple   spaces\tand\nnewlines",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; more",
    "ﬁne ﬂow Ｆｕｌｌ　ｗｉｄｔｈ",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "snake_case and-hyphen/slash\\back",
    "ΑΒΓ İstanbul straße",
    "हिन्दी ไทย 한국어 العربية",
    "½ ² Ⅷ 𝟘",
    "word " * 100,
    "a" * 300,
    "...!!!???",
    "zero\u200bwidth\u00a0nbsp",
    "tab\u0007bell",
]
CANONICAL = ["A Photo, of_a CAT!", "  it's  ", "keycap: #", "“curly” Stays", "ÀÉÎ"]


def main() -> int:
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer, canonicalize_text

    tokenizer = SimpleTokenizer()
    rows = []
    for text in TEXTS:
        ids = tokenizer([text])[0].tolist()
        while ids and ids[-1] == 0:
            ids.pop()
        rows.append({"text": text, "ids": ids})
    fixture = {
        "made_by": f"open_clip_torch {importlib.metadata.version('open_clip_torch')}",
        "vocab_size": tokenizer.vocab_size,
        "context_length": tokenizer.context_length,
        "rows": rows,
        "canonical": [[text, canonicalize_text(text)] for text in CANONICAL],
    }
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(fixture, file, indent=None, separators=(",", ":"))
        file.write("\n")
    print(f"{len(rows)} texts by {open_clip.__name__} -> {sys.argv[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
