"""Which option a reply chooses, read off its words by fixed rules; no judge, no network.

The rules, in order; the first that finds an option decides:

    1  the reply is a letter, in whatever brackets, stars or punctuation        `B`  `(b).`  `**C**`
    2  one follows the last "answer is", "answer:", "option" or "choice"; a small
       one only in brackets or at the end ("the answer is a cat")               `The answer is (b) because …`
    3  exactly one letter labels a line, and no other is joined to it           `B. a cat`  `(b) a cat`
    4  exactly one letter stands alone: in brackets or as a capital that is no
       word ("A cat" is about a cat)                                            `I would say B, since …`
    5  the reply holds the words of exactly one option, of several that contain
       each other of the longest                                                `It is a cat.`

Letters that the question does not have are not letters. A reply that no rule reads is wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
import string

VERSION = "letters/1"

# Whether a capital A or I is a word and no option: what follows it says so.
_WORD = r"(?<=[AI])\s+(?!(?:is|and|or|nor|because|since|as)\b)[a-z]"
_CUE = re.compile(r"\b(?:answer|option|choice)(?:\s+(?:is|would be))?\s*:?", re.IGNORECASE)
_WORDS = re.compile(r"[^\W_]+")
_FRAME = " \t\r\n*_`'\".,:;!?()[]{}<>"


def parse(reply: str, options: Sequence[str]) -> int | None:
    """The number of the option that a reply chooses, None if the rules above find none or several.

    Args:
      options: texts of A, B, …, at most 26.
    """
    letters = string.ascii_uppercase[: len(options)]
    for found in (_whole(reply, letters), _cued(reply, letters), _labels(reply, letters), _alone(reply, letters)):
        if len(found) == 1:
            return letters.index(found.pop())
    named = _named(reply, options)
    return named.pop() if len(named) == 1 else None


def _whole(reply: str, letters: str) -> set[str]:
    bare = reply.strip(_FRAME).upper()
    return {bare} if len(bare) == 1 and bare in letters else set()


def _cued(reply: str, letters: str) -> set[str]:
    """Rule 2: the letter that follows the last cue, unless another one is joined to it."""
    cues = list(_CUE.finditer(reply))
    if not cues:
        return set()
    small = letters.lower()
    one = rf"(?:[(\[]?([{letters}])\b(?!{_WORD})|[(\[]([{small}])[)\]]|([{small}])[.*_`'\"\s]*$)"
    found = re.match(rf"[\s*_`'\"]*{one}{_not_joined(letters)}", reply[cues[-1].end() :])
    return {next(group for group in found.groups() if group).upper()} if found else set()


def _not_joined(letters: str) -> str:
    """A pattern of what does not go on with "and B", "or (b)", ", C"."""
    return rf"(?!\W*(?:\b(?:and|or)\b|,|/)\W*(?:[{letters}]\b|(?<=[(\[])[{letters.lower()}][)\]]))"


def _labels(reply: str, letters: str) -> set[str]:
    """Rule 3: letters at the beginning of a line, in brackets or before a point, a bracket or a colon."""
    either = letters + letters.lower()
    one = rf"(?:[(\[]([{either}])[)\]]|([{either}])[.):])(?=\W|$)"
    found = re.finditer(rf"^[ \t*_`'\"]*{one}{_not_joined(letters)}", reply, re.MULTILINE)
    return {(match[1] or match[2]).upper() for match in found}


def _alone(reply: str, letters: str) -> set[str]:
    """Rule 4."""
    either = letters + letters.lower()
    found = re.finditer(rf"[(\[]([{either}])[)\]]|(?<![\w'’-])([{letters}])(?![\w'’-])(?!{_WORD})", reply)
    return {(match[1] or match[2]).upper() for match in found}


def _named(reply: str, options: Sequence[str]) -> set[int]:
    """Rule 5: options whose words stand in the reply in a row, without those whose words a found one contains."""
    tidy = lambda text: " " + " ".join(_WORDS.findall(text.lower())) + " "
    reply, texts = tidy(reply), [tidy(option) for option in options]
    found = {i for i, text in enumerate(texts) if text.strip() and text in reply}
    return {i for i in found if not any(texts[i] in texts[j] and texts[i] != texts[j] for j in found)}
