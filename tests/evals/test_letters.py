"""The letter parser: every rule by examples, and replies that must not be read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from mof_jax.evals.letters import parse

ANIMALS = ("cat", "dog", "cat and dog", "no animal at all")


@pytest.mark.parametrize("reply, letter", [
    # 1: a letter and nothing else
    ("B", "B"), ("b", "B"), ("(b)", "B"), (" B.\n", "B"), ("**C**", "C"), ("[D]", "D"), ("a", "A"), ("`a`)", "A"),
    # 2: behind a cue
    ("The answer is B", "B"), ("the correct answer is (c), as one sees", "C"), ("Answer: **D**", "D"), ("Answer: d.", "D"),
    ("I choose option B because C is wrong", "B"), ("My choice: a", "A"), ("The answer is A because of the ears", "A"),
    ("A. cat\nB. dog\nThe answer is B.", "B"), ("Not option A; the answer is option D", "D"), ("answer is [B]", "B"),
    # 3: a label
    ("B. dog", "B"), ("(b) dog", "B"), ("C) both", "C"), ("d: none", "D"), ("Well.\nB. It has A tail", "B"), ("**B.** dog", "B"),
    # 4: alone
    ("I would say B, since it barks", "B"), ("It is (d) I think", "D"), ("B is what I see", "B"), ("A is what I see", "A"),
    # 5: by its words
    ("It is a dog.", "B"), ("A cat", "A"), ("a CAT and DOG sit there", "C"), ("Answer: a dog", "B"), ("No animal, at all!", "D"),
    ("The answer is a cat", "A"),
    # none, or several
    ("", None), ("E", None), ("A or B", None), ("Both A and B", None), ("(a) and (b)", None), ("a bird", None), ("?", None),
    ("the answer is A or B", None), ("A. cat\nB. dog", None), ("a dogma of concatenation", None), ("X-A-B", None),
    ("Vitamin C and grade B", None), ("the dog and no animal at all", None),
])
def test_replies(reply, letter):
    found = parse(reply, ANIMALS)
    assert found == (None if letter is None else "ABCD".index(letter))


def test_only_letters_of_the_question_count():
    assert parse("C", ("yes", "no")) is None and parse("C", ("yes", "no", "maybe")) == 2
    assert parse("The answer is C. No.", ("yes", "no")) == 1  # read by its words instead


def test_mmvp_pairs():
    for reply, expected in (("(a)", 0), ("(b) Closed", 1), ("Closed", 1), ("The eyes are open.", 0), ("open or closed", None)):
        assert parse(reply, ("Open", "Closed")) == expected


def test_options_of_the_same_words_are_not_told_apart():
    assert parse("red", ("red", "Red!", "blue")) is None and parse("blue", ("red", "Red!", "blue")) == 2


def test_an_option_without_words_is_never_named():
    assert parse("dog", ("...", "dog")) == 1 and parse("cat", ("...", "dog")) is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ABCabc .:()[]*\n,isanwer", max_size=30), st.permutations(ANIMALS))
def test_never_fails_and_never_leaves_the_range(reply, options):
    assert parse(reply, options) in (None, 0, 1, 2, 3)
    assert parse(reply, options) == parse(reply, options)
