"""Held-out losses on fixed sets: what a scaling law is fitted to."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
import numpy as np

from mof_jax.data import documents
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.decode.respond import Responder
from mof_jax.errors import UserError
from mof_jax.evals.encoder import Encoder, records
from mof_jax.objectives.contrastive import softmax_loss
from mof_jax.ranges import Range


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss:
    """InfoNCE of a source, in fixed sets of candidates: its floor moves with their number, so every model sees the same sets.

    Attributes:
      candidates: pairs of a set, in the source's order; the source holds a whole number of sets.
      texts: kinds of text, the first that a record has is its caption. Pictures with one caption are positives of each other.
    """

    source: SourceConfig
    name: str = "held_out"
    candidates: Annotated[int, Range(2)] = 256
    texts: tuple[str, ...] = ("alt",)

    def __post_init__(self):
        if self.candidates < 2:
            raise ValueError(f"candidates {self.candidates}: a set has 2 at least")

    def run(self, encoder: Encoder) -> dict[str, float]:
        """`loss` in nats a pair, the mean of both directions, at the model's own temperature.

        Raises:
          UserError: a record without a caption, a source that does not divide into sets, a model without a temperature.
        """
        source = open_source(self.source)
        items = records(source)
        if len(items) % self.candidates:
            raise UserError(f"{self.source.label}: {len(items)} records are no whole number of sets of {self.candidates}")
        captions = []
        for item in items:
            words = [text for kind in self.texts for text in item.texts.get(kind, ())]
            if not words:
                raise UserError(f"{self.source.label}: record {item.id} has no text of kind {', '.join(self.texts)}")
            captions.append(words[0])
        numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        group = np.array([numbers[caption] for caption in captions], np.int32)
        images, texts, scale = encoder.images(source), encoder.texts(captions), jnp.float32(encoder.logit_scale)
        total = 0.0
        for start in range(0, len(items), self.candidates):
            rows = slice(start, start + self.candidates)
            total += float(softmax_loss(jnp.asarray(images[rows]), jnp.asarray(texts[rows]), scale,
                                        group=jnp.asarray(group[rows])).sum)
        return {"pairs": float(len(items)), "loss": total / len(items)}


@dataclasses.dataclass(frozen=True)
class TextLoss:
    """How well a language model predicts documents that it has not read, each from its beginning.

    Attributes:
      source: of texts. Each text of a record is a document.
    """

    needs: ClassVar[str] = "responder"
    version: ClassVar[str] = "plain text behind bos, nats a token"

    source: SourceConfig
    name: str = "held_out"

    def run(self, responder: Responder) -> dict[str, float]:
        """`loss` in nats a token; `bits_per_byte` of UTF-8, which another tokenizer does not change.

        Raises:
          UserError: a source without text, or a tokenizer without a token to begin with.
        """
        if responder.tokenizer.bos_id is None:
            raise UserError(f"{self.name}: the tokenizer has no bos, so that nothing precedes a document's first token")
        source = open_source(self.source)
        texts = [text for i in range(len(source)) for text in documents.words(source[i]) if text.strip()]
        if not texts:
            raise UserError(f"{self.source.label}: no text to predict")
        log_probs, tokens = responder.log_probs([responder.text("")] * len(texts), texts)
        nats = -float(np.sum(log_probs, dtype=np.float64))
        bits = nats / np.log(2) / sum(len(text.encode()) for text in texts)
        return {"documents": float(len(texts)), "tokens": float(tokens.sum()), "loss": nats / int(tokens.sum()),
                "bits_per_byte": float(bits)}
