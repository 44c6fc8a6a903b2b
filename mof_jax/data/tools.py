"""The functions behind `mof data inspect` and `mof data convert`, and the writer behind `mof data score`."""

from __future__ import annotations

from collections import Counter
import dataclasses
import os
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mof_jax.data import images, remote
from mof_jax.data.filter import record_id, write_scores
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.arrayrecord import writer
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.sources.imagefolder import is_picture
from mof_jax.errors import BadExample, UserError

__all__ = ["Converted", "convert", "guess", "inspect", "record_id", "write_scores"]


def guess(path: str, **options) -> SourceConfig:
    """The source config for a path, by its name: `emoji5[/SPLIT]`, `synthetic`, a table, tars, shards, a TFDS folder or a
    folder of pictures.

    Raises:
      UserError: nothing recognisable there.
    """
    if path == "synthetic":
        return SourceConfig(kind="synthetic", **options)
    if path.partition("/")[0] == "emoji5" and not os.path.exists(path):
        return SourceConfig(kind="emoji5", **{"split": path.partition("/")[2] or "train", **options})
    endings = {"jsonl": "jsonl", "csv": "jsonl", "tsv": "jsonl", "tar": "webdataset", "array_record": "arrayrecord"}
    ending = path.rsplit(".", 1)[-1]
    if ending in endings:
        return SourceConfig(kind=endings[ending], path=path, **options)
    if "@" in path.rsplit("/", 1)[-1]:
        return SourceConfig(kind="arrayrecord", path=path, **options)
    if remote.exists(remote.join(path, "dataset_info.json")):
        return SourceConfig(kind="tfds", path=path, **options)
    for ending, kind in endings.items():
        if remote.glob(remote.join(path, f"*.{ending}")):
            return SourceConfig(kind=kind, path=path, **options)
    if any(map(is_picture, remote.find(path))):
        return SourceConfig(kind="folder", path=path, **options)
    missing = "" if remote.exists(path) else "no such file or folder; "
    raise UserError(
        f"{path}: {missing}expected .jsonl, .csv, .tsv, .tar, .array_record, or a folder of them, of TFDS or of pictures"
    )


def inspect(source: str | SourceConfig | Source, examples: int = 3, sample: int = 200, console: Console | None = None):
    """Prints and returns what a source holds.

    Args:
      source: a path (see `guess`), a config or an open source.
      examples: how many records to show.
      sample: how many records, evenly spread, the statistics are taken from.

    Returns:
      `{"name", "records", "sampled", "bad", "formats", "sizes", "texts", "scores", "groups", "examples"}`; `bad` maps a
      reason to a count, `texts` a caption kind to the number of sampled records that have it.
    """
    source = _open(source)
    step = max(1, len(source) // sample)
    texts, scores, formats, bad, sizes, groups, shown = Counter(), Counter(), Counter(), Counter(), [], 0, []
    picked = range(0, len(source), step)
    for index in picked:
        try:
            record = source[index]
            if record.image is not None:
                picture = images.decode(record.image, source=source.name, record=record.id)
                sizes.append(picture.size)
                formats[_format(record.image)] += 1
        except BadExample as error:
            bad[error.reason] += 1
            continue
        texts.update(kind for kind, values in record.texts.items() if any(v.strip() for v in values))
        scores.update(record.scores.keys())
        groups += record.group >= 0
        if len(shown) < examples:
            shown.append(record)
    found = {
        "name": source.name,
        "records": len(source),
        "sampled": len(picked),
        "bad": dict(bad),
        "formats": dict(formats),
        "sizes": {"smallest": min(sizes, default=None), "largest": max(sizes, default=None)},
        "texts": dict(texts),
        "scores": dict(scores),
        "groups": groups,
        "examples": [dataclasses.replace(record, image=None) for record in shown],
    }
    _print(found, shown, console or Console())
    return found


def _open(source: str | SourceConfig | Source) -> Source:
    if isinstance(source, str):
        source = guess(source)
    return open_source(source) if isinstance(source, SourceConfig) else source


def _format(data: bytes) -> str:
    heads = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
    return next((name for head, name in heads.items() if data.startswith(head)), "other")


def _print(found: dict, shown: list[Record], console: Console) -> None:
    table = Table(title=found["name"], show_header=False)
    for key in ("records", "sampled", "formats", "sizes", "texts", "scores", "groups", "bad"):
        value = found[key]
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(key, text or "-")
    console.print(table)
    table = Table("id", "texts", "image")
    for record in shown:
        words = "\n".join(f"{kind}: {' | '.join(values)[:200]}" for kind, values in record.texts.items())
        table.add_row(record.id, words, f"{len(record.image)} bytes" if record.image else "-")
    console.print(table)


@dataclasses.dataclass(frozen=True)
class Converted:
    """What `convert` did: records written, and bad ones left out as (id, reason)."""

    written: int
    bad: list[tuple[str, str]]


def convert(
    source: str | SourceConfig | Source,
    target: str,
    name: str = "data",
    shards: int = 0,
    on_error: Literal["raise", "skip"] = "skip",
    check_images: bool = True,
    console: Console | None = None,
) -> Converted:
    """Writes any source as ArrayRecord shards in the folder `target`, whole or not at all.

    Args:
      shards: number of files; 0 chooses about 10,000 records each. Record i goes to a shard by its position, so the
        order is kept.
      on_error: `skip` leaves bad records out and reports them; `raise` stops at the first.
      check_images: decode every picture once, so that training will not meet a bad one.

    Raises:
      UserError: a target that exists, no good record at all, or a bad one under `raise`.
    """
    source, console = _open(source), console or Console(stderr=True)
    shards = shards or max(1, round(len(source) / 10_000))
    shards = min(shards, len(source))
    bad: list[tuple[str, str]] = []
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        with writer(target, name, shards) as write:
            for index in progress.track(range(len(source)), description=f"convert {source.name}"):
                try:
                    record = source[index]
                    if check_images and record.image is not None:
                        images.decode(record.image, source=source.name, record=record.id)
                except BadExample as error:
                    if on_error == "raise":
                        raise
                    bad.append((error.record, error.reason))
                    continue
                write(index * shards // len(source), record)
            if len(bad) == len(source):
                raise UserError(f"{source.name}: none of {len(source)} records can be read; the first: {bad[0][1]}")
    written = len(source) - len(bad)
    console.print(f"{target}: {written} records in {shards} shards" + (f", {len(bad)} bad left out" if bad else ""))
    for reason, count in Counter(reason for _, reason in bad).most_common(5):
        console.print(f"  {count} x {reason}", markup=False)
    return Converted(written, bad)
