"""Hard negatives mixed in feature space: MoCHi (arXiv 2010.01028), on the queue and the teacher of MoCo (arXiv 1911.05722).

A query is one view of an image, its positive the teacher's feature of another view, and its negatives are what the teacher made
of the last `queue` images. Of these, the `hardest` are mixed with each other and with the query:

    h = unit(α·n_a + (1 - α)·n_b), α ~ U(0, 1)          `mixed` a query
    h = unit(β·q + (1 - β)·n_c),   β ~ U(0, 1/2)        `with_query` a query; β < 1/2, so that it stays a negative

Nothing flows back through a mixture or into the queue. With neither of the two the loss is MoCo's.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mof_jax.errors import UserError
from mof_jax.nn.layers import l2_normalize
from mof_jax.nn.module import moving
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.ranges import Count, Positive, Whole

Rows = Float[Array, "rows dim"]


@dataclasses.dataclass(frozen=True)
class Mochi(Objective):
    """InfoNCE of a view and the teacher's feature of the next one, against a queue and mixtures of its hardest entries.

    The scores with the queue are [rows, queue], spread over devices as the rows are; the queue is on every device.

    Attributes:
      of: the feature, [rows, views, dim] of unit norm, with two views at least and a teacher (`model.teacher.of`).
      queue: entries: the teacher's features of the last so many images, random ones at the start.
      hardest: of the queue, those with the largest cosines that are mixed.
      mixed, with_query: mixtures of a query's hardest entries with each other, and with the query.
      temperature: of the softmax.
      begin: steps before the first mixture.
    """

    kind: ClassVar[str] = "mochi"
    of: str = "image"
    queue: Count = 16384
    hardest: Count = 1024
    mixed: Whole = 1024
    with_query: Whole = 128
    temperature: Positive = 0.2
    begin: Whole = 0

    def __post_init__(self):
        if self.hardest > self.queue:
            raise ValueError(f"hardest: {self.hardest} is more than the queue holds ({self.queue})")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of, f"teacher/{self.of}")

    def build(self, rngs: nnx.Rngs, dims: Mapping[str, int]) -> Queue:
        return Queue(rngs, self.queue, dims[self.of])

    def count(self, batch: Features, context: Context) -> float:
        """Queries."""
        return float(batch[f"teacher/{self.of}"].shape[0])

    def loss(self, own: Queue, features: Features, context: Context) -> Loss:
        if features[self.of].shape[1] < 2:
            raise UserError(f"config.data.views: {self.kind} compares two views of an image; set it to 2")
        q = features[self.of][:, 0].astype(jnp.float32)
        k = jax.lax.stop_gradient(features[f"teacher/{self.of}"][:, 1].astype(jnp.float32))
        rows, entries = q.shape[0], jax.lax.stop_gradient(own.entries[...])
        if rows > self.queue:
            raise UserError(f"config.objective: a queue of {self.queue} for a batch of {rows}; make it {rows} or more")
        negatives = q @ entries.T
        scores = [jnp.sum(q * k, -1, keepdims=True), negatives]
        if context.key is not None and self.mixed + self.with_query:
            mixtures = jax.lax.stop_gradient(mixtures_of(
                context.key, q, entries, negatives, self.hardest, self.mixed, self.with_query))
            harder = jnp.einsum("rd,rmd->rm", q, mixtures)
            scores.append(jnp.where(context.step >= self.begin, harder, -jnp.inf))
        scores = jnp.concatenate(scores, -1) / self.temperature
        total = (jax.nn.logsumexp(scores, -1) - scores[:, 0]).sum()
        metrics = {"hardest": Mean(negatives.max(-1).sum(), float(rows)), "positive": Mean(jnp.sum(q * k), float(rows))}
        return Loss(total, float(rows), metrics, {} if context.key is None else own.take(k))

    def flops(self, batch_size: int, dims: Mapping[str, int]) -> float:
        return 3.0 * 2.0 * batch_size * (self.queue + self.mixed + self.with_query) * dims[self.of]


class Queue(nnx.Module):
    """A ring of features in the order of the global batches, the oldest overwritten first."""

    def __init__(self, rngs: nnx.Rngs, size: int, dim: int):
        first = jax.random.normal(rngs.params(), (size, dim), jnp.float32)
        self.entries = moving(l2_normalize(first), (None, None))
        self.at = moving(jnp.zeros((), jnp.int32), ())

    def take(self, rows: Rows) -> dict[str, Array]:
        """The ring with `rows` in the place of its oldest, and where the next ones go."""
        size, at = self.entries.shape[0], self.at[...]
        places = (at + jnp.arange(rows.shape[0])) % size
        return {"entries": self.entries[...].at[places].set(rows), "at": (at + rows.shape[0]) % size}


def mixtures_of(
    key: Key[Array, ""], q: Rows, entries: Float[Array, "queue dim"], cosines: Float[Array, "rows queue"], hardest: int,
    mixed: int, with_query: int,
) -> Float[Array, "rows mixtures dim"]:
    """Unit-norm mixtures of each query's hardest entries: `mixed` of two of them, then `with_query` of one and the query."""
    rows = q.shape[0]
    index: Int[Array, "rows hardest"] = jax.lax.top_k(cosines, hardest)[1]
    pairs, alphas, ones, betas = jax.random.split(key, 4)

    def some(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "rows chosen dim"]:
        chosen = jax.random.randint(key, shape, 0, hardest)
        return entries[jnp.take_along_axis(index, chosen, -1)]

    first, second = jnp.split(some(pairs, (rows, 2 * mixed)), 2, axis=1)
    alpha = jax.random.uniform(alphas, (rows, mixed, 1))
    beta = jax.random.uniform(betas, (rows, with_query, 1), maxval=0.5)
    return l2_normalize(jnp.concatenate([alpha * first + (1 - alpha) * second,
                                         beta * q[:, None] + (1 - beta) * some(ones, (rows, with_query))], axis=1))
