"""What makes a pair blind: one rule a feature, a cosine strictly above or below a threshold given by value or by quantile."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Literal

from mof_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A cosine must lie strictly on one `side` of a threshold.

    Attributes:
      value: the threshold, in [-1, 1]. quantile: or the quantile of the cosines of all pairs that it is, in (0, 1).
    """

    side: Literal["above", "below"]
    value: float | None = None
    quantile: float | None = None

    def __post_init__(self):
        if self.side not in ("above", "below") or (self.value is None) == (self.quantile is None):
            raise UserError("a rule is above or below, of a value or of a quantile")
        if self.value is not None and not -1 <= self.value <= 1:
            raise UserError(f"threshold {self.value:g}: a cosine lies in [-1, 1]")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise UserError(f"threshold q{self.quantile:g}: a quantile lies between 0 and 1")

    @classmethod
    def parse(cls, side: Literal["above", "below"], text: str) -> Rule:
        """`0.95`, or `q0.999` for a quantile.

        Raises:
          UserError: not a number, or out of range.
        """
        try:
            number = float(text.removeprefix("q"))
        except ValueError:
            raise UserError(f"threshold {text!r}: expected a cosine such as 0.95, or a quantile such as q0.999") from None
        return cls(side, quantile=number) if text.startswith("q") else cls(side, number)

    @property
    def sign(self) -> int:
        """+1 or -1: the rule is `sign * cosine > sign * threshold`."""
        return 1 if self.side == "above" else -1


# CLIP-blind pairs of arXiv 2401.06209: alike to CLIP ViT-L/14, unlike to DINOv2 ViT-L/14.
PAPER: dict[str, Rule] = {"clip": Rule("above", 0.95), "ssl": Rule("below", 0.6)}


def pair_up(above: Mapping[str, str], below: Mapping[str, str], names: list[str]) -> dict[str, Rule]:
    """A rule for each feature: those given, else the paper's for the names `clip` and `ssl`.

    Raises:
      UserError: a rule for a feature that is not there, two for one, or none.
    """
    rules = {name: PAPER[name] for name in names if name in PAPER}
    for side, given in (("above", above), ("below", below)):
        for name, text in given.items():
            if name not in names:
                raise UserError(f"--{side} {name}={text}: no feature of that name (there is {', '.join(names)})")
            if name in above and name in below:
                raise UserError(f"feature {name}: a rule above and one below; give one")
            rules[name] = Rule.parse(side, text)
    for name in names:
        if name not in rules:
            raise UserError(f"feature {name}: no rule; add --above {name}=… or --below {name}=…")
    return {name: rules[name] for name in names}
