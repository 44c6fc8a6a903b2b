"""Held-out losses on fixed sets: what a scaling law is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
from jaxtyping import Int
import numpy as np

from mof_jax.data.packing import documents
from mof_jax.data.record import Record
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.retrieval import kinds_of, same_words
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.model import Model
from mof_jax.objectives.softmax import softmax_loss
from mof_jax.ranges import Range


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss(Evaluator):
    """InfoNCE of a source, in fixed sets of candidates: its floor moves with their number, so every model sees the same sets.

    Attributes:
      candidates: pairs of a set, in the source's order; the source holds a whole number of sets.
      texts: kinds of text, the first that a record has is its caption; none for the kind that the source has. Pairs with one
        picture or the same words (see `retrieval.same_words`) are positives of each other, and those that are joined by such.
    """

    kind: ClassVar[str] = "contrastive_loss"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "held_out"
    candidates: Annotated[int, Range(2)] = 256
    texts: tuple[str, ...] = ()

    def __post_init__(self):
        if self.candidates < 2:
            raise ValueError(f"candidates {self.candidates}: a set has 2 at least")

    def run(self, model: Model) -> dict[str, float]:
        """`loss` in nats a pair, the mean of both directions, at the model's own temperature; `shared` counts the pairs that are
        positives of another one in their set.

        Raises:
          UserError: no such kind of text, a record without a caption, a source that does not divide into sets, a model without
            a temperature.
        """
        embedder = model.embedder
        source = open_source(self.source)
        items = records(source)
        if len(items) % self.candidates:
            raise UserError(f"{self.source.label}: {len(items)} records are no whole number of sets of {self.candidates}")
        kinds = kinds_of(source, items, self.texts)
        captions = []
        for item in items:
            words = [text for kind in kinds for text in item.texts.get(kind, ()) if text.strip()]
            if not words:
                raise UserError(f"{self.source.label}: record {item.id} has no text of kind {', '.join(kinds)}")
            captions.append(words[0])
        images, texts, scale = (
            embedder.images(source),
            embedder.texts(captions),
            jnp.float32(embedder.logit_scale),
        )
        sums, shared = [], 0
        for start in range(0, len(items), self.candidates):
            rows = slice(start, start + self.candidates)
            group = positives(items[rows], captions[rows])
            shared += int((np.bincount(group)[group] > 1).sum())
            sums.append(float(softmax_loss(jnp.asarray(images[rows]), jnp.asarray(texts[rows]), scale,
                                           group=jnp.asarray(group)).sum))
        model.keep("loss", [f"set {i}" for i in range(len(sums))], np.array(sums) / self.candidates)
        return {"pairs": len(items), "loss": sum(sums) / len(items), "shared": shared}


def positives(items: Sequence[Record], captions: Sequence[str]) -> Int[np.ndarray, "pairs"]:
    """One number for all pairs that a picture or the words of a caption join."""
    group = np.arange(len(items), dtype=np.int32)
    first: dict[bytes | str, int] = {}
    for pair, (item, caption) in enumerate(zip(items, captions)):
        for key in (same_words(caption), item.image):
            if key in first:
                group[group == group[pair]] = group[first[key]]
            elif key:  # a record without a picture is said by whoever embeds it
                first[key] = pair
    return group


@dataclasses.dataclass(frozen=True)
class TextLoss(Evaluator):
    """How well a language model predicts documents that it has not read, each from its beginning.

    Attributes:
      source: of texts. Each text of a record is a document.
    """

    kind: ClassVar[str] = "text_loss"
    requires: ClassVar[tuple[str, ...]] = ("generate",)
    version: ClassVar[str] = "plain text behind bos, nats a token"

    source: SourceConfig
    name: str = "held_out"

    def run(self, model: Model) -> dict[str, float]:
        """`loss` in nats a token; `bits_per_byte` of UTF-8, which another tokenizer does not change.

        Raises:
          UserError: a source without text, or a tokenizer without a token to begin with.
        """
        generator = model.generator
        if generator.tokenizer.bos_id is None:
            raise UserError(f"{self.name}: the tokenizer has no bos, so that nothing precedes a document's first token")
        source = open_source(self.source)
        items = records(source)
        texts = [text for record in items for text in documents.words(record) if text.strip()]
        if not texts:
            raise UserError(f"{self.source.label}: no text to predict")
        log_probs, tokens = generator.log_probs([generator.text("")] * len(texts), texts)
        nats = -float(np.sum(log_probs, dtype=np.float64))
        units = [unit_of(record) for record in items for text in documents.words(record) if text.strip()]
        model.keep("loss", units, np.stack([-log_probs, tokens], axis=1), "ratio")
        bits = nats / np.log(2) / sum(len(text.encode()) for text in texts)
        return {"documents": len(texts), "tokens": int(tokens.sum()), "loss": nats / int(tokens.sum()),
                "bits_per_byte": float(bits)}
