"""Which records of a source to keep, by stored scores.

A data filtering network (arXiv 2309.17425) scores every image-text pair once; training keeps the best. The decision is
made before training and becomes a list of indices, so a filtered source has an honest length and mixture weights stay
true. The list is written beside a manifest that says what it was computed from, and is reused while that holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import io
import json
import math
import os
from typing import Annotated, Any, Literal

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax import config as configs
from mof_jax import storage
from mof_jax.data.files.npy import parse_npy
from mof_jax.data.record import Record, Source, as_score
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, is_count, is_text, kind, parse_json, parse_object, show
from mof_jax.ranges import Range


@dataclasses.dataclass(frozen=True)
class ScoreRule:
    """Keep scores of at least `minimum`, or the best `fraction`. Exactly one is given."""

    minimum: Annotated[float, Range()] | None = None
    fraction: Annotated[float, Range(0, 1, above=True)] | None = None

    def __post_init__(self):
        if (self.minimum is None) == (self.fraction is None):
            raise ValueError("a score rule gives either minimum or fraction")
        if self.minimum is not None and math.isnan(self.minimum):
            raise ValueError("minimum is NaN, which no score reaches")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Which scores a record must reach.

    Attributes:
      rules: score name -> rule, e.g. `{"dfn": {"fraction": 0.15}}`.
      combine: a record must satisfy all rules (`and`) or one of them (`or`).
      sidecar: file of scores (`.jsonl`, or `.npy` with `.json`); by default the scores inside the records.
      manifest: where to keep the decision (`.json`); by default in the source's cache folder.
    """

    rules: dict[str, ScoreRule] = dataclasses.field(default_factory=dict)
    combine: Literal["and", "or"] = "and"
    sidecar: str = ""
    manifest: str = ""

    def __post_init__(self):
        if not self.rules:
            raise ValueError("a filter needs at least one rule")


class Subset:
    """The records of a source at `indices`, in that order."""

    def __init__(self, source: Source, indices: Int[np.ndarray, "n"]):
        self.source, self.indices, self.name = source, np.asarray(indices, np.int64), source.name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[int(self.indices[index])]

    def id(self, index: int) -> str:
        """Name of record `index`."""
        return record_id(self.source, int(self.indices[index]))


def record_id(source: Source, index: int) -> str:
    """A record's name, without reading the record where the source can tell."""
    return source.id(index) if hasattr(source, "id") else source[index].id


def threshold(scores: Float[np.ndarray, "n"], rule: ScoreRule) -> float:
    """The lowest score that is kept.

    For a fraction f: element floor(n f) of the scores in descending order (DataComp), NaN left out; ties are kept, and
    f = 1 keeps every score.
    """
    if rule.minimum is not None:
        return rule.minimum
    known = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(known):
        return np.inf
    return float(known[min(int(len(known) * rule.fraction), len(known) - 1)])


def select(scores: Mapping[str, Float[np.ndarray, "n"]], config: FilterConfig) -> Bool[np.ndarray, "n"]:
    """Which records to keep. A missing score (NaN) satisfies no rule."""
    kept = [scores[name] >= threshold(scores[name], rule) for name, rule in config.rules.items()]
    return np.all(kept, axis=0) if config.combine == "and" else np.any(kept, axis=0)


def apply(source: Source, config: FilterConfig, cache_dir: str = "") -> Subset:
    """`source` without the records that `config` drops, from the manifest if it still holds: it does not once the scores change.

    Raises:
      UserError: scores that do not belong to this source or are no numbers, or nothing kept.
    """
    print_ = source_fingerprint(source)
    if not hasattr(source, "fingerprint") and (mark := _content(source)):
        print_ += "+" + mark
    digest = configs.digest(dataclasses.replace(config, manifest=""))
    if config.sidecar:
        print_ += "".join(f"+{_version(file)}" for file in _sidecar_files(config.sidecar))
    folder = os.path.join(cache_dir or storage.default_cache(), "filters")
    name = hashlib.sha256(f"{digest} {print_}".encode()).hexdigest()[:12]
    path = config.manifest or os.path.join(folder, f"{name}.json")
    indices = _stored(path, digest, print_, len(source))
    if indices is None:
        scores = read_scores(config.sidecar, source) if config.sidecar else _embedded(source, config.rules)
        for rule in config.rules:
            if rule not in scores:
                raise UserError(f"{config.sidecar}: no score {rule!r} (has {', '.join(scores) or 'none'})")
        indices = np.flatnonzero(select(scores, config))
        cuts = {rule: threshold(scores[rule], config.rules[rule]) for rule in config.rules}
        _store(path, indices, {"filter": digest, "source": print_, "of": len(source), "thresholds": cuts})
    if not len(indices):
        raise UserError(f"{source.name}: the filter keeps none of {len(source)} records")
    return Subset(source, indices)


def _content(source: Source) -> str:
    """What changes with a source's scores, for one that has no fingerprint: "" where they come with the package."""
    if isinstance(source, Subset):
        rows = hashlib.sha256(source.indices.tobytes()).hexdigest()[:12]
        return f"{rows}-{getattr(source.source, 'fingerprint', '') or _content(source.source)}"
    if hasattr(source, "content"):
        return source.content
    path = getattr(source, "path", "")
    return _file_content(path) if path and (storage.is_remote(path) or os.path.isfile(path)) else ""


def _file_content(path: str) -> str:
    """Changes with a file's bytes, whatever its time; of a remote one with its size and version."""
    if storage.is_remote(path):
        return storage.fingerprint(path)
    with storage.open_stream(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:12]


def _version(path: str) -> str:
    storage.size(path)  # says it if there is no such file
    return storage.fingerprint(path)


def _sidecar_files(path: str) -> list[str]:
    return [path, path.removesuffix(".npy") + ".json"] if path.endswith(".npy") else [path]


def source_fingerprint(source: Source) -> str:
    """What identifies a source's content: its own fingerprint, else its length and 64 of its ids."""
    if hasattr(source, "fingerprint"):
        return source.fingerprint
    some = np.unique(np.linspace(0, len(source) - 1, 64).astype(int)) if len(source) else []
    described = [len(source), [_id_or_error(source, int(i)) for i in some]]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]


def _id_or_error(source: Source, index: int) -> str:
    try:
        return record_id(source, index)
    except BadExample as error:
        return f"! {error.record}"


def _stored(path: str, digest: str, print_: str, of: int) -> Int[np.ndarray, "n"] | None:
    """The manifest's indices, or None if there is no manifest or it was made from something else.

    Raises:
      UserError: what stands there is no manifest, or not a list of records of a source of `of`.
    """
    if not storage.exists(path):
        return None
    try:
        found = parse_object(storage.read(path))
        if (found.get("filter"), found.get("source")) != (digest, print_):
            return None
        indices = parse_npy(storage.read(path.removesuffix(".json") + ".npy"))
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise Malformed(f"its list is {indices.dtype} of shape {indices.shape}")
        if len(indices) != found.get("kept"):
            raise Malformed(f"lists {len(indices)} records but says {show(found.get('kept'))}")
        if len(indices) and not (0 <= int(indices[0]) and int(indices[-1]) < of and (indices[1:] > indices[:-1]).all()):
            raise Malformed(f"lists records that are not among the {of} of the source, or not in order")
    except Malformed as error:
        raise UserError(f"{path}: not a filter manifest: {error}; delete it to compute it again") from None
    return indices.astype(np.int64)


def _store(path: str, indices: Int[np.ndarray, "n"], manifest: dict) -> None:
    storage.make_folder(path.rpartition("/")[0] or ".")
    out = io.BytesIO()
    np.save(out, indices, allow_pickle=False)
    storage.write_atomic(path.removesuffix(".json") + ".npy", [out.getvalue()])
    text = json.dumps(manifest | {"kept": len(indices)}, indent=1)
    storage.write_atomic(path, [text.encode()])  # last: a manifest without its list must not exist


def _embedded(source: Source, names: Iterable[str]) -> dict[str, Float[np.ndarray, "n"]]:
    """Scores stored in the records; NaN where a record cannot be read, or its score is `null` or NaN."""
    scores = {name: np.full(len(source), np.nan) for name in names}
    for i in range(len(source)):
        try:
            record = source[i]
        except BadExample:
            continue
        for name, column in scores.items():
            if name not in record.scores:
                raise UserError(f"{source.name}: record {record.id}: {_why_no_score(source, i, record, name)}")
            column[i] = record.scores[name]
    for name, column in scores.items():
        if np.isnan(column).all():
            raise UserError(f"{source.name}: score {name!r} is null or NaN in each of {len(source)} records, or none can be read")
    return scores


def _why_no_score(source: Source, index: int, record: Record, name: str) -> str:
    """What stands where a number should, if the source can tell."""
    while isinstance(source, Subset):
        source, index = source.source, int(source.indices[index])
    given = source.given_scores(index) if hasattr(source, "given_scores") else None
    if given is not None and not isinstance(given, Mapping):
        return f"column 'scores' is {kind(given)} where an object of scores by name is expected"
    try:
        if isinstance(given, Mapping) and name in given:
            as_score(given[name])
    except Malformed as error:
        return f"score {name!r} {error}"
    return f"no score {name!r} (has {', '.join(map(str, given or record.scores)) or 'none'})"


def names(source: Source) -> list[str | None]:
    """Every record's name, None where it cannot be read.

    Raises:
      UserError: two records of one name, which a file of scores could not tell apart.
    """
    found: list[str | None] = []
    seen: dict[str, int] = {}
    name_of = source.row_id if hasattr(source, "row_id") else lambda i: record_id(source, i)
    for i in range(len(source)):
        try:
            name = name_of(i)
        except BadExample:
            found.append(None)
            continue
        if seen.setdefault(name, i) != i:
            raise UserError(f"{source.name}: records {seen[name]} and {i} are both called {show(name)}: ids are not unique, and "
                            "scores go by them; give each a column 'id' of its own")
        found.append(name)
    return found


def check_sidecar(path: str) -> None:
    """Before the work: whether scores can be written to `path`.

    Raises:
      UserError: another ending, or no such folder.
    """
    if not path.endswith((".jsonl", ".npy")):
        raise UserError(f"{path}: a score sidecar ends in .jsonl or .npy")
    folder = path.rpartition("/")[0] or "."
    if not storage.is_remote(path) and not os.path.isdir(folder):
        raise UserError(f"{path}: no such folder {folder!r}; make it first")


def write_scores(path: str, ids: Sequence[str], scores: Mapping[str, Sequence[float]]) -> None:
    """Writes a score sidecar, whole or not at all.

    Args:
      path: `x.jsonl`: one `{"id": ..., "scores": {name: value}}` a line; or `x.npy`: float32 [n, names], with
        `x.json` holding `{"ids": [...], "names": [...]}`.
      ids: the source's record ids, unique.
      scores: name -> one score an id.
    """
    check_sidecar(path)
    if len(set(ids)) != len(ids):
        raise UserError(f"{path}: record ids are not unique")
    for name, column in scores.items():
        if len(column) != len(ids):
            raise UserError(f"{path}: {len(column)} scores {name!r} for {len(ids)} ids")
    if path.endswith(".npy"):
        out = io.BytesIO()
        np.save(out, np.stack([np.asarray(c, np.float32) for c in scores.values()], axis=1), allow_pickle=False)
        storage.write_atomic(path, [out.getvalue()])
        names = json.dumps({"ids": list(ids), "names": list(scores)})
        storage.write_atomic(path.removesuffix(".npy") + ".json", [names.encode()])
    else:
        rows = ({"id": i, "scores": {n: float(c[r]) for n, c in scores.items()}} for r, i in enumerate(ids))
        storage.write_atomic(path, (json.dumps(row).encode() + b"\n" for row in rows))


def read_scores(path: str, source: Source) -> dict[str, Float[np.ndarray, "n"]]:
    """A sidecar's scores in the source's order; it may hold more records than the source.

    Raises:
      UserError: a malformed sidecar, or one that lacks a record of the source.
    """
    ids, table = _read_npy(path) if path.endswith(".npy") else _read_jsonl(path)
    position: dict[str, int] = {}
    for i, name in enumerate(ids):
        if position.setdefault(name, i) != i:
            raise UserError(f"{path}: id {show(name)} occurs twice, at rows {position[name] + 1} and {i + 1}")
    order = np.empty(len(source), np.int64)
    for i in range(len(source)):
        try:
            name = record_id(source, i)
        except BadExample:
            order[i] = -1  # an unreadable record has no score and is not kept
            continue
        if name not in position:
            raise UserError(f"{path}: no score for record {name!r} of {source.name}; was it made from another source?")
        order[i] = position[name]
    return {n: np.where(order >= 0, c[order], np.nan) if len(c) else c for n, c in table.items()}


def _read_npy(path: str) -> tuple[list[str], dict[str, Float[np.ndarray, "n"]]]:
    beside = path.removesuffix(".npy") + ".json"
    try:
        table = parse_npy(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: not a score table: {error}") from None
    try:
        listed = parse_object(storage.read(beside))
        ids, names = listed.get("ids"), listed.get("names")
        if not isinstance(ids, list) or not isinstance(names, list):
            raise Malformed("needs lists 'ids' and 'names'")
        ids = [_sidecar_id(value) for value in ids]
        if not all(map(is_text, names)) or len(set(names)) != len(names):
            raise Malformed(f"'names' are no texts of their own: {show(names)}")
    except Malformed as error:
        raise UserError(f"{beside}: not the ids of a score table: {error}") from None
    if table.shape != (len(ids), len(names)):
        raise UserError(f"{path}: scores of shape {table.shape} for {len(ids)} ids and {len(names)} names")
    if table.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds {table.dtype}, not scores")
    table = table.astype(np.float64)
    if np.isinf(table).any():
        row, column = np.argwhere(np.isinf(table))[0]
        raise UserError(f"{path}: score {names[column]!r} of {show(ids[row])} is infinite")
    return ids, {name: table[:, i] for i, name in enumerate(names)}


def _read_jsonl(path: str) -> tuple[list[str], dict[str, Float[np.ndarray, "n"]]]:
    ids, rows = [], []
    for number, line in enumerate(storage.read(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            if not isinstance(row, dict) or "id" not in row or not isinstance(row.get("scores"), dict):
                raise Malformed('expected {"id": ..., "scores": {...}}')
            ids.append(_sidecar_id(row["id"]))
            rows.append({name: _score(name, value) for name, value in row["scores"].items()})
        except Malformed as error:
            raise UserError(f"{path} line {number}: {error}") from None
    if not rows:
        raise UserError(f"{path}: no scores in this file")
    names = dict.fromkeys(name for row in rows for name in row)
    return ids, {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _sidecar_id(value: Any) -> str:
    """An id as sources have it: the number 3 is the text "3"."""
    if is_count(value, below=1 << 128):
        return str(value)
    if not is_text(value):
        raise Malformed(f"id {show(value)} is neither text nor a whole number")
    return value


def _score(name: str, value: Any) -> float:
    try:
        return as_score(value)
    except Malformed as error:
        raise Malformed(f"score {show(name)} {error}") from None
