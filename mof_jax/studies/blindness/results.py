"""What the jobs left, as arrays; and the comparisons that the report is made of."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools

from jaxtyping import Bool, Float
import numpy as np

from mof_jax.data.pairs import PATTERNS
from mof_jax.evals.metrics.paired import paired_interval
from mof_jax.studies.blindness.jobs import best_ratio
from mof_jax.studies.blindness.plan import Study
from mof_jax.studies.blindness.store import Job, read

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of pair accuracies in points: the mean over seeds, and each seed's with its 95 % paired bootstrap interval over pairs."""

    mean: float
    seeds: tuple[tuple[float, float, float], ...]

    @property
    def clear(self) -> bool:
        """Whether every seed's interval lies on one side of 0."""
        return all(low > 0 for _, low, _ in self.seeds) or all(high < 0 for _, _, high in self.seeds)


class Results:
    """All results of a study's folder, read as they are asked for."""

    def __init__(self, study: Study, folder: str):
        self.study, self.folder = study, folder
        self.reader = functools.cache(lambda arm, seed: read(folder, Job("readers", arm, seed)))
        self.probe = functools.cache(lambda tower, seed: read(folder, Job("probes", tower, seed)))
        self.mined = functools.cache(lambda seed: read(folder, Job("mined", "pairs", seed)))

    @functools.cached_property
    def amof(self) -> str:
        """The A-MoF arm whose ratio the dev world chose."""
        return best_ratio(self.study, self.folder)

    def seeds(self, arm: str) -> tuple[int, ...]:
        return self.study.seeds if arm == self.amof else self.study.seeds_of(arm)

    def pairs(self, arm: str, seed: int, split: str = "test") -> Bool[np.ndarray, "pairs"]:
        """Whether both questions of each pair were answered rightly."""
        return np.all(self.reader(arm, seed)["splits"][split]["right"], axis=1)

    def pair_accuracy(self, arm: str, split: str = "test") -> Float[np.ndarray, "seeds"]:
        """In percent, a seed."""
        return np.array([100 * self.pairs(arm, seed, split).mean() for seed in self.seeds(arm)])

    def by_pattern(self, arm: str, split: str = "test") -> Float[np.ndarray, "seeds patterns"]:
        """Pair accuracy in percent. Scenes come pattern by pattern, equally many of each."""
        return np.array([self.patterned(self.pairs(arm, seed, split)) for seed in self.seeds(arm)])

    @staticmethod
    def patterned(right: Bool[np.ndarray, "pairs"]) -> Float[np.ndarray, "patterns"]:
        """Means in percent by pattern."""
        return 100 * np.asarray(right, float).reshape(len(PATTERNS), -1).mean(1)

    def other(self, arm: str, key: str, split: str = "test") -> Float[np.ndarray, "seeds"]:
        """`right` (questions), `named` or `cider`, in percent (CIDEr as papers print it)."""
        found = [np.mean(self.reader(arm, seed)["splits"][split][key]) for seed in self.seeds(arm)]
        return np.array(found) * (1 if key == "cider" else 100)

    def difference(self, arm: str, base: str, split: str = "test", pattern: str | None = None) -> Difference:
        """`arm` minus `base`, seed by seed over the same pairs, of one pattern or of all."""
        both = [seed for seed in self.seeds(arm) if seed in self.seeds(base)]
        chosen = lambda right: right if pattern is None else right.reshape(len(PATTERNS), -1)[list(PATTERNS).index(pattern)]
        rows = [(chosen(self.pairs(arm, seed, split)), chosen(self.pairs(base, seed, split))) for seed in both]
        seeds = tuple((100 * (a.mean() - b.mean()), *(100 * x for x in paired_interval(a, b))) for a, b in rows)
        return Difference(float(np.mean([d for d, _, _ in seeds])), seeds)

    # Blindness

    def ssl_threshold(self, seed: int) -> float:
        """Largest cosine of a pair that the SSL tower tells apart: a quantile of its dev pairs."""
        return self.mined(seed)["ssl_below"]

    def blind(self, seed: int, split: str = "test", ssl_below: float | None = None) -> Bool[np.ndarray, "pairs"]:
        """Pairs that CLIP takes for one picture and the SSL tower does not: the paper's definition, its second threshold
        re-fitted where none is given."""
        clip = np.array(self.probe("clip", seed)[split]["cosines"]["pooled"])
        ssl = np.array(self.probe("ssl", seed)[split]["cosines"]["patches"])
        return (clip > self.study.clip_above) & (ssl < (self.ssl_threshold(seed) if ssl_below is None else ssl_below))

    def blind_gain(self, arm: str, base: str, seed: int, split: str = "test") -> tuple[float, float, float]:
        """Gain of `arm` over `base` on blind pairs minus that on the others, in points, with its 95 % bootstrap interval.

        Matched: the others count in each pattern with the weight that the pattern has among the blind pairs, so that patterns
        that are blind and hard do not pass for an effect of blindness. Patterns without both kinds of pairs are left out.
        """
        gain = self.pairs(arm, seed, split).astype(float) - self.pairs(base, seed, split)
        blind = self.blind(seed, split)
        groups = [(gain[p][blind[p]], gain[p][~blind[p]]) for p in np.split(np.arange(len(gain)), len(PATTERNS))]
        groups = [(a, b) for a, b in groups if len(a) and len(b)]
        if not groups:
            return float("nan"), float("nan"), float("nan")
        weights = np.array([len(a) for a, _ in groups]) / sum(len(a) for a, _ in groups)
        rng = np.random.default_rng(seed)
        draw = lambda x: rng.choice(x, (_RESAMPLES, len(x))).mean(1)
        draws = sum(w * (draw(a) - draw(b)) for w, (a, b) in zip(weights, groups))
        value = sum(w * (a.mean() - b.mean()) for w, (a, b) in zip(weights, groups))
        return 100 * float(value), *(100 * float(q) for q in np.quantile(draws, [0.025, 0.975]))

    # Probes

    def probed(self, tower: str, seeds: Sequence[int], kind: str, split: str = "test") -> Float[np.ndarray, "patterns"]:
        """Pair accuracy of a probe by pattern, mean over seeds."""
        return np.mean([self.patterned(np.all(self.probe(tower, seed)[split][kind], axis=1)) for seed in seeds], axis=0)

    def statements(self, tower: str, seeds: Sequence[int], split: str = "test") -> Float[np.ndarray, "patterns"]:
        """A CLIP's image score on the statements, as MMVP-VLM has it, by pattern, mean over seeds."""
        return np.mean([self.patterned(self.probe(tower, seed)[split]["statements"]["image"]) for seed in seeds], axis=0)
