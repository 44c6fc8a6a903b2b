"""The accuracy of VQA (arXiv 1505.00468), by the rules of its official evaluation.

An answer earns min(n/3, 1) for the n annotators who gave it, averaged over the ten ways to leave one annotator out.
Answers are compared after a normalisation that every published number includes, its oddities too.
"""

from __future__ import annotations

from collections.abc import Sequence
import re

VERSION = "vqa/1"

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = {"a", "an", "the"}
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
           "eight": "8", "nine": "9", "ten": "10"}
# Whoever leaves out one apostrophe of these is given it back.
_APOSTROPHES = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've
you'd you'd've you'll you're you've""".split()
_CONTRACTIONS = {word[:i] + word[i + 1 :]: word for word in _APOSTROPHES for i, c in enumerate(word) if c == "'"}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the official table has this one the wrong way round

_GROUPED = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # the official code hands a flag over as the number of periods to strip


def normalise(text: str) -> str:
    """An answer as it is compared: punctuation out, lower case, digits for number words, no articles, apostrophes back.

    A punctuation mark vanishes where one of its kind touches a space, or anywhere if a number has digits grouped by a
    comma; otherwise it becomes a space. A period vanishes unless a digit follows.
    """
    grouped = _GROUPED.search(text) is not None
    vanishes = {mark: grouped or f"{mark} " in text or f" {mark}" in text for mark in _MARKS}
    text = text.translate({ord(mark): "" if vanishes[mark] else " " for mark in _MARKS})
    text = _PERIOD.sub("", text, count=_PERIODS)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, references: Sequence[str]) -> float:
    """Share of the credit that `answer` earns, 0 to 1.

    Where all annotators agree to the letter, nothing is normalised, the answer neither; case never counts.

    Args:
      references: one answer an annotator, ten in VQA, VQAv2 and OK-VQA.
    """
    answer, *references = (text.replace("\n", " ").replace("\t", " ").strip() for text in (answer, *references))
    if len(set(references)) > 1:
        answer, *references = map(normalise, (answer, *references))
    same = [reference.lower() == answer.lower() for reference in references]
    return sum(min(1.0, (sum(same) - mine) / 3) for mine in same) / len(same)
