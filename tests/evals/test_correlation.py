"""The paper's correlations, from its own table and figure."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax.data.pairs import PATTERNS
from mof_jax.errors import UserError
from mof_jax.evals.metrics import paired
from mof_jax.evals.mmvp import correlation


def test_the_papers_curve_is_the_mean_of_three_rows():
    counts = [round(45 * value / 100, 6) for value in correlation.paper_clip().values()]
    assert dict(zip(PATTERNS, counts)) == {"orientation": 3, "presence": 9, "state": 15, "quantity": 7, "position": 5,
                                           "colour": 21, "structure": 10, "text": 4, "viewpoint": 10}


def test_the_papers_correlations():
    found = correlation.paper()
    assert {model: round(c.r, 3) for model, c in found.items()} == {
        "LLaVA-1.5": 0.870, "InstructBLIP": 0.606, "Gemini": 0.721, "GPT-4V": 0.308}
    for model in ("LLaVA-1.5", "Gemini", "GPT-4V"):  # InstructBLIP's figure and text do not agree
        assert round(found[model].r, 2) == correlation.PAPER_R[model]
    assert found["LLaVA-1.5"].p < 0.01 and found["Gemini"].p < 0.05 < found["GPT-4V"].p
    assert all(c.low <= c.r <= c.high and len(c.patterns) == 9 for c in found.values())


def test_r_and_p_by_hand():
    """r² (n − 2) / (1 − r²) is F distributed; exact for a line, symmetric, blind to scale and offset."""
    clip = dict(zip(PATTERNS, (1.0, 2.0, 3.0)))
    assert correlation.correlate(clip, {key: 5 - 2 * value for key, value in clip.items()}).r == pytest.approx(-1)
    three = correlation.correlate(clip, dict(zip(PATTERNS, (1.0, 3.0, 2.0))))
    assert three.r == pytest.approx(0.5) and three.p == pytest.approx(2 / 3)  # t = 1/√3 of one degree of freedom
    nine = {pattern: float(value) for pattern, value in zip(PATTERNS, np.random.default_rng(0).standard_normal(9))}
    other = {pattern: float(value) for pattern, value in zip(PATTERNS, np.random.default_rng(1).standard_normal(9))}
    a, b = correlation.correlate(nine, other), correlation.correlate({k: 7 * v + 3 for k, v in other.items()}, nine)
    assert (a.r, a.p) == pytest.approx((b.r, b.p))
    assert a.r == pytest.approx(np.corrcoef(list(nine.values()), list(other.values()))[0, 1])


def test_only_patterns_that_both_have():
    right = np.random.default_rng(0).integers(0, 2, (100, 2)) > 0
    of = [["colour", "text", "state", "viewpoint", ""][i % 5] for i in range(100)]
    mllm = paired.by_pattern(paired.pair_scores(right, of), "pair_accuracy")
    assert correlation.correlate(correlation.paper_clip(), mllm).patterns == ("state", "colour", "text", "viewpoint")


def test_mistakes():
    clip = correlation.paper_clip()
    with pytest.raises(UserError, match="correlation: 2 patterns have both scores; three at least"):
        correlation.correlate(clip, {"text": 1.0, "colour": 2.0, "taste": 3.0})
    with pytest.raises(UserError, match="scores the same on every pattern"):
        correlation.correlate(clip, dict.fromkeys(PATTERNS, 25.0))


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    figure = correlation.plot(correlation.paper_clip(), correlation.PAPER_MLLMS)
    (axes,) = figure.axes
    black = axes.lines[0]
    assert list(black.get_ydata()) == sorted(black.get_ydata(), reverse=True) and len(axes.lines) == 5
    assert "LLaVA-1.5: r = 0.87, p = 0.0023" in [text.get_text() for text in axes.get_legend().get_texts()][1]
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
