"""Patterns in braces, as shards are named in: `{00000..00012}.tar`, `{train,val}.csv`."""

from __future__ import annotations

import itertools
import re

from mof_jax.errors import UserError

MOST_NAMES = 100_000  # that one pattern may stand for

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")


def spelled_out(pattern: str) -> list[str]:
    """The names that a pattern stands for, in order; braces around neither a range nor a list are letters like others.

    Numbers have as many digits as both ends of their range have, or as its beginning has if that begins with 0.

    Raises:
      UserError: no names, or too many.
    """
    pieces: list[list[str]] = []
    count, end = 1, 0
    for match in _BRACES.finditer(pattern):
        if found := _RANGE.fullmatch(match[1]):
            low, high = map(int, found.groups())
            width = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
            number = max(0, high - low + 1)
            names = (f"{n:0{width}d}" for n in range(low, high + 1))
        elif "," in match[1]:
            words = match[1].split(",")
            number, names = len(words), iter(words)
        else:
            continue
        count *= number
        if not 0 < count <= MOST_NAMES:
            raise UserError(f"{pattern}: the braces stand for {count:,} names; 1 to {MOST_NAMES:,} are read")
        pieces += [[pattern[end : match.start()]], list(names)]
        end = match.end()
    return ["".join(parts) for parts in itertools.product(*pieces, [pattern[end:]])]
