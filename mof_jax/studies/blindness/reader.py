"""A multimodal model that reads features computed before: its frozen towers have run once, adapters and LLM are trained.

The model is `models.mllm.Mllm`, the loss `tasks.mllm`'s and the step `train.step`'s; what differs is that a batch brings
features instead of pixels, so that an experiment of forty runs pays for its towers once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from mof_jax.models.mllm import Mllm, MllmConfig
from mof_jax.nn import dropout as drop
from mof_jax.nn.module import Params, Skeleton
from mof_jax.objectives.next_token import NextToken
from mof_jax.studies.blindness import exam
from mof_jax.task import Batch
from mof_jax.tasks.mllm import MllmTask
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.state import TrainState, init_fn
from mof_jax.train.step import make_step

Features = Mapping[str, Float[np.ndarray, "pictures patches width"]]  # by encoder


class FeatureTask(MllmTask):
    """The MLLM task on one picture a row, whose batch holds `features/<encoder>` [rows, patches, width] instead of `images`.

    A batch without features is text alone.
    """

    def __init__(self, model: MllmConfig, context: int):
        super().__init__(model, NextToken(), context=context, rows=1, images=1)

    def keys(self, batch: Batch, key: Array) -> dict[str, drop.Keys]:
        """None: there is no dropout here."""
        return {}

    def hidden(
        self, model: Mllm, batch: Batch, keys: Mapping[str, Any] = MappingProxyType({})
    ) -> Float[Array, "rows context width"]:
        found = {e.name: batch[f"features/{e.name}"] for e in self.model.encoders if f"features/{e.name}" in batch}
        seen = model.mix({name: x.astype(jnp.float32) for name, x in found.items()}) if found else None
        x = model.embed(batch["tokens"], batch["image_index"], seen, streams=batch["tokens"].shape[0])
        return model(x, batch["positions"], batch["segment_ids"])


@dataclasses.dataclass(frozen=True)
class Reader:
    """One model to be trained: which encoders in which mixture, and for how long.

    Attributes:
      model: its encoders' towers are never run; only their grids and widths count.
      steps, batch_size: of training; shares: of the three kinds of text, see `exam.KINDS`.
      optimizer: adapters and LLM are trained, encoders are frozen by its rules.
    """

    model: MllmConfig
    steps: int
    batch_size: int
    optimizer: OptimizerConfig
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25)

    @functools.cached_property
    def slots(self) -> int:
        return self.model.tokens_per_image

    @functools.cached_property
    def task(self) -> FeatureTask:
        return FeatureTask(self.model, self.slots + exam.WORDS)

    @functools.cached_property
    def skeleton(self) -> Skeleton:
        return Skeleton.of(self.task.build)

    def train(self, features: Features, texts: exam.Texts, seed: int, start: Params | None = None) -> tuple[Params, list[float]]:
        """Trained parameters (adapters, LLM) and the loss of every step.

        Args:
          features: of the training pictures; none for a model that reads only (`texts` still say what it learns).
          texts: of the same pictures, [pictures, kinds].
          start: parameters to begin with, by path; the others start fresh.
        """
        decisions = decide(self.optimizer, self.skeleton)
        tx = make_optimizer(self.optimizer, self.steps, decisions, self.skeleton.matrices)
        trained = {path: d.trained for path, d in decisions.items()}
        state = jax.jit(init_fn(self.task.build, trained, tx, False))(jax.random.key(seed, impl="threefry2x32"))
        # The towers' parameters never enter a computation here: what is not needed is not kept.
        params = {path: (start or {}).get(path, x) for path, x in state.params.items()}
        state = TrainState(state.step, params, state.frozen, tx.init(params), None, state.bad_step)
        step = jax.jit(make_step(self.task, self.skeleton, tx, seed), donate_argnums=0)
        losses = []
        for batch in self.batches(features, texts, seed):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        losses = [float(x) for x in losses]
        if int(state.bad_step) >= 0:
            raise FloatingPointError(f"step {int(state.bad_step)}: the loss is not finite")
        return {path: x for path, x in state.params.items()}, losses

    def batches(self, features: Features, texts: exam.Texts, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """Random pictures with a text each; a pure function of (seed, step)."""
        count = len(texts.tokens)
        for step in range(self.steps):
            rng = np.random.default_rng((seed, step))
            rows = np.sort(rng.integers(count, size=self.batch_size))
            kinds = rng.choice(len(self.shares), size=self.batch_size, p=self.shares)
            yield self.batch(features, texts[rows, kinds], rows)

    def batch(self, features: Features, texts: exam.Texts, pictures: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        """The arrays of some rows."""
        seen = {f"features/{name}": x[pictures] for name, x in features.items()}
        arrays = exam.rows(texts, self.slots if seen else 0)
        return {**arrays, **seen}

    # What a trained model says

    @functools.cached_property
    def _logits(self):
        def at(params: Params, batch: Batch, place: Array) -> Float[Array, "rows vocab"]:
            model = self.skeleton.merge(params)
            hidden = self.task.hidden(model, batch)
            last = jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0]
            return model.llm.logits(last)

        return jax.jit(at)

    def whole(self, params: Params) -> Params:
        """`params` with zeros for the towers, which are not run."""
        return {path: params.get(path, jnp.zeros(x.shape, x.dtype)) for path, x in self.skeleton.shapes.items()}

    def next_logits(
        self, params: Params, features: Features, texts: exam.Texts, pictures: Int[np.ndarray, "rows"], block: int = 512
    ) -> Float[np.ndarray, "rows vocab"]:
        """Logits of the first word of the answer, for texts [rows]."""
        params, found = self.whole(params), []
        for first in range(0, len(pictures), block):
            mine = np.arange(first, first + block) % len(pictures)  # a whole block: one compiled program
            batch = self.batch(features, texts[mine], pictures[mine])
            place = texts.begins[mine] - 1 + (self.slots if features else 0)
            found.append(np.asarray(self._logits(params, batch, place)))
        return np.concatenate(found)[: len(pictures)]

    def captions(
        self, params: Params, features: Features, texts: exam.Texts, pictures: Int[np.ndarray, "rows"]
    ) -> Int[np.ndarray, "rows words"]:
        """Greedy continuations of texts [rows] from where their answers begin."""
        tokens, begins = texts.tokens.copy(), texts.begins.copy()
        tokens[np.arange(tokens.shape[1])[None] >= begins[:, None]] = exam.PAD
        written = []
        while begins.max() < tokens.shape[1] and len(written) < 16:
            now = exam.Texts(tokens, begins, begins)
            word = self.next_logits(params, features, now, pictures).argmax(-1).astype(np.int32)
            written.append(word)
            tokens[np.arange(len(tokens)), begins] = word
            begins = begins + 1
        return np.stack(written, axis=1)


def choose(
    reader: Reader, params: Params, features: Features, texts: exam.Texts, options: Int[np.ndarray, "scenes 2"]
) -> Float[np.ndarray, "scenes 2 2"]:
    """Logits of scene, picture, option. Pictures 2i and 2i + 1 are scene i's, as are their texts [pictures, kinds]."""
    facts = texts[:, exam.KINDS.index("fact")]
    logits = reader.next_logits(params, features, facts, np.arange(len(facts.tokens)))
    return np.take_along_axis(logits, np.repeat(options, 2, axis=0), axis=1).reshape(-1, 2, 2)
