"""Pictures of an example, each changed on its own: one set of views a field, of one size and one
augmentation."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
from jaxtyping import UInt8
import numpy as np
from PIL import Image

from mof_jax.data import keyed
from mof_jax.data.fields.field import Example, Field, OpenField, Setting
from mof_jax.data.image import augment
from mof_jax.data.image.augment import AugmentConfig
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.ranges import Count

Part = Literal["whole", "left", "right", "top", "bottom"]


@dataclasses.dataclass(frozen=True)
class Views(Field):
    """Pictures, uint8 [batch, count, size, size, 3].

    Attributes:
      size: their side, pixels; by default `data.image_size`.
      count: views an example.
      augment: random changes, drawn anew for each view; none by default.
      part: which half of the picture is shown, as if there were no other; of an odd side the middle line
        belongs to neither.
    """

    kind: ClassVar[str] = "views"

    size: Count | None = None
    count: Count = 1
    augment: AugmentConfig = AugmentConfig()
    part: Part = "whole"

    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, self.count, self.size, self.size, 3), np.uint8)

    def open(self, setting: Setting) -> OpenViews:
        return OpenViews(self, setting)

    def sized(self, image_size: int) -> Views:
        return self if self.size else dataclasses.replace(self, size=image_size)

    @property
    def plain(self) -> bool:
        """Whether every view shows the whole picture, resized."""
        return self.augment.whole and self.part == "whole"

    def at_least(self, preprocess: Preprocess) -> int:
        """Pixels that the short side of a picture should have, so that no view is enlarged more than it has
        to be."""
        own = preprocess.at(self.size)
        side = own.at_least if self.augment.whole or self.size == preprocess.image_size else self.size
        return int(np.ceil(side * self.augment.oversample * (1 if self.part == "whole" else 2)))


class View(NamedTuple):
    """One version of a picture, and the draws that its colours still need."""

    picture: Image.Image
    draws: keyed.Draws


class OpenViews(OpenField[list[View]]):
    """Cuts and resizes one picture at a time, and changes the colours of many.

    Attributes:
      fitted: whether the pictures come resized already, as they do where no other field needs more of them.
    """

    def __init__(self, views: Views, setting: Setting):
        self._views, self._key, self._preprocess = views, setting.key, setting.preprocess.at(views.size)
        self.fitted = False

    def load(self, example: Example) -> list[View]:
        v, p, picture, found = self._views, self._preprocess, example.picture, []
        if v.part != "whole":
            picture = half(picture, v.part)
        if v.augment.whole and not self.fitted:
            picture = p.fit(picture)
        for view in range(v.count):
            draws = example.draws(self._key, view)
            changed = augment.augment(picture, v.size, v.augment, draws, p.resize, p.resample)
            found.append(View(changed, draws))
        return found

    def collate(self, values: Sequence[list[View]]) -> UInt8[np.ndarray, "n count size size 3"]:
        views = [view for some in values for view in some]
        pixels = np.stack([np.asarray(view.picture) for view in views])
        pixels = augment.colour(pixels, self._views.augment, [view.draws for view in views])
        return pixels.reshape(len(values), -1, *pixels.shape[1:])


def half(picture: Image.Image, part: Part) -> Image.Image:
    """One of the two halves of a picture, side by side or one above the other."""
    width, height = picture.size
    across, down = max(1, width // 2), max(1, height // 2)
    boxes = {"left": (0, 0, across, height), "right": (width - across, 0, width, height),
             "top": (0, 0, width, down), "bottom": (0, height - down, width, height)}
    return picture.crop(boxes[part])
