"""The official VQA rule: normalisation by examples worked out by hand, accuracy against all ten subsets."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from mof_jax.evals.metrics.vqa_accuracy import accuracy, normalise


@pytest.mark.parametrize("text, expected", [
    ("The Dog", "dog"),
    ("an apple and a pear", "apple and pear"),
    ("two", "2"), ("none", "0"), ("Ten", "10"), ("eleven", "eleven"),
    ("cant", "can't"), ("couldnt've", "couldn't've"), ("couldn'tve", "couldn't've"), ("couldntve", "couldntve"),
    ("somebody'd", "somebodyd"), ("Im", "im"),  # words are in lower case before the table is asked
    ("yes.", "yes"), ("3.5", "3.5"), ("U.S.", "us"), ("2.", "2"),
    ("red, white", "red white"),  # a comma beside a space vanishes
    ("red,white", "red white"),  # any other becomes one
    ("1,000", "1000"), ("1,000 (about)", "1000 about"),
    ("t-shirt", "t shirt"), ("t-shirt 1,000", "tshirt 1000"),  # digits grouped by a comma: every mark vanishes
    ("black/white - grey", "black white grey"),
    ("dog's", "dog's"), ("10:30", "10:30"),  # neither an apostrophe nor a colon is punctuation here
    ("what?!", "what"), ("", ""), ("the", ""),
    ("." * 40, "." * 8),  # 32 periods are stripped
])
def test_normalisation(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("count, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_credit_by_number_of_annotators(count, expected):
    references = ["red"] * count + [f"other {i}" for i in range(10 - count)]
    assert accuracy("red", references) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["red", "Red.", "a red", "blue", "two", "2"]), min_size=10, max_size=10),
       st.sampled_from(["red", "RED", "2", "two.", "green"]))
def test_accuracy_is_the_mean_over_ten_choose_nine(references, answer):
    if len(set(references)) > 1:
        expected_of = normalise
    else:
        expected_of = str.lower
    of_subset = [min(1, sum(expected_of(r) == expected_of(answer) for r in nine) / 3)
                 for nine in itertools.combinations(references, 9)]
    assert accuracy(answer, references) == pytest.approx(sum(of_subset) / 10)


def test_nothing_is_normalised_where_all_annotators_agree():
    assert accuracy("two", ["2"] * 10) == 0.0 and accuracy("two", ["2"] * 9 + ["two"]) == 1.0
    assert accuracy("YES", ["yes"] * 10) == 1.0 and accuracy("yes.", ["yes"] * 10) == 0.0


def test_line_breaks_are_spaces():
    assert accuracy(" red\nball ", ["red ball"] * 5 + ["red\tball"] * 5) == 1.0
