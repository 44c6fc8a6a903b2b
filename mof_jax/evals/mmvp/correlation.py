"""Do CLIP's weaknesses become the multimodal model's? Pearson's r over the visual patterns (arXiv 2401.06209).

Nine points are few: |r| must exceed 0.67 for p < 0.05, and the patterns differ much in size.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import TYPE_CHECKING

from jaxtyping import Float
import numpy as np
from scipy import stats

from mof_jax.data.pairs import PATTERNS
from mof_jax.errors import UserError
from mof_jax.evals.mmvp.mmvp_vlm_table import REFERENCES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESAMPLES = 2000

# The encoders whose mean is the paper's CLIP curve (found by arithmetic: it equals the mean of these three rows of the table).
_CURVE = (("OpenAI ViT-L-14", 224), ("OpenAI ViT-L-14", 336), ("EVA01 ViT-g-14", 224))

# MMVP pair accuracy by pattern, percent, read off the paper's figure 6 (± 0.3), in the order of `PATTERNS`.
PAPER_MLLMS: dict[str, dict[str, float]] = {
    model: dict(zip(PATTERNS, values, strict=True)) for model, values in {
        "LLaVA-1.5": (0.0, 33.3, 26.7, 18.2, 26.1, 69.2, 23.5, 0.0, 16.7),
        "InstructBLIP": (0.0, 19.1, 40.0, 18.2, 13.0, 23.1, 35.3, 0.0, 0.0),
        "Gemini": (16.7, 44.4, 53.3, 27.3, 39.1, 69.2, 33.3, 50.0, 27.3),
        "GPT-4V": (8.3, 50.0, 33.3, 27.3, 43.5, 69.2, 41.2, 75.0, 16.7),
    }.items()
}
# As printed. The values of InstructBLIP give 0.61: one of its pairs is probably plotted off.
PAPER_R = {"LLaVA-1.5": 0.87, "InstructBLIP": 0.71, "Gemini": 0.72, "GPT-4V": 0.31}


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Pearson's r with its two-sided p-value, and the 95 % bootstrap interval over patterns."""

    r: float
    p: float
    low: float
    high: float
    patterns: tuple[str, ...]


def paper_clip() -> dict[str, float]:
    """The paper's CLIP curve: MMVP-VLM image score by pattern, percent."""
    rows = [row.scores for row in REFERENCES if (row.model, row.pixels) in _CURVE]
    return {pattern: float(np.mean([row[pattern] for row in rows])) for pattern in PATTERNS}


def correlate(clip: Mapping[str, float], mllm: Mapping[str, float], seed: int = 0) -> Correlation:
    """How a CLIP model's scores go with a multimodal model's over the patterns that both have, see `paired.by_pattern`.

    Raises:
      UserError: fewer than three patterns in common, or scores that are all equal.
    """
    patterns = tuple(pattern for pattern in PATTERNS if pattern in clip and pattern in mllm)
    if len(patterns) < 3:
        raise UserError(f"correlation: {len(patterns)} patterns have both scores; three at least, and labels for MMVP's pairs")
    x, y = (np.array([scores[pattern] for pattern in patterns], np.float64) for scores in (clip, mllm))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise UserError("correlation: one of the models scores the same on every pattern; there is nothing to correlate")
    found = stats.pearsonr(x, y)
    return Correlation(float(found.statistic), float(found.pvalue), *_interval(x, y, seed), patterns)


def _interval(x: Float[np.ndarray, "patterns"], y: Float[np.ndarray, "patterns"], seed: int) -> tuple[float, float]:
    """95 % interval of r over patterns drawn with replacement; draws of one value alone have no r and are left out."""
    rows = np.random.default_rng(seed).integers(len(x), size=(_RESAMPLES, len(x)))
    a, b = x[rows], y[rows]
    several = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    a, b = ((z - z.mean(axis=1, keepdims=True))[several] for z in (a, b))
    r = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    low, high = np.quantile(r, [0.025, 0.975])
    return float(low), float(high)


def paper() -> dict[str, Correlation]:
    """The paper's correlations, computed anew from its table and figure."""
    return {model: correlate(paper_clip(), scores) for model, scores in PAPER_MLLMS.items()}


def plot(clip: Mapping[str, float], mllms: Mapping[str, Mapping[str, float]], label: str = "CLIP") -> Figure:
    """Scores by pattern as lines, the CLIP model's in black with its best pattern first; r stands in the legend."""
    from matplotlib.figure import Figure

    order = sorted(clip, key=lambda pattern: -clip[pattern])
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(order, [clip[pattern] for pattern in order], "ko-", label=label)
    for model, scores in mllms.items():
        found = correlate(clip, scores)
        shared = [pattern for pattern in order if pattern in scores]
        axes.plot(shared, [scores[pattern] for pattern in shared], "o--", label=f"{model}: r = {found.r:.2f}, p = {found.p:.2g}")
    axes.set(ylabel="pairs right (%)", ylim=(0, 100))
    axes.tick_params(axis="x", rotation=30)
    axes.legend(frameon=False, fontsize="small")
    return figure
