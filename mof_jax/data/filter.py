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
import os
from typing import Literal

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax import config as configs
from mof_jax.data import remote
from mof_jax.data.record import Record, Source
from mof_jax.errors import BadExample, UserError


@dataclasses.dataclass(frozen=True)
class ScoreRule:
    """Keep scores of at least `minimum`, or the best `fraction`. Exactly one is given."""

    minimum: float | None = None
    fraction: float | None = None

    def __post_init__(self):
        if (self.minimum is None) == (self.fraction is None):
            raise ValueError("a score rule gives either minimum or fraction")
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
    """`source` without the records that `config` drops, from the manifest if it still holds.

    Raises:
      UserError: scores that do not belong to this source, or nothing kept.
    """
    print_ = source_fingerprint(source)
    digest = configs.digest(dataclasses.replace(config, manifest=""))
    if config.sidecar:
        print_ += "+" + remote.fingerprint(config.sidecar)
    folder = os.path.join(cache_dir or remote.default_cache(), "filters")
    name = hashlib.sha256(f"{digest} {print_}".encode()).hexdigest()[:12]
    path = config.manifest or os.path.join(folder, f"{name}.json")
    indices = _stored(path, digest, print_)
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


def _stored(path: str, digest: str, print_: str) -> Int[np.ndarray, "n"] | None:
    """The manifest's indices, or None if there is no manifest or it was made from something else."""
    if not remote.exists(path):
        return None
    try:
        found = json.loads(remote.read(path))
        if (found["filter"], found["source"]) != (digest, print_):
            return None
        indices = np.load(io.BytesIO(remote.read(path.removesuffix(".json") + ".npy")), allow_pickle=False)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a filter manifest ({error}); delete it to compute it again") from None
    if len(indices) != found["kept"]:
        raise UserError(f"{path}: lists {len(indices)} records but says {found['kept']}; delete it to compute it again")
    return indices


def _store(path: str, indices: Int[np.ndarray, "n"], manifest: dict) -> None:
    if not remote.is_remote(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    out = io.BytesIO()
    np.save(out, indices, allow_pickle=False)
    remote.write_atomic(path.removesuffix(".json") + ".npy", [out.getvalue()])
    text = json.dumps(manifest | {"kept": len(indices)}, indent=1)
    remote.write_atomic(path, [text.encode()])  # last: a manifest without its list must not exist


def _embedded(source: Source, names: Iterable[str]) -> dict[str, Float[np.ndarray, "n"]]:
    """Scores stored in the records; NaN where a record cannot be read."""
    scores = {name: np.full(len(source), np.nan) for name in names}
    for i in range(len(source)):
        try:
            record = source[i]
        except BadExample:
            continue
        for name, column in scores.items():
            if name not in record.scores:
                has = ", ".join(record.scores) or "none"
                raise UserError(f"{source.name}: record {record.id}: no score {name!r} (has {has})")
            column[i] = record.scores[name]
    return scores


def write_scores(path: str, ids: Sequence[str], scores: Mapping[str, Sequence[float]]) -> None:
    """Writes a score sidecar, whole or not at all.

    Args:
      path: `x.jsonl`: one `{"id": ..., "scores": {name: value}}` a line; or `x.npy`: float32 [n, names], with
        `x.json` holding `{"ids": [...], "names": [...]}`.
      ids: the source's record ids, unique.
      scores: name -> one score an id.
    """
    if len(set(ids)) != len(ids):
        raise UserError(f"{path}: record ids are not unique")
    for name, column in scores.items():
        if len(column) != len(ids):
            raise UserError(f"{path}: {len(column)} scores {name!r} for {len(ids)} ids")
    if path.endswith(".npy"):
        out = io.BytesIO()
        np.save(out, np.stack([np.asarray(c, np.float32) for c in scores.values()], axis=1), allow_pickle=False)
        remote.write_atomic(path, [out.getvalue()])
        names = json.dumps({"ids": list(ids), "names": list(scores)})
        remote.write_atomic(path.removesuffix(".npy") + ".json", [names.encode()])
    elif path.endswith(".jsonl"):
        rows = ({"id": i, "scores": {n: float(c[r]) for n, c in scores.items()}} for r, i in enumerate(ids))
        remote.write_atomic(path, (json.dumps(row).encode() + b"\n" for row in rows))
    else:
        raise UserError(f"{path}: a score sidecar ends in .jsonl or .npy")


def read_scores(path: str, source: Source) -> dict[str, Float[np.ndarray, "n"]]:
    """A sidecar's scores in the source's order; it may hold more records than the source.

    Raises:
      UserError: a malformed sidecar, or one that lacks a record of the source.
    """
    ids, table = _read_npy(path) if path.endswith(".npy") else _read_jsonl(path)
    position = {name: i for i, name in enumerate(ids)}
    if len(position) != len(ids):
        raise UserError(f"{path}: an id occurs twice")
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
    try:
        table = np.load(io.BytesIO(remote.read(path)), allow_pickle=False)
        names = json.loads(remote.read(path.removesuffix(".npy") + ".json"))
        ids, names = list(names["ids"]), list(names["names"])
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"{path}: not a score table: {error}") from None
    if table.shape != (len(ids), len(names)):
        raise UserError(f"{path}: scores of shape {table.shape} for {len(ids)} ids and {len(names)} names")
    return ids, {name: table[:, i].astype(np.float64) for i, name in enumerate(names)}


def _read_jsonl(path: str) -> tuple[list[str], dict[str, Float[np.ndarray, "n"]]]:
    ids, rows = [], []
    for number, line in enumerate(remote.read(path).splitlines(), 1):
        try:
            row = json.loads(line)
            ids.append(row["id"])
            rows.append({str(k): float(v) for k, v in row["scores"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f'{path} line {number}: expected {{"id": ..., "scores": {{...}}}}: {error}') from None
    names = dict.fromkeys(name for row in rows for name in row)
    return ids, {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
