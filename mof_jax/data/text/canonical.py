"""The canonical form of a caption: what is done to text before any vocabulary sees it."""

from __future__ import annotations

import html
import string
import unicodedata

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TIDY = {
    **dict.fromkeys([0x2BC, *range(0x2018, 0x201C)], "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
    **{ord(char): unicodedata.normalize("NFKC", char) for char in "ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬅﬆ"},
    0x149: "'n",  # as a ligature "ʼn", whose quote is straightened then
    0x3000: " ",
}


def canonical(
    text: str, lowercase: bool, strip_punctuation: bool, collapse: bool = True, underscore_is_space: bool = True
) -> str:
    """Single spaces (unless `collapse` is off), and as asked lower-case and without ASCII punctuation, as in SigLIP.

    Args:
      underscore_is_space: `_` becomes a space (big_vision, in which SigLIP was trained); else it goes with the punctuation.
    """
    if strip_punctuation:
        text = (text.replace("_", " ") if underscore_is_space else text).translate(_PUNCTUATION)
    if lowercase:
        text = text.lower()
    return " ".join(text.split()) if collapse else text


def tidy(text: str) -> str:
    """Straight quotes, plain letters for ligatures and full-width forms, NFC, no HTML entities: CLIP's cleaning."""
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)).translate(_TIDY))
    return "".join(char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
