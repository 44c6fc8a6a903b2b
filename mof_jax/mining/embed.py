"""Embedding a whole source to disk: sharded over devices and hosts, and resumable shard by shard.

    folder/manifest.json                       what was embedded, by what, in which form; written first, completed last
    folder/features-00003-of-00010.npy         rows of one shard, whole or absent
    folder/records-00003-of-00010.json         their ids, which of them could not be read and why, a checksum
    folder/valid.npy                           one bool a row

Every process computes its part of each batch (an `Embedder` embeds global batches) and process i writes shard i mod P.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import io
import json
import os
from typing import Any, Literal
import zlib

import jax
import ml_dtypes
import numpy as np
from rich.console import Console

from mof_jax import storage
from mof_jax.console import bar
from mof_jax.data.filter import record_id, source_fingerprint
from mof_jax.data.record import Record, Source
from mof_jax.errors import BadExample, UserError, lookup
from mof_jax.evals.embed.embedder import Embedder, picture
from mof_jax.mining.embeddings import DTYPES, KIND, MANIFEST, VALID, Embeddings, names
from mof_jax.parsing import Malformed, is_count, is_text, parse_object

SHARD = 16_384
FEATURES = {"image": "embed/image", "patches": "tokens/image"}  # as users name them: the capability
_SAME = {"source": "another source", "model": "another model", "which": "another kind of features", "dtype": "another dtype",
         "count": "another number of records", "shard": "another shard size"}


def embed(
    embedder: Embedder,
    source: Source,
    folder: str,
    which: str = "image",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    shard: int = SHARD,
    strict: bool = False,
    console: Console | None = None,
) -> Embeddings:
    """Embeds every record of `source` into `folder`, or goes on where that stands.

    Args:
      which: `image` [records dim], or `patches` [records patches dim] where the model has them.
      dtype: as stored. shard: rows a file.
      strict: stop at a record without a readable picture; otherwise its row is marked invalid, and positions never shift.

    Raises:
      UserError: the folder holds something else, or features that are not finite. BadExample: under `strict`.
    """
    if dtype not in DTYPES or shard < 1:
        raise UserError(f"{folder}: dtype {dtype!r}, shards of {shard} rows; expected one of {', '.join(DTYPES)}, at least 1 row")
    plan = {
        "kind": KIND,
        "source": source_fingerprint(source),
        "model": embedder.fingerprint(),
        "which": which,
        "dtype": dtype,
        "count": len(source),
        "shard": shard,
    }
    if _stands(folder, plan):
        return Embeddings.open(folder)
    files = list(zip(names(plan, "features"), names(plan, "records")))
    missing = [i for i, pair in enumerate(files) if not all(storage.exists(storage.join(folder, file)) for file in pair)]
    _together("embed: begin")  # nobody writes before everybody has looked
    if jax.process_index() == 0 and not storage.exists(storage.join(folder, MANIFEST)):
        _write(folder, MANIFEST, _text(plan | {"complete": False, "name": source.name}))
    console = console or Console(stderr=True)
    with bar(console=console, transient=True, disable=jax.process_index() > 0) as progress:
        task = progress.add_task(f"embed {source.name}", total=len(source))
        progress.update(task, completed=(len(files) - len(missing)) * shard)
        for i in missing:
            rows = range(i * shard, min((i + 1) * shard, len(source)))
            part = _Shard.compute(embedder, source, rows, which, strict)
            if i % jax.process_count() == jax.process_index():
                part.write(folder, *files[i], dtype)
            progress.advance(task, len(rows))
    _together("embed: written")
    if jax.process_index() == 0:
        _complete(folder, plan | {"name": source.name}, files)
    _together("embed: complete")
    return Embeddings.open(folder)


def _stands(folder: str, plan: dict[str, Any]) -> bool:
    """Whether the folder is complete already; refuses one that was made from something else."""
    path = storage.join(folder, MANIFEST)
    if not storage.exists(path):
        if not storage.is_remote(folder):
            if os.path.isdir(folder) and not all(file.endswith(".part") for file in os.listdir(folder)):
                raise UserError(f"{folder}: not empty, and no embeddings ({MANIFEST}); give a new folder")
            if jax.process_index() == 0:
                storage.make_folder(folder)
        return False
    try:
        found = parse_object(storage.read(path))
        if missing := {"complete", *_SAME} - found.keys():
            raise Malformed(f"it has no {min(missing)!r}")
        if not isinstance(found["complete"], bool):
            raise Malformed("'complete' is neither true nor false")
    except Malformed as error:
        raise UserError(f"{path}: not a manifest of embeddings ({error}); give another folder or delete this one") from None
    differ = [said for key, said in _SAME.items() if found[key] != plan[key]]
    if differ:
        raise UserError(f"{folder}: holds embeddings of {' and '.join(differ)}; give another folder or delete this one")
    return found["complete"]


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Features [rows, …] of one file, ids, and the rows that could not be read as (row, reason)."""

    features: np.ndarray
    ids: Sequence[str]
    bad: Sequence[tuple[int, str]]
    source: str

    @classmethod
    def compute(cls, embedder: Embedder, source: Source, rows: range, which: str, strict: bool) -> _Shard:
        seen: dict[int, str] = {}
        bad = np.zeros(len(rows), bool)
        blank = np.zeros((embedder.preprocess.image_size,) * 2 + (3,), np.uint8)

        def load(n: int) -> Record:
            """Record n of the shard, decoded; a blank one in the place of one that cannot be read."""
            try:
                record = source[rows[n]]
                pixels = picture(record, source.name, embedder.preprocess)
            except BadExample as error:
                if strict:
                    raise
                bad[n], seen[n] = True, error.record
                return Record(error.record, blank, {})
            seen[n] = record.id
            return Record(record.id, pixels, {})

        features = embedder.embed_images(
            load, source.name, len(rows), which=lookup(FEATURES, which, "kind of features")
        )
        bad = _any_process(bad)
        reasons = [(int(n), _reason(embedder, source, rows[n])) for n in np.flatnonzero(bad)]
        ids = [seen[n] if n in seen else _id(source, i) for n, i in enumerate(rows)]
        return cls(features, ids, reasons, source.name)

    def write(self, folder: str, file: str, records: str, dtype: str) -> None:
        """Both files of the shard; the features come last, since they say that it is done."""
        wrong = [n for n, _ in self.bad]
        features = self.features.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        features[wrong] = 0
        finite = np.isfinite(features.astype(np.float32)).reshape(len(features), -1).all(axis=1)
        if not finite.all():
            worst = self.ids[int(np.argmin(finite))]
            raise UserError(f"{self.source}: record {worst}: features are not finite in {dtype}; "
                            f"{'try bfloat16' if dtype == 'float16' else 'is the checkpoint sound?'}")
        stored = features.view(np.uint16) if dtype == "bfloat16" else features
        out = io.BytesIO()
        np.save(out, stored, allow_pickle=False)
        about = {"ids": list(map(_text_of, self.ids)), "bad": [(n, _text_of(why)) for n, why in self.bad],
                 "row_shape": features.shape[1:], "crc32": zlib.crc32(np.ascontiguousarray(stored))}
        _write(folder, records, _text(about, indent=None))
        _write(folder, file, out.getvalue())


def _complete(folder: str, plan: dict[str, Any], files: Sequence[tuple[str, str]]) -> None:
    """`valid.npy` and the final manifest."""
    valid, examples, checks = np.ones(plan["count"], bool), [], []
    for i, (_, records) in enumerate(files):
        about = _about(storage.join(folder, records), min(plan["shard"], plan["count"] - i * plan["shard"]))
        checks.append(about["crc32"])
        for n, reason in about["bad"]:
            valid[i * plan["shard"] + n] = False
            examples.append([about["ids"][n], reason])
    out = io.BytesIO()
    np.save(out, valid, allow_pickle=False)
    _write(folder, VALID, out.getvalue())
    fingerprint = hashlib.sha256(json.dumps([plan, checks], sort_keys=True).encode()).hexdigest()[:12]
    _write(folder, MANIFEST, _text(plan | {
        "complete": True, "row_shape": about["row_shape"], "fingerprint": fingerprint, "crc32": checks,
        "invalid": int(len(valid) - valid.sum()), "invalid_examples": examples[:100]}))


def _text_of(text: str) -> str:
    """`text`; where it cannot be written down, as a path that is no UTF-8, with escapes."""
    return text if is_text(text) else text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _about(path: str, rows: int) -> dict[str, Any]:
    """What `_Shard.write` said of a shard of `rows` rows.

    Raises:
      UserError: something else.
    """
    try:
        found = parse_object(storage.read(path))
        ids, bad, shape = found.get("ids"), found.get("bad"), found.get("row_shape")
        if not isinstance(ids, list) or len(ids) != rows or not all(map(is_text, ids)):
            raise Malformed(f"'ids' is no list of {rows} texts")
        if not isinstance(bad, list) or not all(isinstance(b, list) and len(b) == 2 and is_count(b[0], rows) and is_text(b[1])
                                                for b in bad):
            raise Malformed("'bad' is no list of rows and reasons")
        if not is_count(found.get("crc32"), 1 << 32) or not isinstance(shape, list) or not all(map(is_count, shape)):
            raise Malformed("'crc32' or 'row_shape' is missing")
        return found
    except Malformed as error:
        raise UserError(f"{path}: damaged ({error}); delete it, and run the same `mof data embed` again") from None


def _reason(embedder: Embedder, source: Source, index: int) -> str:
    try:
        picture(source[index], source.name, embedder.preprocess)
        return "could not be read at first"
    except BadExample as error:
        return error.reason


def _id(source: Source, index: int) -> str:
    try:
        return record_id(source, index)
    except BadExample as error:
        return error.record


def _any_process(mask: np.ndarray) -> np.ndarray:
    """Marks that any process set: each has read only its own rows."""
    if jax.process_count() == 1:
        return mask
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(mask)).any(axis=0)


def _together(what: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def _text(value: dict[str, Any], indent: int | None = 1) -> bytes:
    return json.dumps(value, indent=indent).encode()


def _write(folder: str, file: str, data: bytes) -> None:
    storage.write_atomic(storage.join(folder, file), [data])
