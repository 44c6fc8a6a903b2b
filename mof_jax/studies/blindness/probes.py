"""What is in a tower's features at all: a linear probe on the pooled one, an attentive probe on the patches, pattern by pattern.

A probe learns a pattern's facts as classes from the training pictures and is asked as the readers are: of a question's two
options, the one whose class is likelier. So its pair accuracy stands beside theirs, chance 25 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.data.pairs import PATTERNS
from mof_jax.data.worlds.pattern_world import Scene, answer
from mof_jax.evals.embed import attentive_probe
from mof_jax.evals.embed.probe import fit, standardised

_STRENGTH = 1e-3


class Learned(NamedTuple):
    """Features [pictures, …] to learn from, with each picture's scene and which of its two pictures it is."""

    features: Float[np.ndarray, "pictures ..."]
    scenes: Sequence[Scene]
    which: Int[np.ndarray, "pictures"]


class Asked(NamedTuple):
    """Features [twice the scenes, …] of both pictures of each scene in turn."""

    features: Float[np.ndarray, "twice ..."]
    scenes: Sequence[Scene]


def fact_class(scene: Scene, which: int) -> str:
    """The fact of a picture, told from the picture alone: what is asked for is a part of it where the pattern varies that."""
    fact = scene.facts[which]
    return fact if scene.pattern == "presence" else answer(scene.pattern, fact)


def options(scenes: Sequence[Scene], classes: Sequence[str]) -> Int[np.ndarray, "scenes 2"]:
    """Class numbers of the facts of both pictures; the first is right for the first picture."""
    number = {name: i for i, name in enumerate(classes)}
    return np.array([[number[fact_class(s, w)] for w in (0, 1)] for s in scenes])


def right(scores: Float[np.ndarray, "scenes 2 classes"], options: Int[np.ndarray, "scenes 2"]) -> Bool[np.ndarray, "scenes 2"]:
    """Of each scene's two pictures, whether its own fact scores higher than the other picture's; a tie is wrong."""
    own = np.take_along_axis(scores, options[:, :, None], axis=2)[..., 0]
    other = np.take_along_axis(scores, options[:, ::-1, None], axis=2)[..., 0]
    return own > other


def linear(train: Learned, tests: Mapping[str, Asked]) -> dict[str, Bool[np.ndarray, "scenes 2"]]:
    """A linear probe a pattern on features [pictures, dim]: what it gets right of each test set."""

    def fitted(x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
        standard, _ = standardised(x, x[:1])
        weights = np.asarray(fit(standard, y, classes, _STRENGTH, 60))
        return lambda test: standardised(x, test)[1] @ weights[:-1] + weights[-1]

    return _by_pattern(train, tests, fitted)


def attentive(train: Learned, tests: Mapping[str, Asked], seed: int = 0) -> dict[str, Bool[np.ndarray, "scenes 2"]]:
    """On features [pictures, patches, width]: a pattern's learned queries attend over the patches with their places; a linear
    layer reads what they gather."""

    def fitted(x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
        params = attentive_probe.fit(x, y, classes, seed)
        return lambda test: attentive_probe.scores(params, test)

    return _by_pattern(train, tests, fitted)


def _by_pattern(train: Learned, tests: Mapping[str, Asked], fitted: Callable) -> dict[str, Bool[np.ndarray, "scenes 2"]]:
    result = {name: np.zeros((len(test.scenes), 2), bool) for name, test in tests.items()}
    for pattern in PATTERNS:
        mine = _of(train.scenes, pattern)
        facts = [fact_class(train.scenes[i], int(train.which[i])) for i in mine]
        classes = sorted(set(facts))
        scores = fitted(train.features[mine], np.array([classes.index(fact) for fact in facts]), len(classes))
        for name, test in tests.items():
            rows = _of(test.scenes, pattern)
            both = np.stack([2 * rows, 2 * rows + 1], axis=1).reshape(-1)
            found = scores(test.features[both]).reshape(len(rows), 2, -1)
            result[name][rows] = right(found, options([test.scenes[i] for i in rows], classes))
    return result


def _of(scenes: Sequence[Scene], pattern: str) -> Int[np.ndarray, "rows"]:
    return np.array([i for i, scene in enumerate(scenes) if scene.pattern == pattern])
