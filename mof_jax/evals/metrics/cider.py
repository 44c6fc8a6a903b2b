"""CIDEr-D (arXiv 1411.5726, section 6): how alike a caption is to those that people wrote, by tf-idf of n-grams.

The tokenizer here cuts like the Penn Treebank and drops punctuation, as COCO's evaluation does with Stanford's Java
tokenizer. It is not that tokenizer and does not claim its output: rare forms (URLs, 'em, o’clock) are cut otherwise. Of the
8,420 glosses and names that come with the package, Stanford CoreNLP 3.4.1 cuts 99.8 % in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import math
import re
from typing import NamedTuple, TypeAlias

from jaxtyping import Float
import numpy as np

VERSION = "cider-d/1 tokenizer ptb/1"

Ngram: TypeAlias = tuple[str, ...]

_N = 4
_SIGMA = 6.0  # words; width of the penalty on lengths that differ

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": "."})
_CLITICS = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_PAIRS = re.compile(r"\b(can|gon|wan|got|gim|lem)(not|na|ta|me)\b")
_TOKEN = re.compile(
    r"(?:[a-z]\.){2,}"  # p.m.
    r"|\b(?:mr|mrs|ms|dr|st|mt|jr|sr|vs|etc)\."
    r"|n't(?!\w)|'(?:s|m|d|re|ve|ll)(?!\w)"
    r"|\d+(?:[.,:]\d+)+"  # 1,000  3.5  3:30
    r"|[^\W_]+(?:[-/_'][^\W_]+)*"  # t-shirt  and/or  o'clock
    r"|[^\w\s]|_"
)
_DROPPED = frozenset("'\"`.?!,:-;")


def tokenize(text: str) -> list[str]:
    """Words in lower case without punctuation; clitics stand alone (`do n't`, `dog 's`), hyphens and brackets stay."""
    text = _CLITICS.sub(r" \1", text.translate(_PLAIN).lower())
    return [token for token in _TOKEN.findall(_PAIRS.sub(r"\1 \2", text)) if token not in _DROPPED]


class _Vector(NamedTuple):
    """tf-idf of a caption by order of the n-gram, its norms, and its length in words."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    length: int


def document_frequency(references: Sequence[Sequence[Sequence[str]]]) -> Counter[Ngram]:
    """In how many pictures' references (picture, caption, word) each n-gram occurs."""
    return Counter(gram for captions in references for gram in {g for caption in captions for g in _ngrams(caption)})


def cider_d(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    frequency: Mapping[Ngram, int],
    pictures: int,
) -> Float[np.ndarray, "captions"]:
    """One score a candidate, 0 to 10; papers print the mean times 100 (`114.6` is a mean of 1.146).

    Counts of a candidate are clipped to the reference's, and every reference is weighed by exp(-Δ²/2σ²) of the
    difference in length Δ, so that repeating what scores well does not pay. An n-gram that no reference has counts as
    having been seen in one picture.

    Args:
      candidates: words of one caption a picture. references: words of each picture's own captions, at least one.
      frequency: `document_frequency` of the reference corpus, of `pictures` pictures.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates for the references of {len(references)} pictures")
    scores = np.zeros(len(candidates))
    for i, (candidate, captions) in enumerate(zip(candidates, references)):
        ours = _vector(candidate, frequency, pictures)
        theirs = [_vector(caption, frequency, pictures) for caption in captions]
        scores[i] = 10.0 * sum(_similarity(ours, reference) for reference in theirs) / len(theirs)
    return scores


def _ngrams(words: Sequence[str]) -> list[Ngram]:
    return [tuple(words[i : i + n]) for n in range(1, _N + 1) for i in range(len(words) - n + 1)]


def _vector(words: Sequence[str], frequency: Mapping[Ngram, int], pictures: int) -> _Vector:
    weights: list[dict[Ngram, float]] = [{} for _ in range(_N)]
    for gram, count in Counter(_ngrams(words)).items():
        weights[len(gram) - 1][gram] = count * math.log(pictures / max(1, frequency.get(gram, 0)))
    return _Vector(weights, [math.sqrt(sum(w * w for w in of_order.values())) for of_order in weights], len(words))


def _similarity(ours: _Vector, reference: _Vector) -> float:
    """Clipped cosine, averaged over the orders of n-grams, times the penalty on the lengths' difference."""
    total = 0.0
    for mine, theirs, norm, other in zip(ours.weights, reference.weights, ours.norms, reference.norms):
        if norm and other:
            total += sum(min(w, theirs[g]) * theirs[g] for g, w in mine.items() if g in theirs) / (norm * other)
    return total / _N * math.exp(-((ours.length - reference.length) ** 2) / (2 * _SIGMA**2))
