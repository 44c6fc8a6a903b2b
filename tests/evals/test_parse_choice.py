"""The letter parser: every rule by examples, and replies that must not be read."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from mof_jax.evals.answer.parse_choice import parse

ANIMALS = ("cat", "dog", "cat and dog", "no animal at all")


@pytest.mark.parametrize("reply, letter", [
    # 1: a letter and nothing else
    ("B", "B"), ("b", "B"), ("(b)", "B"), (" B.\n", "B"), ("**C**", "C"), ("[D]", "D"), ("a", "A"), ("`a`)", "A"),
    # 2: behind a cue
    ("The answer is B", "B"), ("the correct answer is (c), as one sees", "C"), ("Answer: **D**", "D"),
    ("Answer: d.", "D"),
    ("I choose option B because C is wrong", "B"), ("My choice: a", "A"),
    ("The answer is A because of the ears", "A"),
    ("A. cat\nB. dog\nThe answer is B.", "B"), ("Not option A; the answer is option D", "D"), ("answer is [B]", "B"),
    # 3: a label
    ("B. dog", "B"), ("(b) dog", "B"), ("C) both", "C"), ("d: none", "D"), ("Well.\nB. It has A tail", "B"),
    ("**B.** dog", "B"),
    # 4: alone
    ("I would say B, since it barks", "B"), ("It is (d) I think", "D"), ("B is what I see", "B"),
    ("A is what I see", "A"),
    # 5: by its words
    ("It is a dog.", "B"), ("A cat", "A"), ("a CAT and DOG sit there", "C"), ("Answer: a dog", "B"),
    ("No animal, at all!", "D"),
    ("The answer is a cat", "A"),
    # none, or several
    ("", None), ("E", None), ("A or B", None), ("Both A and B", None), ("(a) and (b)", None),
    ("a bird", None), ("?", None),
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
    for reply, expected in (("(a)", 0), ("(b) Closed", 1), ("Closed", 1), ("The eyes are open.", 0),
    ("open or closed", None)):
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


@pytest.mark.parametrize("reply, letter", [
    # turned down, in one way or another
    ("The answer is not A.", None), ("The answer isn't A.", None), ("I don't think the answer is A.", None),
    ("It can't be A", None),
    ("It is not A but B.", "B"), ("The correct answer is not B but A.", "A"),
    ("The answer isn't A, it's B.", "B"), ("A, not B", "A"),
    ("B rather than A", "B"), ("Option A is incorrect. It must be B.", "B"), ("(B). Option (A) is not right.", "B"),
    ("Answer: B, A is wrong", "B"), ("A is wrong and B is right", "B"),
    ("A is wrong. B is correct. C is also wrong.", "B"),
    ("A and C are both wrong, B it is", "B"), ("A, C and D can be ruled out.", None), ("neither A nor B", None),
    ("It is neither (a) nor (b), so (c).", "C"), ("We can eliminate A and B. That leaves C.", "C"),
    ("not A or B", None),
    ("The wrong answer is A.", None), ("The incorrect option is (a)", None), ("Anything but A", None),
    ("A does not match", None),
    ("Option A (cat) is incorrect; option B (dog) is correct.", "B"), ("A doesn't fit. D does.", "D"),
    ("Not A. Not B. C.", "C"),
    ("It's not A, B is right", "B"), ("Instead of A, the answer is C", "C"),
    ("If A were right, it would bark. So B.", "B"),
    ("Is it A? It is B.", "B"), ("A or B? I would say C.", "C"), ("All of A, B and C are wrong; D", "D"),
    ("A is never correct", None),
    ("There is no way it is A.", None), ("A is the least likely", None), ("The opposite of A", None),
    ("It is false that A is right", None),
    ("A is right? I don't think so", None), ("Wrong: A", None), ("Eliminated: A, C", None),
    ("Incorrect: A, C, D. Correct: B", "B"), ("A = wrong", None), ("The answer is A (not B)", "A"),
    ("A: wrong. B: right.", "B"), ("I wouldn't pick A", None), ("It's B and not A", "B"),
    ("I disagree with A. B is right", "B"),
    # described
    ("The answer is A. Option B shows a dog, which is not there.", "A"), ("(B). Option (A) shows a cat.", "B"),
    ("Option B shows a dog.", "B"), ("A shows a cat, B shows a dog. I would say B.", "B"),
    ("B. dog. A shows a cat", "B"),
    ("The answer is A. B shows a dog. C shows both.", "A"),
    ("Option A says cat, but there is no cat. So B.", "B"), ("Option A shows a cat. Option B shows a dog.", None),
    # taken back, contradicted, listed
    ("The answer is A. No, wait: B.", None), ("The answer is A. Sorry, B.", None),
    ("The answer is A. The answer is B.", None),
    ("A. cat\nI say B", None), ("A. cat\nB. dog\nOption B", "B"), ("A. cat\nB. dog\nI choose option B", "B"),
    ("Options: A. cat B. dog", None), ("The answer is A, B", None), ("The answer is A and B", None),
    ("(A) or (B)", None),
    # ways of writing
    (r"\boxed{A}", "A"), (r"So the result is \boxed{\text{B}}.", "B"), (r"Hence $\boxed{C}$", "C"),
    ("$A$", "A"), (r"\(D\)", "D"),
    ("**Answer:** A", "A"), ("**Answer**: A", "A"), ("Answer - B", "B"), ("Answer → C", "C"),
    ("<answer>B</answer>", "B"),
    ('{"answer": "B"}', "B"), ("Ｂ", "B"), ("（Ｂ）", "B"), ("答案是Ｂ。", "B"),
    ("The correct answer is **(B)**.", "B"),
    ("The answer is option B", "B"), ("The answer is clearly B", "B"),
    ("B is the correct answer, C shows both", "B"), ("Therefore, D.", "D"),
    ("Final answer: C", "C"), ("Option b is correct", "B"), ("ANSWER: B", "B"), ("answer:B", "B"),
    ("**B**\n\nExplanation: A is no dog", "B"), ("The answer is 'B'.", "B"), ("A: no. B: yes.", "B"),
    ("A (incorrect), B (correct)", "B"),
    ("A ✗ B ✓", "B"), ("A? No. B", "B"), ("A is the wrong answer", None),
    ("It's not the case that the answer is A", None),
    ("I think the answer is A but it is dark", "A"), ("It isn't clear whether A or B is right", None),
    ("A is no good", None),
    ("The answer is A or maybe B", None), ("The answer is A... actually B", None), ("答案：A和B", None),
    ("I'm not sure, but B", "B"),
    # other languages
    ("答案是B", "B"), ("答案：B", "B"), ("选B", "B"), ("我选择B。", "B"), ("應該選B", "B"),
    ("正确答案是 (B)。", "B"), ("答案不是A", None),
    ("不选A，选B", "B"), ("选项A是错误的，答案是B", "B"), ("A不正确，B正确", "B"), ("答えはBです", "B"),
    ("正解：C", "C"), ("Aではなく、Bです", "B"),
    ("정답은 B입니다", "B"), ("A가 아닙니다. 정답은 B", "B"), ("La respuesta es B", "B"),
    ("La respuesta no es A", None),
    ("No es A, es B.", "B"), ("La respuesta correcta es la B.", "B"), ("Respuesta: C", "C"),
    ("Die Antwort ist B", "B"),
    ("Die richtige Antwort lautet B.", "B"), ("Nicht A, sondern B", "B"), ("A ist falsch, B", "B"),
    ("réponse : B", "B"),
    ("La réponse est B", "B"), ("La réponse n'est pas A", None), ("A resposta é B", "B"),
    ("A resposta correta é (C).", "C"),
    ("La risposta è B", "B"), ("Non è A, è B", "B"), ("ответ: B", "B"), ("Правильный ответ — C", "C"),
    ("не A, а B", "B"),
    ("Cevap: B", "B"), ("Đáp án là B", "B"), ("Het antwoord is B", "B"), ("الإجابة هي B", "B"), ("คำตอบคือB", "B"),
    ("정답은 A가 아니라 B입니다", "B"), ("답은 A가 아닙니다", None), ("我认为不是A，而是B", "B"),
    ("A和B都不对", None), ("正解はAではない", None),
    ("La respuesta correcta no es la A", None), ("La A es incorrecta, la B es correcta", "B"),
    ("Die Antwort A ist falsch", None),
    ("Antwort A ist nicht richtig, Antwort B ist richtig", "B"), ("La réponse A n'est pas correcte", None),
    ("Ответ не A, а B", "B"),
    ("A resposta não é A", None), ("La risposta A è sbagliata", None), ("De antwoord is niet A", None),
    ("Cevap A değil", None),
    # by its words, unless they are turned down
    ("It is not a cat.", None), ("It's a dog, not a cat.", "B"), ("There isn't a cat", None),
    ("A cat is not visible, a dog is", "B"),
    ("None of the above", None), ("None of the options match.", None), ("None of A, B, C", None),
])
def test_what_a_person_reads_or_nobody(reply, letter):
    """Never a wrong letter: what nobody can tell is left unread."""
    assert parse(reply, ANIMALS) == (None if letter is None else "ABCD".index(letter))


@pytest.mark.parametrize("options, reply, right", [
    (("True", "False"), "B. False", 1), (("True", "False"), "(B) False", 1), (("True", "False"), "B: False", 1),
    (("Yes", "No"), "(b) No, it is not", 1), (("Yes", "No"), "B, it is not raining", 1),
    (("Yes", "No"), "The answer is (b) No.", 1),
    (("Open", "Not open"), "(b) Not open", 1), (("Open", "Not open"), "B - not open", 1),
    (("Open", "Not open"), "not open", 1),
    (("Right", "Wrong"), "B. Wrong", 1), (("cat", "dog"), "Option A: cat is wrong. B", 1),
    (("cat", "dog"), "A (cat) is wrong. B", 1)])
def test_an_option_that_is_repeated_is_no_verdict(options, reply, right):
    assert parse(reply, options) == right


def test_none_of_the_above_may_be_an_option():
    assert parse("None of the above", ("cat", "dog", "None of the above")) == 2
    assert parse("No", ("Yes", "No")) == 1 and parse("No, they are closed", ("Yes", "No")) == 1
    assert parse("Not open", ("Open", "Closed")) is None and parse("closed, not open", ("Open", "Closed")) == 1


@pytest.mark.parametrize("reply", ["not " * 20_000, "A or " * 20_000, "is " * 20_000 + "A", "(" * 50_000,
                                   "A, " * 20_000 + "and B",
                                   "option " * 20_000, "not is " * 20_000 + "A?", "answer is " * 10_000, "no. " * 20_000])
def test_long_replies_take_no_time(reply):
    begun = time.perf_counter()
    parse(reply, ANIMALS)
    assert time.perf_counter() - begun < 5
