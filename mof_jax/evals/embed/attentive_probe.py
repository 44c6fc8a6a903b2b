"""An attentive probe: learned queries gather from a tower's tokens what a linear layer reads (AIM, arXiv
2401.08541, §3)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np
import optax

from mof_jax.data.sources.config import SourceConfig
from mof_jax.evals.embed.labelled_sources import Labels
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, NotNegative, Positive, Whole


@dataclasses.dataclass(frozen=True)
class AttentiveProbe(Evaluator):
    """Accuracy on `test` of attention pooling and a linear classifier, trained on `train`'s frozen tokens.

    Attributes:
      label: attribute that names a record's class; test records of a class that `train` lacks are left out.
      queries: how many are learned. steps, batch_size, lr, weight_decay: of AdamW under a cosine. seed: of
        both.
    """

    kind: ClassVar[str] = "attentive_probe"
    requires: ClassVar[tuple[str, ...]] = ("tokens/image",)

    train: SourceConfig
    test: SourceConfig
    name: str = "attentive_probe"
    label: str = "label"
    queries: Count = 4
    steps: Count = 400
    batch_size: Count = 128
    lr: Positive = 3e-3
    weight_decay: NotNegative = 0.05
    seed: Whole = 0

    def run(self, model: Model) -> dict[str, float]:
        """`acc@1` in percent, over the test images whose class is known; see `Labels.counts`."""
        labels = Labels.read(self.train, self.test, self.label)
        embed = model.embedder.embed_images
        train, test = labels.features(lambda s: embed(lambda i: s[i], s.name, len(s), which="tokens/image"))
        params = fit(train, labels.train, labels.classes, self.seed, Fit(
            self.queries, self.steps, self.batch_size, self.lr, self.weight_decay))
        found = scores(params, test)
        hit = (found.argmax(1) == labels.test) & np.isfinite(found).all(1)  # no features, no hit
        model.keep("acc@1", labels.units, 100.0 * hit)
        return {**labels.counts, "acc@1": 100 * float(hit.mean())}


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a probe is trained, see `AttentiveProbe`."""

    queries: int = 4
    steps: int = 400
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.05


def fit(
    x: Float[np.ndarray, "rows tokens width"],
    y: Int[np.ndarray, "rows"],
    classes: int,
    seed: int = 0,
    how: Fit = Fit(),
) -> dict[str, Array]:
    """Parameters of a probe: AdamW with a cosine schedule; every step sees a random batch."""
    return _train(jnp.asarray(x, jnp.float32), jnp.asarray(y), classes, jax.random.key(seed), how)


def scores(
    params: dict[str, Array], x: Float[np.ndarray, "rows tokens width"]
) -> Float[np.ndarray, "rows classes"]:
    """Logits of the classes."""
    return np.asarray(_scores(params, jnp.asarray(x, jnp.float32)))


def _init(key: Key[Array, ""], tokens: int, width: int, classes: int, queries: int) -> dict[str, Array]:
    keys = jax.random.split(key, 4)
    scale = width**-0.5
    return {"query": jax.random.normal(keys[0], (queries, width)) * scale,
            "place": jax.random.normal(keys[1], (tokens, width)) * 0.02,
            "key": jax.random.normal(keys[2], (width, width)) * scale,
            "head": jax.random.normal(keys[3], (queries * width, classes)) * 0.01, "bias": jnp.zeros(classes)}


def _scores(params: dict[str, Array], x: Float[Array, "rows tokens width"]) -> Float[Array, "rows classes"]:
    """Standardised tokens with their places; softmax attention of each query over them; a linear layer over
    what they gather."""
    x = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-6) + params["place"]
    attention = jax.nn.softmax(jnp.einsum("qd,bpd->bqp", params["query"], x @ params["key"]), axis=-1)
    gathered = jnp.einsum("bqp,bpd->bqd", attention, x)
    return gathered.reshape(len(x), -1) @ params["head"] + params["bias"]


def _train(x: Array, y: Array, classes: int, key: Key[Array, ""], how: Fit) -> dict[str, Array]:
    tx = optax.adamw(optax.cosine_decay_schedule(how.lr, how.steps), weight_decay=how.weight_decay)

    def loss(params: dict[str, Array], rows: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(_scores(params, x[rows]), y[rows]).mean()

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, opt = carry
        grads = jax.grad(loss)(params, jax.random.randint(key, (how.batch_size,), 0, len(x)))
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    params = _init(key, x.shape[1], x.shape[2], classes, how.queries)
    run = jax.jit(lambda params, keys: jax.lax.scan(step, (params, tx.init(params)), keys)[0][0])
    return run(params, jax.random.split(jax.random.fold_in(key, 1), how.steps))
