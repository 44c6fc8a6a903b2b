"""CIDEr-D by hand, against dense linear algebra, and the properties that D stands for; the tokenizer by examples."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mof_jax.evals.metrics.cider import cider_d, document_frequency, tokenize


def scores(candidates, references):
    return cider_d([c.split() for c in candidates], split(references), document_frequency(split(references)), len(references))


def split(references):
    return [[caption.split() for caption in captions] for captions in references]


def test_by_hand():
    """Two pictures, so that every n-gram here weighs log 2 = L."""
    references = [["a b"], ["c d"]]
    # Unigrams and the bigram agree, there is nothing longer: 10 · (1 + 1 + 0 + 0) / 4.
    assert scores(["a b", "x y"], references) == pytest.approx([5.0, 0.0])
    # Unigrams (2L, 2L) clipped to (L, L): 2L² / (√8 L · √2 L) = 1/2. Bigrams ab, ba (2L, L) against ab (L): L² / (√5 L · L).
    # Two words longer: exp(-4 / 72).
    expected = 10 * (1 / 2 + 1 / math.sqrt(5)) / 4 * math.exp(-4 / 72)
    assert scores(["a b a b", "c d"], references) == pytest.approx([expected, 5.0])
    # Half as good as the mean over two references of which one is the candidate and the other shares nothing.
    assert scores(["a b", "c d"], [["a b", "x y"], ["c d"]]) == pytest.approx([2.5, 5.0])


def test_what_every_picture_shares_weighs_nothing():
    """`a` is in both pictures: log(2/2) = 0, and a sentence of nothing else has no direction."""
    assert scores(["a", "c"], [["a b"], ["a c"]])[0] == 0.0
    assert scores(["a"], [["a"]]).tolist() == [0.0]  # one picture alone weighs nothing at all
    assert scores(["", "c d"], [["a b"], ["c d"]])[0] == 0.0


def test_the_best_caption_is_a_reference():
    references = [["a man rides a red horse", "one rider on his horse"], ["two dogs play with a small ball", "dogs at play"]]
    ranked = scores(["a man rides a red horse", "two dogs play with a small ball"], references)
    assert (ranked > scores(["a man on a horse", "two dogs"], references)).all()
    assert (scores(["red horse " * 6, "dogs " * 9], references) < ranked / 4).all()  # repeating what scores does not pay


def dense(candidates, references):
    """The same from whole vectors over the vocabulary of n-grams."""
    grams = lambda words, n: [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    total = np.zeros(len(candidates))
    for n in (1, 2, 3, 4):
        vocabulary = sorted({g for words in [*candidates, *(c for r in references for c in r)] for g in grams(words, n)})
        if not vocabulary:
            continue
        count = lambda words: np.array([grams(words, n).count(g) for g in vocabulary], float)
        seen = np.array([[max(count(c)[k] > 0 for c in captions) for captions in references] for k in range(len(vocabulary))])
        idf = np.log(len(references)) - np.log(np.maximum(seen.sum(1), 1))
        for i, (candidate, captions) in enumerate(zip(candidates, references)):
            x = count(candidate) * idf
            for caption in captions:
                y = count(caption) * idf
                size = np.linalg.norm(x) * np.linalg.norm(y)
                delta = len(candidate) - len(caption)
                value = np.minimum(x, y) @ y / size if size else 0.0
                total[i] += 10 / 4 / len(captions) * value * np.exp(-0.5 * (delta / 6) ** 2)
    return total


SENTENCE = st.lists(st.sampled_from("abcde"), min_size=0, max_size=7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_equals_dense_vectors(pictures):
    candidates, references = [c for c, _ in pictures], [r for _, r in pictures]
    found = cider_d(candidates, references, document_frequency(references), len(references))
    np.testing.assert_allclose(found, dense(candidates, references), atol=1e-9)


def test_the_corpus_may_be_larger_than_what_is_scored():
    references = split([["a b"], ["a d"], ["e f"], ["g h"]])
    alone = cider_d([["a", "b"]], references[:1], document_frequency(references), 4)
    assert alone[0] == cider_d([["a", "b"]] * 4, references, document_frequency(references), 4)[0] > 0


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 candidates for the references of 2"):
        cider_d([["a"]], [[["a"]], [["b"]]], {}, 2)


@pytest.mark.parametrize("text, words", [
    ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
    ("Two men (one old), riding \"red\" bikes; and/or a cat...", "two men ( one old ) riding red bikes and/or a cat"),
    ("A 10-year-old T-shirt & jeans cost $5.50 at 3:30 p.m.", "a 10-year-old t-shirt & jeans cost $ 5.50 at 3:30 p.m."),
    ("It’s a “quoted” word – and — dash…", "it 's a quoted word and dash"),
    ("We cannot say, they're gonna 1,000 people!", "we can not say they 're gon na 1,000 people"),
    ("  a close up\nof a cat -- ", "a close up of a cat"),
    ("men's/women's", "men 's / women 's"),
    ("?!", ""),
])
def test_tokenizer(text, words):
    assert tokenize(text) == words.split()
