"""The functions behind `mof data inspect` and `mof data convert`, and the writer behind `mof data score`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
import dataclasses
import math
import os
import re
from typing import Literal

from rich.console import Console
from rich.table import Table

from mof_jax import config as configs
from mof_jax import storage
from mof_jax.console import bar, plain
from mof_jax.data.filter import record_id, write_scores
from mof_jax.data.image import images
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import SOURCES, open_source
from mof_jax.data.sources.arrayrecord import writer
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.sources.imagefolder import is_picture
from mof_jax.data.sources.jsonl import TABLES, other_kind
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, parse_object

__all__ = ["Converted", "convert", "guess", "inspect", "record_id", "write_scores"]

_SHARDED = re.compile(r".+@[0-9]+", re.DOTALL)
_LONGEST = 64 << 20  # bytes of a first line that says what a file of JSON lines is
_NAMED = 3  # bad records that are shown one by one


def guess(path: str, kind: str = "", **options) -> SourceConfig:
    """The source config for a path, by its name: `emoji5[/SPLIT]`, `synthetic`, a table, tars, shards, a TFDS folder or a
    folder of pictures. JSON lines of conversations or pages are told by their first row.

    Args:
      kind: of the source, where it is not to be guessed; a path means nothing to those that come with the package.
      options: more of its config.

    Raises:
      UserError: nothing recognisable there, or something that would be read without its captions.
    """
    if kind:
        known = {f.name for f in dataclasses.fields(SOURCES.find(kind, "source.kind"))}
        return _config(kind, **({"path": path} if "path" in known else {}), **options)
    if path == "synthetic":
        return _config("synthetic", **options)
    if path.partition("/")[0] == "emoji5" and not os.path.exists(path):
        return _config("emoji5", **{"split": path.partition("/")[2] or "train", **options})
    endings = {"jsonl": "jsonl", "csv": "jsonl", "tsv": "jsonl", "tar": "webdataset", "array_record": "arrayrecord"}
    ending = path.rsplit(".", 1)[-1]
    if ending in endings:
        return _config(_kind_of_lines(path) if ending == "jsonl" else endings[ending], path=path, **options)
    if _SHARDED.fullmatch(path) and not storage.exists(path):
        return _config("arrayrecord", path=path, **options)
    if storage.exists(storage.join(path, "dataset_info.json")):
        if storage.exists(storage.join(path, "state.json")):
            raise UserError(f"{path}: written by save_to_disk of Hugging Face datasets, which is not read here; write the "
                            "pictures to a folder, and their captions to a metadata.jsonl in it")
        return _config("tfds", path=path, **options)
    for ending, kind in endings.items():
        if storage.glob(storage.join(path, f"*.{ending}")):
            return _config(kind, path=path, **options)
    files = storage.find(path)
    if any(map(is_picture, files)):
        _check_beside(path, files)
        return _config("folder", path=path, **options)
    missing = "" if storage.exists(path) else "no such file or folder; "
    raise UserError(
        f"{path}: {missing}expected .jsonl, .csv, .tsv, .tar, .array_record, or a folder of them, of TFDS or of pictures"
    )


def _config(kind: str, **options) -> SourceConfig:
    """A source's config, its options checked."""
    return configs.build(SourceConfig, {"kind": kind, **options}, "source")


def _kind_of_lines(path: str) -> str:
    """`llava`, `obelics` or `mmc4` where the first row of a JSONL is of that form, else `jsonl`."""
    try:
        with storage.open_stream(path) as f:
            row = parse_object(next((line for line in iter(lambda: f.readline(_LONGEST), b"") if line.strip()), b"{}"))
    except (UserError, Malformed):
        return "jsonl"  # which says what is wrong
    return other_kind(row)[1] or "jsonl"


def _check_beside(path: str, files: Collection[str]) -> None:
    """Raises `UserError` where captions lie among the pictures: a folder of pictures is read without them."""
    table = next((file for file in files if os.path.basename(file) in TABLES), None)
    if table is not None:
        raise UserError(f"{path}: {table} below it has captions; give {storage.join(path, table)}, or kind 'folder' (--kind) for "
                        "the pictures alone")


def inspect(source: str | SourceConfig | Source, examples: int = 3, sample: int = 200, console: Console | None = None):
    """Prints and returns what a source holds.

    Args:
      source: a path (see `guess`), a config or an open source.
      examples: how many records to show.
      sample: how many records, evenly spread, the statistics are taken from.

    Returns:
      `{"name", "records", "sampled", "bad", "formats", "sizes", "texts", "scores", "groups", "examples", "not read"}`; `bad`
      maps a reason to a count, `texts` a caption kind to the number of sampled records that have it; `not read` lists
      columns that nothing is taken from.

    Raises:
      UserError: nothing there, or none of the sampled records can be read.
    """
    source = _open(source)
    step = max(1, len(source) // sample)
    texts, scores, formats, bad, sizes, groups, shown = Counter(), Counter(), Counter(), Counter(), [], 0, []
    failed: list[BadExample] = []
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
            failed.append(error)
            continue
        texts.update(kind for kind, values in record.texts.items() if any(v.strip() for v in values))
        scores.update(name for name, value in record.scores.items() if not math.isnan(value))
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
        "not read": ", ".join(getattr(source, "unread", ())),
    }
    _print(found, shown, failed, console or Console())
    if len(failed) == len(picked):
        raise UserError(f"{source.name}: none of {len(picked)} records can be read; the first: {failed[0].record}: "
                        f"{failed[0].reason}")
    return found


def _open(source: str | SourceConfig | Source) -> Source:
    if isinstance(source, str):
        source = guess(source)
    return open_source(source) if isinstance(source, SourceConfig) else source


def _format(data: bytes) -> str:
    heads = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
    return next((name for head, name in heads.items() if data.startswith(head)), "other")


def _print(found: dict, shown: list[Record], failed: list[BadExample], console: Console) -> None:
    table = Table(title=plain(found["name"]), show_header=False)
    for key in ("records", "sampled", "formats", "sizes", "texts", "scores", "groups", "not read", "bad"):
        value = found[key]
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(key, plain(text or "-"))
    console.print(table)
    table = Table("id", "texts", "image")
    for record in shown:
        words = "\n".join(f"{kind}: {' | '.join(values)[:200]}" for kind, values in record.texts.items())
        table.add_row(plain(record.id), plain(words), f"{len(record.image)} bytes" if record.image else "-")
    console.print(table)
    for error in failed[:_NAMED]:
        console.print(plain(f"bad: {error.record}: {error.reason}"), soft_wrap=True)


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

    A record without a picture and without a text is a bad one.

    Raises:
      UserError: a target that exists, a source of pages or conversations (shards keep one picture and texts by kind), no good
        record at all, or a bad one under `raise`.
    """
    if shards < 0:
        raise UserError(f"{target}: {shards} shards; at least 1, or 0 for about 10,000 records each")
    source, console = _open(source), console or Console(stderr=True)
    shards = shards or max(1, round(len(source) / 10_000))
    shards = min(shards, len(source))
    bad: list[tuple[str, str]] = []
    arrays: dict[str, None] = {}
    with bar(console=console, transient=True) as progress:
        with writer(target, name, shards) as write:
            for index in progress.track(range(len(source)), description=f"convert {source.name}"):
                try:
                    record = _kept_whole(source, index)
                    if check_images and record.image is not None:
                        images.decode(record.image, source=source.name, record=record.id)
                    write(index * shards // len(source), record)
                    arrays |= dict.fromkeys(record.arrays)
                except BadExample as error:
                    if on_error == "raise":
                        raise
                    bad.append((error.record, error.reason))
            if len(bad) == len(source):
                raise UserError(f"{source.name}: none of {len(source)} records can be read; the first: {bad[0][1]}")
    written = len(source) - len(bad)
    if left := getattr(source, "unread", ()):
        console.print(plain(f"{source.name}: columns that are not kept: {', '.join(left)}"), highlight=False, soft_wrap=True)
    if arrays:
        console.print(plain(f"{source.name}: arrays that are not kept: {', '.join(arrays)}"), highlight=False, soft_wrap=True)
    left_out = f", {len(bad)} bad left out" if bad else ""
    console.print(plain(f"{target}: {written} records in {shards} shards{left_out}"), highlight=False)
    for record, reason in bad[:_NAMED]:
        console.print(plain(f"  {record}: {reason}"), highlight=False, soft_wrap=True)
    for reason, count in Counter(reason for _, reason in bad[_NAMED:]).most_common(5):
        console.print(plain(f"  {count} more x {reason}"), highlight=False, soft_wrap=True)
    return Converted(written, bad)


def _kept_whole(source: Source, index: int) -> Record:
    """A record that a shard can keep."""
    record = source[index]
    if type(record) is not Record:
        raise UserError(f"{source.name}: record {record.id} is a {type(record).__name__.lower()}, whose texts and pictures in "
                        "their order shards would not keep; train on the source as it is")
    if record.image is None and not any(text.strip() for values in record.texts.values() for text in values):
        raise BadExample(source.name, record.id, "neither a picture nor a text")
    return record
