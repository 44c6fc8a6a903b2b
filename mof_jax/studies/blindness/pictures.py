"""The world as arrays: what the readers learn from, and the pairs that everything is examined on."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from mof_jax.data.pairs import PATTERNS
from mof_jax.data.worlds.pattern_world import PatternWorld, Scene, render, scene
from mof_jax.studies.blindness import exam
from mof_jax.studies.blindness.plan import Study


class Lesson(NamedTuple):
    """Pictures [n], each with its scene, which of the scene's two it is, and its texts [n, kinds]."""

    pixels: UInt8[np.ndarray, "pictures height width 3"]
    scenes: list[Scene]
    which: np.ndarray
    texts: exam.Texts


@dataclasses.dataclass(frozen=True)
class Size:
    """What decides the arrays of a lesson."""

    pictures: int
    pixels: int
    stated: float = 0.25


@functools.lru_cache(maxsize=1)
def vocabulary() -> exam.Vocabulary:
    return exam.Vocabulary()


@functools.lru_cache(maxsize=2)
def training(size: Size) -> Lesson:
    """The first pictures of the split `train`, one a scene."""
    source = PatternWorld(size.pictures, "train", size.pixels, stated=size.stated)
    items = [source.scene(i) for i in range(size.pictures)]
    return _lesson([s for s, _ in items], [w for _, w in items], [source.states(i) for i in range(size.pictures)], size.pixels)


@functools.lru_cache(maxsize=4)
def examination(split: str, pairs: int, pixels: int) -> Lesson:
    """`pairs` scenes of every pattern, both pictures of each: 2i and 2i + 1 are scene i's. Captions state the fact."""
    scenes = [scene(pattern, n, split) for pattern in PATTERNS for n in range(pairs)]
    twice = [s for s in scenes for _ in (0, 1)]
    return _lesson(twice, [0, 1] * len(scenes), [True] * len(twice), pixels)


def lesson(study: Study, split: str) -> Lesson:
    """The pictures of a split, with the captions that towers learn from in `train`."""
    if split == "train":
        return training(Size(study.pictures, study.pixels))
    return examination(split, study.dev_pairs if split == "dev" else study.pairs, study.pixels)


def taught(study: Study) -> Lesson:
    """What readers learn: the captions say the fact, as instruction data does; the towers' captions are another matter."""
    return training(Size(study.pictures, study.pixels, stated=1.0))


def _lesson(scenes: list[Scene], which: list[int], stated: list[bool], pixels: int) -> Lesson:
    words = vocabulary()
    shown = np.stack([render(s, w, pixels) for s, w in zip(scenes, which)])
    return Lesson(shown, scenes, np.array(which), exam.stack([exam.texts(words, *x) for x in zip(scenes, which, stated)]))
