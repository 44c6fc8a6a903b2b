"""From rows of two arms to an interval, from intervals of three seeds to a verdict.

    shown      the 95 % interval is above 0 in every seed
    refuted    below 0 in every seed
    undecided  anything else

Equivalence is two one-sided tests at 5 % (Schuirmann 1987): shown where both one-sided 95 % bounds lie
inside of the margin in every seed, refuted where the two-sided 95 % interval lies outside in every seed. Of
several conditions all must hold: one that is refuted refutes the claim, and one that is undecided leaves it
so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float
import numpy as np

from mof_jax.claims.claim import Condition, Equivalence
from mof_jax.errors import UserError
from mof_jax.evals.items import Items
from mof_jax.evals.metrics.paired import paired_resamples
from mof_jax.parsing import show

Verdict = Literal["shown", "refuted", "undecided"]


class Interval(NamedTuple):
    """A lead with its two-sided 95 % interval, and the one-sided 95 % bounds, `above` which and `below`
    which it lies."""

    lead: float
    low: float
    high: float
    above: float
    below: float

    @classmethod
    def of(cls, lead: float, draws: Float[np.ndarray, "resamples"]) -> Interval:
        """From a bootstrap's leads."""
        low, above, below, high = np.quantile(draws, [0.025, 0.05, 0.95, 0.975])
        return cls(lead, *map(float, (low, high, above, below)))


def compare(arm: Items, over: Items, where: str) -> Interval:
    """How much larger a figure is for `arm` than for `over`, with its paired bootstrap interval over units.

    Args:
      where: what is compared, to name in errors.

    Raises:
      UserError: rows of other units or another statistic, or a figure that is no number.
    """
    ours, theirs = set(arm.units), set(over.units)
    if odd := next(iter(ours ^ theirs), None):
        raise UserError(
            f"{where}: the arms were not evaluated on the same units; {show(odd)} is in one of them only"
        )
    if arm.statistic != over.statistic:
        raise UserError(f"{where}: one arm's figure is a {arm.statistic}, the other's a {over.statistic}")
    lead = arm.figure() - over.figure()
    if not np.isfinite(lead):
        raise UserError(f"{where}: the figures {arm.figure()} and {over.figure()} have no finite difference")
    return Interval.of(lead, paired_resamples(arm, over))


def judge(condition: Condition, seeds: Sequence[Interval]) -> Verdict:
    """The verdict on one comparison of a condition, from its interval in each seed."""
    if isinstance(condition, Equivalence):
        m = condition.margin
        if all(-m < x.above and x.below < m for x in seeds):
            return "shown"
        return "refuted" if all(x.high < -m or x.low > m for x in seeds) else "undecided"
    if all(x.low > 0 for x in seeds):
        return "shown"
    return "refuted" if all(x.high < 0 for x in seeds) else "undecided"


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict where all of several must hold."""
    found = set(verdicts)
    return "refuted" if "refuted" in found else "undecided" if "undecided" in found else "shown"
