"""Which emoji labels are siblings, and which families no training run may see.

The rule, in order:

1. A label loses its gender and age words and its direction: "man cook", "woman cook" and "cook" are one family, "cook";
   "person running: facing right" is "running". Country flags keep theirs ("flag: Isle of Man").
2. What is left of "man" or "boy" alone is the family "person". A few siblings share no word ("mermaid", "merman"); they
   are listed in `SYNONYMS`.
3. Families that some vendor draws with the very same picture (the flags of Norway and Bouvet Island) are joined, under
   the name that sorts first (`join`).
4. One family in ten is held out, by the SHA-256 of its name: no clock, no seed and no Python hash in it, so the split
   is the same everywhere and for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import hashlib
import re

HELD_OUT_TENTHS = 1

_WORDS = r"(?:man|men|woman|women|person|people|boy|girl|child|children|adult)"
_POSSESSIVE = re.compile(rf"\b{_WORDS}[’']s?\s+")
_PEOPLE = re.compile(rf"\b{_WORDS}\b(?:(?:,| and)? {_WORDS}\b)*,?")
SYNONYMS = {
    "breast-feeding": "feeding baby",
    "merman": "merfolk",
    "mermaid": "merfolk",
    "merperson": "merfolk",
    "mrs. claus": "claus",
    "mx claus": "claus",
    "santa claus": "claus",
    "older": "old",
    "prince": "with crown",
    "princess": "with crown",
}


def family(label: str) -> str:
    """The family name of an English label (rules 1 and 2)."""
    name = label.lower().strip()
    if name.startswith("flag: "):
        return name
    name = name.replace(": facing right", "")
    name = _PEOPLE.sub(" ", _POSSESSIVE.sub(" ", name))
    name = " ".join(name.replace(" :", ":").split()).strip(" :,")
    return SYNONYMS.get(name, name) or "person"


def join(names: Sequence[str], twins: Iterable[tuple[int, int]]) -> list[str]:
    """The names after joining the families of twin concepts (rule 3).

    Args:
      names: family of every concept.
      twins: pairs of concept numbers drawn with one picture by some vendor.
    """
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for a, b in twins:
        first, second = sorted((root(names[a]), root(names[b])))
        parent[second] = first
    return [root(name) for name in names]


def held_out(name: str) -> bool:
    """Whether the family is kept from training (rule 4)."""
    digest = hashlib.sha256(f"emoji5:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 < HELD_OUT_TENTHS
