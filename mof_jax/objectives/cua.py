"""Terms that close the gap between modalities: uniformity inside and across them, and alignment of pairs.

"It's Not a Modality Gap" (arXiv 2405.18570) adds them to CLIP's loss: CUA is softmax, uniformity of images and of texts, and
alignment; CUAXU has uniformity across both sides as well. They are those of Wang and Isola (arXiv 2005.10242).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from flax import nnx
import jax
import jax.numpy as jnp

from mof_jax.mesh import BATCH_AXES
from mof_jax.objectives.loss import Context, Features, Loss
from mof_jax.objectives.objective import Objective
from mof_jax.objectives.scores import Statistic, scores
from mof_jax.ranges import Count, Positive


@dataclasses.dataclass(frozen=True)
class Uniformity(Objective):
    """Features spread over the sphere: the log of the mean of exp(-t·|x_i - y_j|²) over i ≠ j (arXiv 2005.10242, eq. 3).

    Of one feature with itself (`of=("image", "image")`) or of two; of the first view of each, unit norm. Images that share a
    caption are points like any other here. Streamed: two points of unit norm are 2 - 2⟨x, y⟩ apart.

    Attributes:
      of: the two features.
      t: width of the kernel.
      diagonal: the form that the paper prints: (1/N)·Σ over all i, j, those with i = j among them.
      block_size: rows of the score matrix held at a time.
    """

    kind: ClassVar[str] = "uniformity"
    of: tuple[str, str] = ("image", "image")
    t: Positive = 2.0
    diagonal: bool = False
    block_size: Count = 512

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.of))

    def count(self, batch: Features, context: Context) -> float:
        """One: the term is a number of the whole batch."""
        return 1.0

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        x, y = (features[name][:, 0] for name in self.of)
        where = {} if context.mesh is None else dict(mesh=context.mesh, batch_axes=BATCH_AXES)
        s = scores(x, y, scale=2.0 * self.t, block_size=self.block_size, **where)
        (rows,) = s.reduce(Statistic("lse", "all" if self.diagonal else "negatives"))
        n = x.shape[0]
        pairs = n if self.diagonal else n * (n - 1)
        return Loss(jax.nn.logsumexp(rows) - math.log(pairs) - 2.0 * self.t, 1.0)


@dataclasses.dataclass(frozen=True)
class Alignment(Objective):
    """The mean of |x_i - y_i|² over pairs (arXiv 2005.10242, eq. 2, α = 2), of the first view of each.

    Attributes:
      of: the two features.
    """

    kind: ClassVar[str] = "alignment"
    couples_rows: ClassVar[bool] = False
    of: tuple[str, str] = ("image", "text")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.of))

    def count(self, batch: Features, context: Context) -> float:
        """Pairs."""
        return float(batch[self.of[0]].shape[0])

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        x, y = (features[name][:, 0].astype(jnp.float32) for name in self.of)
        return Loss(jnp.square(x - y).sum(), float(x.shape[0]))
