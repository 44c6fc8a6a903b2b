"""Scoring a pool with a two-tower model: the filter of Data Filtering Networks (arXiv 2309.17425)."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from rich.progress import Progress

from mof_jax.data import images
from mof_jax.data.filter import record_id
from mof_jax.data.record import Record, Source
from mof_jax.errors import BadExample
from mof_jax.evals.encoder import Encoder

LOWEST = -1.0  # of a record that cannot be scored: no threshold keeps it before a readable one
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Scored:
    """Cosines of picture and caption by record, and the records that could not be read as (id, reason)."""

    ids: list[str]
    cosines: np.ndarray
    bad: list[tuple[str, str]]


def score(encoder: Encoder, source: Source, kind: str = "alt") -> Scored:
    """The cosine between each record's picture and its first text of `kind`; unreadable records get `LOWEST`."""
    cosines = np.full(len(source), LOWEST, np.float32)
    bad: list[tuple[str, str]] = []
    with Progress(disable=jax.process_index() > 0, transient=True) as progress:
        bar = progress.add_task(f"score {source.name}", total=len(source))
        for start in range(0, len(source), _BLOCK):
            rows, good = range(start, min(start + _BLOCK, len(source))), {}
            for i in rows:
                try:
                    good[i] = _readable(source, i, kind)
                except BadExample as error:
                    bad.append((error.record, error.reason))
            if good:
                kept = list(good.values())
                pictures = encoder.pictures_of(lambda n: kept[n], source.name, len(kept))
                texts = encoder.texts([record.texts[kind][0] for record in kept])
                cosines[list(good)] = np.sum(pictures * texts, axis=-1)
            progress.advance(bar, len(rows))
    return Scored([record_id(source, i) for i in range(len(source))], cosines, bad)


def _readable(source: Source, index: int, kind: str) -> Record:
    """The record, if it has a picture that decodes and a caption."""
    record = source[index]
    if record.image is None:
        raise BadExample(source.name, record.id, "no image")
    if not any(text.strip() for text in record.texts.get(kind, ())[:1]):
        raise BadExample(source.name, record.id, f"empty caption: no text of kind {kind!r}")
    images.decode(record.image, source=source.name, record=record.id)
    return record
