"""What a config file claims: arms, a metric, conditions that must hold. `claim()` beside `get_config`
returns one.

    def claim() -> Claim:
        return Claim("Sigmoid is no worse than softmax at a batch of 256.",
                     arms={"sigmoid": {"objective.kind": "sigmoid"}, "softmax": {}}, metric="retrieval/r@1",
                     conditions=(Equivalence("sigmoid", "softmax", margin=1.0),), minutes=5)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
from typing import Any, Literal, NamedTuple, TypeAlias

from mof_jax.errors import UserError
from mof_jax.parsing import show

SEEDS = (0, 1, 2)  # of a verdict; they run once
PILOT = 100  # seeds from here on try a claim out


class Contrast(NamedTuple):
    """One comparison: how much better `arm` is than `over`, by a metric."""

    arm: str
    over: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Lead:
    """`arm` is better than `over`.

    Attributes:
      metric: `EVALUATOR/KEY`, empty for the claim's own. claimed: by how much the paper says; for the
        reader, no threshold.
    """

    arm: str
    over: str
    metric: str = ""
    claimed: float | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(better, worse) of each comparison."""
        return [(self.arm, self.over)]

    def __str__(self) -> str:
        return f"{self.arm} > {self.over}"


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """`arm` differs from `over` by less than `margin`, in the metric's own units: two one-sided tests."""

    arm: str
    over: str
    margin: float
    metric: str = ""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The one comparison."""
        return [(self.arm, self.over)]

    def __str__(self) -> str:
        return f"{self.arm} = {self.over} ± {self.margin:g}"


@dataclasses.dataclass(frozen=True)
class Order:
    """Each arm is better than the next one."""

    arms: tuple[str, ...]
    metric: str = ""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each arm with the next."""
        return list(itertools.pairwise(self.arms))

    def __str__(self) -> str:
        return " > ".join(self.arms)


Condition: TypeAlias = Lead | Equivalence | Order


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that runs can judge.

    Attributes:
      says: one sentence.
      arms: name -> overrides over `get_config()`, as in a sweep's grid. `base:NAME` in a value stands for
        the work dir of that base model.
      metric: `EVALUATOR/KEY` of an evaluator that every arm's config has, and that keeps items.
      minutes: what the runs of a seed may take, for the reader.
      conditions: all must hold; by default that the first arm leads the second.
      lower: metrics of which less is better.
      bases: name -> `FILE.py[:ARG]`, models that arms begin from. They are trained once for a config, its
        data and the code.
      data: what the runs learn from: pictures that come with the package, a synthetic signal, or files of
        the user's.
      paper: arXiv id.
    """

    says: str
    arms: Mapping[str, Mapping[str, Any]]
    metric: str
    minutes: float
    conditions: tuple[Condition, ...] = ()
    lower: tuple[str, ...] = ()
    bases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: Literal["embedded", "synthetic signal", "files"] = "embedded"
    paper: str = ""

    def __post_init__(self):
        """Raises:
          UserError: naming what is wrong.
        """
        if len(self.arms) < 2:
            raise UserError(f"claim: arms: a claim compares two at least, this one has {len(self.arms)}")
        if not self.says.strip() or not self.minutes > 0:
            raise UserError("claim: says is one sentence, minutes a number above 0")
        if not self.conditions:
            object.__setattr__(self, "conditions", (Lead(*list(self.arms)[:2]),))
        for condition in self.conditions:
            if not condition.pairs:
                raise UserError(f"claim: {condition!r} compares nothing; an order has two arms at least")
            for arm in itertools.chain(*condition.pairs):
                if arm not in self.arms:
                    raise UserError(
                        f"claim: conditions: no arm is called {show(arm)} (arms: {', '.join(self.arms)})"
                    )
            if isinstance(condition, Equivalence) and not condition.margin > 0:
                raise UserError(
                    f"claim: margin of {condition.arm} = {condition.over}: {condition.margin} is not above 0"
                )
        for metric in (*self.metrics, *self.lower):
            name, slash, key = metric.partition("/")
            if not (name and slash and key):
                raise UserError(f"claim: metric {show(metric)}: write EVALUATOR/KEY")
        if unused := next((metric for metric in self.lower if metric not in self.metrics), None):
            raise UserError(
                f"claim: lower: {unused} is the metric of no condition (those are: {', '.join(self.metrics)})"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of all conditions, each once; the claim's own first."""
        return tuple(dict.fromkeys((self.metric, *(metric_of(c, self) for c in self.conditions))))

    def contrasts(self, condition: Condition) -> Iterator[Contrast]:
        """The comparisons of a condition. Where less is better, the sides are exchanged: a lead above 0 is
        better."""
        metric = metric_of(condition, self)
        for arm, over in condition.pairs:
            yield Contrast(over, arm, metric) if metric in self.lower else Contrast(arm, over, metric)


def metric_of(condition: Condition, claim: Claim) -> str:
    """The metric that a condition is about."""
    return condition.metric or claim.metric
