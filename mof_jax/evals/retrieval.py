"""Image ↔ text retrieval, R@1/5/10, with several captions an image and several images a caption."""

from __future__ import annotations

import dataclasses

import numpy as np

from mof_jax.data.record import Record
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.encoder import Encoder, records
from mof_jax.evals.ranking import positive_ranks
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Candidates are all texts of the chosen kinds and all images of the source.

    Attributes:
      texts: kinds of text that count as captions of their image.
      at: the k of R@k.
      templates: a caption's embedding is the mean over these phrases; `("{}",)` is the caption itself.
    """

    source: SourceConfig
    name: str = "retrieval"
    texts: tuple[str, ...] = ("alt",)
    at: tuple[Count, ...] = (1, 5, 10)
    templates: tuple[str, ...] = ("{}",)

    def run(self, encoder: Encoder) -> dict[str, float]:
        """`i2t@k`, `t2i@k` and their mean `r@k`, in percent."""
        source = open_source(self.source)
        items = records(source)
        captions, caption_ids = candidates(items, self.texts)
        if not captions:
            raise UserError(f"{self.source.label}: no text of kind {', '.join(self.texts)} to retrieve")
        image_ids = item_ids(items)
        images = encoder.images(source)
        texts = ensemble(encoder, captions, self.templates)
        i2t = positive_ranks(encoder.mesh, images, texts, image_ids, caption_ids)
        t2i = positive_ranks(encoder.mesh, texts, images, caption_ids, image_ids)
        result = {"images": float(len(images)), "candidates": float(len(texts))}
        for k in self.at:
            result[f"i2t@{k}"] = 100 * float(np.mean(i2t < k))
            result[f"t2i@{k}"] = 100 * float(np.mean(t2i < k))
            result[f"r@{k}"] = (result[f"i2t@{k}"] + result[f"t2i@{k}"]) / 2
        return result


def item_ids(items: list[Record]) -> np.ndarray:
    """What a caption may be matched with: pictures of one group are one item; without a group each is its own."""
    alone = 1 + max((item.group for item in items), default=0)
    return np.array([item.group if item.group >= 0 else alone + i for i, item in enumerate(items)], np.int32)


def candidates(items: list[Record], kinds: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Captions and the item each belongs to; a caption that an item repeats counts once."""
    seen: dict[tuple[int, str], None] = {}
    for item, number in zip(items, item_ids(items)):
        for kind in kinds:
            for text in item.texts.get(kind, ()):
                if text.strip():
                    seen.setdefault((int(number), text), None)
    return [text for _, text in seen], np.array([number for number, _ in seen], np.int32)


def ensemble(encoder: Encoder, texts: list[str], templates: tuple[str, ...]) -> np.ndarray:
    """Unit-norm mean of the embeddings of each text in every template (prompt ensembling, CLIP §3.1.4)."""
    total = sum(encoder.texts([template.format(text) for text in texts]) for template in templates)
    return total / np.linalg.norm(total, axis=-1, keepdims=True)
