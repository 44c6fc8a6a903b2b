"""Numbers of a config with their ranges beside their types: `steps: Count`, `dropout: Share`. `config.build` checks them.

Every number of a config has one (`tests/test_ranges.py` walks all sections). A plain `int` or `float` there is any finite number:
a position counted from the end, a bias.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included but for those that `above` and `below` leave out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies inside."""
        low = self.low < value if self.above else self.low <= value
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        high = f"{'below' if self.below else 'at most'} {self.high:g}"
        return " and ".join(text for text, bound in ((low, self.low), (high, self.high)) if math.isfinite(bound))


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PartOf = Annotated[float, Range(0, 1, below=True)]  # a share that leaves something: a decay, a dropout
Grey = Annotated[int, Range(0, 255)]
