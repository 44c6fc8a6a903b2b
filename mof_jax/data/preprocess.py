"""How a picture becomes a model's input, in training, evaluation, generation and export alike."""

from __future__ import annotations

import dataclasses

from jaxtyping import UInt8
import numpy as np

from mof_jax.data import images


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Saved with every checkpoint. (Normalisation is a part of the model: pixels stay uint8 until they are on the device.)

    Attributes:
      image_size: side of the result, pixels. resize, resample, fill: see `images.resize`.
    """

    image_size: int
    resize: images.Resize = "squash"
    resample: images.Resample = "bicubic"
    fill: int = 255

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
            decoded = images.from_array(picture)
        else:
            decoded = images.decode(picture, source=source, record=record, at_least=self.image_size)
        return images.to_array(images.resize(decoded, self.image_size, self.resize, self.resample, self.fill))
