"""Scores of pairs and groups against closed forms, brute force and the paper's table."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mof_jax.data.pairs import PATTERNS, pattern_of
from mof_jax.evals.metrics import paired
from mof_jax.evals.mmvp.mmvp_vlm_table import REFERENCES, compare

OF = [pattern for pattern in PATTERNS for _ in range(15)]

# arXiv 2401.06209, the table of ten models: percent by pattern, and the average.
PRINTED = """
13.3 13.3 20.0 20.0 13.3 53.3 20.0  6.7 13.3 19.3
 0.0 20.0 40.0 20.0  6.7 20.0 33.3  6.7 33.3 20.0
26.7 20.0 53.3 40.0 20.0 66.7 40.0 20.0 53.3 37.8
20.0 26.7 60.0 33.3 13.3 66.7 33.3 26.7 53.3 37.0
20.0 26.7 73.3 26.7 26.7 66.7 46.7 13.3 53.3 39.3
13.3 20.0 53.3 33.3 26.7 66.7 40.0 20.0 40.0 34.8
13.3  6.7 66.7  6.7 33.3 46.7 20.0  6.7 13.3 23.7
 6.7 13.3 60.0 13.3  6.7 53.3 26.7 13.3 33.3 25.2
 6.7 26.7 40.0  6.7 13.3 66.7 13.3 13.3 20.0 23.0
13.3 20.0 66.7 26.7 26.7 66.7 26.7 20.0 33.3 33.3
"""


def of_one_pair(right: bool) -> list[list[float]]:
    """Cosines of a pair whose image score is as said; its text score is wrong either way."""
    return [[0.3, 0.31], [0.29, 0.32]] if right else [[0.3, 0.31], [0.3, 0.25]]


@pytest.mark.parametrize("row, printed", list(zip(REFERENCES, PRINTED.strip().splitlines(), strict=True)))
def test_the_papers_table(row, printed):
    """From which pairs are right to what is printed; in MMVP-VLM's numbers and, as booleans, in MMVP's."""
    right = np.array([i < count for count in row.right for i in range(15)])
    found = paired.similarity_scores(np.array([of_one_pair(passed) for passed in right]), OF)
    assert found["pairs"] == 135
    expected = [float(x) for x in printed.split()]
    assert [round(x, 1) for x in (*paired.by_pattern(found, "image_score").values(), found["image_score"])] == expected
    assert found["image_score"] == pytest.approx(np.mean(list(row.scores.values()))) == pytest.approx(row.average)
    halves = np.stack([np.ones(135, bool), right], axis=1)
    asked = paired.pair_scores(halves, OF)
    assert round(asked["pair_accuracy"], 1) == expected[-1] and found["text_score"] == 0
    assert asked["question_accuracy"] == pytest.approx(50 + asked["pair_accuracy"] / 2)
    assert paired.by_pattern(asked, "pair_accuracy") == pytest.approx(row.scores)


def test_a_model_beside_the_ten():
    found = paired.similarity_scores(np.array([of_one_pair(True)] * 135), OF)
    table = compare(found, "mine")
    cells = [list(column.cells) for column in table.columns]
    assert cells[0][0] == "OpenAI ViT-L-14 224" and cells[0][-1] == "mine" and len(cells[0]) == 11 == len(cells)
    assert table.columns[6].header == "col" and cells[6][4] == "66.7" and cells[-1][4] == "39.3" and cells[-1][-1] == "100"


def test_pairs_need_both_halves():
    right = np.array([[True, True], [True, False], [False, True], [False, False]])
    assert paired.pair_accuracy(right).tolist() == [True, False, False, False]
    found = paired.pair_scores(right, ["text", "text", "", "colour"])
    assert found == {"pairs": 4, "pair_accuracy": 25, "pair_low": found["pair_low"], "pair_high": found["pair_high"],
                     "question_accuracy": 50, "pair_accuracy_text": 50, "pair_accuracy_colour": 0}
    assert list(paired.by_pattern(found, "pair_accuracy")) == ["colour", "text"]


def test_guessing_and_always_the_same():
    rng, n = np.random.default_rng(0), 40_000
    truth = np.stack([first := rng.integers(0, 2, n), 1 - first], axis=1)
    assert not paired.pair_accuracy(truth == 0).any() and not paired.pair_accuracy(truth == 1).any()
    guessed = paired.pair_scores(rng.integers(0, 2, (n, 2)) == truth)
    assert abs(guessed["pair_accuracy"] - 25) < 4 * 100 * math.sqrt(0.25 * 0.75 / n)
    assert abs(guessed["question_accuracy"] - 50) < 4 * 100 * math.sqrt(0.25 / (2 * n))
    assert guessed["pair_low"] < 25.5 and guessed["pair_high"] > 24.5


def test_the_interval_is_that_of_a_share():
    """37 of 150, as LLaVA-1.5: about ± 7 points."""
    low, high = paired.bootstrap_interval(np.arange(150) < 37)
    spread = 1.96 * math.sqrt(0.2467 * 0.7533 / 150)
    assert low == pytest.approx(0.2467 - spread, abs=0.012) and high == pytest.approx(0.2467 + spread, abs=0.012)
    assert paired.bootstrap_interval(np.ones(5, bool)) == (1.0, 1.0)


def test_mcnemar_counts_what_differs():
    """Closed forms: 2 · 2^-n if one is never behind, and the paper's 37 against 42 of 150, whatever the overlap."""
    some = lambda *right: np.isin(np.arange(150), right)
    assert paired.mcnemar(some(1, 2), some(1, 2)) == 1.0
    assert paired.mcnemar(some(*range(6)), some()) == pytest.approx(2 / 64)
    assert paired.mcnemar(some(*range(37)), some(*range(42))) == pytest.approx(2 / 32)  # the most favourable case
    assert paired.mcnemar(some(*range(37)), some(*range(32, 74))) > 0.5
    a, b = some(1, 2, 3, 4), some(4, 5)
    assert paired.mcnemar(a, b) == paired.mcnemar(b, a) == pytest.approx(2 * (1 + 4) / 16)


@pytest.mark.parametrize("k, count", [(2, 200_000), (3, 400_000)])
def test_what_chance_scores(k, count):
    found = paired.group_scores(np.random.default_rng(k).standard_normal((count, k, k)))
    rates = {"image": k**-k, "text": k**-k, "group": math.factorial(k - 1) / math.factorial(2 * k - 1),
             "group_match": 1 / math.factorial(k)}
    for name, rate in rates.items():
        assert abs(found[name].mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / count), name


def groups_of(k):
    square = st.lists(st.integers(-3, 3), min_size=k * k, max_size=k * k)
    return st.lists(square, min_size=1, max_size=6).map(lambda groups: np.array(groups, float).reshape(-1, k, k))


GROUPS = st.integers(1, 4).flatmap(groups_of)


@settings(max_examples=150, deadline=None)
@given(GROUPS, st.integers(1, 100), st.integers(-50, 50))
def test_group_scores_by_their_definitions(s, scale, bias):
    """Integers, so that ties are many; scale and bias change nothing; each score implies the next."""
    found, k = paired.group_scores(s), s.shape[1]
    for g, one in enumerate(s):
        last_best = [max(range(k), key=lambda i: (one[i, j], i)) for j in range(k)]
        text = all(one[i, i] > one[i, j] for i in range(k) for j in range(k) if i != j)
        strict = all(one[j, j] > one[i, j] for i in range(k) for j in range(k) if i != j)
        total = lambda order: sum(one[i, j] for i, j in enumerate(order))
        others = [order for order in itertools.permutations(range(k)) if order != tuple(range(k))]
        assert found["image"][g] == (last_best == list(range(k)))
        assert found["text"][g] == text and found["group"][g] == (text and strict)
        assert found["group_match"][g] == all(total(range(k)) > total(order) for order in others)
    assert not (found["group"] & ~(found["image"] & found["text"] & found["group_match"])).any()
    moved = paired.group_scores(scale * s + bias)
    assert all((moved[name] == found[name]).all() for name in found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), st.floats(1, 100), st.floats(-20, 20))
def test_the_script_of_mmvp_vlm(values, scale, bias):
    """Softmax over the two pictures, the first only if its probability exceeds one half: a comparison of two cosines."""
    s = np.array(values).reshape(2, 2)
    logits = scale * s + bias
    first = 1 / (1 + np.exp(logits[1] - logits[0])) > 0.5
    if np.abs(s[0] - s[1]).min() > 1e-6 or (s[0] == s[1]).all():
        assert paired.group_scores(s[None])["image"][0] == (first[0] and not first[1])


def test_ties_go_to_the_second_picture():
    image = lambda *s: bool(paired.group_scores(np.array([s], float))["image"][0])
    assert image((0.5, 0.4), (0.3, 0.4))  # the second text ties: it is the second picture's
    assert not image((0.5, 0.3), (0.5, 0.4))  # the first one ties
    constant = paired.group_scores(np.full((3, 3, 3), 0.1, np.float32))
    assert not any(passed.any() for passed in constant.values())


def test_scores_that_are_not_numbers_are_never_right():
    found = paired.group_scores(np.array([[[np.nan, 0], [0, 1.0]], [[np.nan] * 2] * 2]))
    assert not any(passed.any() for passed in found.values())


def test_groups_that_cannot_be_scored():
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3\)"):
        paired.group_scores(np.zeros((4, 2, 3)))
    with pytest.raises(ValueError, match="groups of 8: every matching is tried, of 1 to 7"):
        paired.group_scores(np.zeros((1, 8, 8)))


@pytest.mark.parametrize("name, key", [
    ("Orientation", "orientation"), ("Spatial", "position"), ("Color", "colour"), ("colour", "colour"), ("Texts", "text"),
    ("Structural_Character", "structure"), ("structural character", "structure"), ("Camera_Perspective", "viewpoint"),
    ("Positional and Relational Context", "position"), ("Presence of Specific Features", "presence"), ("taste", ""), ("", "")])
def test_names_of_patterns(name, key):
    assert pattern_of(name) == key
    assert all(pattern_of(spelt) == pattern for pattern, names in PATTERNS.items() for spelt in (pattern, *names))
