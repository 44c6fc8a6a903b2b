"""How a picture becomes a model's input, in training, evaluation, generation and export alike."""

from __future__ import annotations

import dataclasses

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from mof_jax.data.image import images


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Saved with every checkpoint. (Normalisation is a part of the model: pixels stay uint8 until they are on the device.)

    Attributes:
      image_size: side of the result, pixels. resize, resample, fill, resize_side: see `images.resize`.
      pixels: whose pixels these are where libraries differ (odd modes, orientation, where a crop begins; see `images`). A
        model of another library keeps that library's, so that it sees what it was made for.
    """

    image_size: int
    resize: images.Resize = "squash"
    resample: images.Resample = "bicubic"
    fill: images.Fill = 255
    resize_side: int | None = None
    pixels: images.Pixels = "ours"

    def __post_init__(self):
        if self.resize_side is not None and (self.resize_side < 1 or self.resize not in ("crop", "squash", "square")):
            raise ValueError(f"resize_side {self.resize_side} with resize {self.resize!r}: a positive side, for crop, squash "
                             "and square")
        if isinstance(self.fill, list):  # from JSON
            object.__setattr__(self, "fill", tuple(self.fill))

    def __call__(
        self, picture: bytes | UInt8[np.ndarray, "height width 3"], source: str, record: str
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Pixels of an encoded picture, or of one that is decoded already.

        Args:
          source, record: who to name in an error.

        Raises:
          BadExample: the bytes are no picture.
        """
        if isinstance(picture, np.ndarray):
            return images.to_array(self.fit(images.from_array(picture)))
        decoded = images.decode(picture, source=source, record=record, at_least=self.at_least, pixels=self.pixels)
        return images.to_array(self.fit(decoded))

    @property
    def at_least(self) -> int:
        """Pixels that the short side of a picture should have."""
        return max(self.image_size, self.resize_side or 0)

    def fit(self, picture: Image.Image) -> Image.Image:
        """A decoded picture at its final size, RGB."""
        return images.resize(picture, self.image_size, self.resize, self.resample, self.fill, self.resize_side, self.pixels)

    def at(self, image_size: int) -> Preprocess:
        """The same for pictures of another size."""
        side = self.resize_side and max(1, round(self.resize_side * image_size / self.image_size))
        return dataclasses.replace(self, image_size=image_size, resize_side=side)
