"""Scoring a pool with a two-tower model: the filter of Data Filtering Networks (arXiv 2309.17425)."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from mof_jax.console import bar
from mof_jax.data import filter as filters
from mof_jax.data.image import images
from mof_jax.data.record import Record, Source
from mof_jax.data.text import captions
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.embed.embedder import Embedder

LOWEST = -1.0  # of a record that cannot be scored: no threshold keeps it before a readable one
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Scored:
    """Cosines of picture and caption by record, and the records that could not be read as (id, reason)."""

    ids: list[str]
    cosines: np.ndarray
    bad: list[tuple[str, str]]


def score(embedder: Embedder, source: Source, kind: str = "") -> Scored:
    """The cosine between each record's picture and its first text of `kind`; unreadable records get `LOWEST`, those whose name
    cannot be read either are left out.

    Args:
      kind: by default what the source has, see `captions.kind_of`.

    Raises:
      UserError: before any work, ids that repeat, or no such kind of text; after it, no record that can be scored.
    """
    kind = captions.kind_of(source, kind, "--text")
    ids = filters.names(source)
    cosines = np.full(len(source), LOWEST, np.float32)
    bad: list[tuple[str, str]] = []
    with bar(disable=jax.process_index() > 0, transient=True) as progress:
        task = progress.add_task(f"score {source.name}", total=len(source))
        for start in range(0, len(source), _BLOCK):
            rows, good = range(start, min(start + _BLOCK, len(source))), {}
            for i in rows:
                try:
                    good[i] = _readable(source, i, kind)
                except BadExample as error:
                    bad.append((error.record, error.reason))
            if good:
                kept = list(good.values())
                pictures = embedder.embed_images(lambda n: kept[n], source.name, len(kept))
                texts = embedder.texts([record.texts[kind][0] for record in kept])
                cosines[list(good)] = np.sum(pictures * texts, axis=-1)
            progress.advance(task, len(rows))
    if len(bad) == len(source):
        raise UserError(f"{source.name}: none of {len(source)} records can be scored; the first: {': '.join(bad[0])}")
    named = [i for i, name in enumerate(ids) if name is not None]
    return Scored([ids[i] for i in named], cosines[named], bad)


def _readable(source: Source, index: int, kind: str) -> Record:
    """The record, if it has a picture that decodes and a caption."""
    record = source[index]
    if record.image is None:
        raise BadExample(source.name, record.id, "no image")
    if not any(text.strip() for text in record.texts.get(kind, ())[:1]):
        raise BadExample(source.name, record.id, f"empty caption: no text of kind {kind!r}")
    images.decode(record.image, source=source.name, record=record.id)
    return record
