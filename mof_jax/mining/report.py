"""What mining leaves: a parquet file with its settings and statistics inside, the same as a table, and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import os
from typing import Any

from jaxtyping import Float, Int
import numpy as np
from PIL import Image
import pyarrow as pa
from pyarrow import parquet
from rich.table import Table

from mof_jax import storage
from mof_jax.console import plain
from mof_jax.data.image.contact import comparison_sheet
from mof_jax.data.record import Source
from mof_jax.errors import BadExample, UserError, nearest
from mof_jax.mining.best import best
from mof_jax.mining.state import Pairs, State
from mof_jax.parsing import Malformed, is_count, is_number, parse_object, reason

_KEY = b"mof_jax"
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHOWN = 20  # labels in a table


def blindness(pairs: Pairs, thresholds: Mapping[str, Sequence[Any]]) -> Float[np.ndarray, "pairs"]:
    """How far apart the features are: cosines that must be high minus cosines that must be low.

    Args:
      thresholds: (side, value) by feature, in the order of the cosines.
    """
    return np.array([1.0 if side == "above" else -1.0 for side, _ in thresholds.values()]) @ pairs.cosines


def write(
    path: str, state: State, rows: int, settings: dict[str, Any], ids: Sequence[str] | None, names: Sequence[str],
    codes: Int[np.ndarray, "records"],
) -> None:
    """All finished rows as one file, whole or not at all. Raises `UserError` where it cannot be written.

    Args:
      settings: for the metadata; `top_k` and `limit` in it choose among the pairs.
      ids: of the records, if known. names, codes: labels and each record's number among them, -1 for none.
    """
    parts = lambda: map(state.load, range(rows))
    chosen = parts
    if settings["top_k"] or settings["limit"]:
        scored = ((p.i, p.j, blindness(p, settings["thresholds"])) for p in parts())
        kept = best(scored, settings["top_k"], settings["limit"])
        chosen = lambda: _pick(parts(), kept)
    features = list(settings["rules"])
    columns = [("i", pa.int64()), ("j", pa.int64())]
    columns += [("id_i", pa.string()), ("id_j", pa.string())] if ids is not None else []
    columns += [(f"cos_{name}", pa.float32()) for name in features]
    temporary = f"{path}.part"
    try:
        _write(temporary, columns, chosen, ids, features, settings, names, codes)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise UserError(f"{path}: {storage.failure(error)}") from None


def _write(path: str, columns: list, chosen: Callable[[], Iterator[Pairs]], ids: Sequence[str] | None, features: Sequence[str],
           settings: dict[str, Any], names: Sequence[str], codes: Int[np.ndarray, "records"]) -> None:
    with parquet.ParquetWriter(path, pa.schema(columns)) as writer:
        for p in chosen():
            named = {} if ids is None else {"id_i": [ids[n] for n in p.i], "id_j": [ids[n] for n in p.j]}
            values = {"i": p.i, "j": p.j, **named, **{f"cos_{name}": c for name, c in zip(features, p.cosines)}}
            writer.write_table(pa.table(values, schema=pa.schema(columns)))
        about = settings | {"statistics": statistics(chosen, features, settings["usable"], names, codes)}
        writer.add_key_value_metadata({_KEY: json.dumps(about).encode()})


def _pick(parts: Iterator[Pairs], kept: Int[np.ndarray, "kept"]) -> Iterator[Pairs]:
    """The pairs at sorted positions of the parts laid end to end."""
    begun = 0
    for p in parts:
        low, high = np.searchsorted(kept, (begun, begun + len(p.i)))
        here = kept[low:high] - begun
        begun += len(p.i)
        yield Pairs(p.i[here], p.j[here], p.cosines[:, here])


def statistics(
    parts: Callable[[], Iterator[Pairs]], features: Sequence[str], records: int, names: Sequence[str],
    codes: Int[np.ndarray, "records"],
) -> dict[str, Any]:
    """Figures over all pairs; labels are counted where there are any.

    Args:
      records: that took part.
    """
    count, same, involved = 0, 0, np.zeros(len(codes), bool)
    labelled = np.zeros(len(names), np.int64)
    values: list[np.ndarray] = []
    for p in parts():
        count += len(p.i)
        involved[p.i] = involved[p.j] = True
        values.append(p.cosines)
        alike = (codes[p.i] == codes[p.j]) & (codes[p.i] >= 0)
        same += int(alike.sum())
        for n, times in zip(*np.unique(codes[p.i[alike]], return_counts=True)):
            labelled[n] += times
    cosines = np.concatenate(values, axis=1)
    found: dict[str, Any] = {
        "pairs": count, "share_of_pairs": count / (records * (records - 1) / 2), "images": int(involved.sum()),
        "share_of_images": int(involved.sum()) / records,
        "cosines": {name: dict(zip(map(str, _QUANTILES), np.quantile(c, _QUANTILES).astype(float).tolist())) if count else {}
                    for name, c in zip(features, cosines)},
    }
    if names:
        sizes = np.bincount(codes[codes >= 0], minlength=len(names))
        images = np.bincount(codes[involved & (codes >= 0)], minlength=len(names))
        shares = labelled / np.maximum(1, sizes * (sizes - 1) / 2)  # of the pairs that there are within a label
        found["same_label"] = same
        found["labels"] = {names[n]: {"pairs": int(labelled[n]), "share": float(shares[n]), "images": int(images[n]),
                                      "records": int(sizes[n])} for n in np.argsort(-labelled, kind="stable")}
    return found


def read(path: str) -> tuple[Pairs, tuple[str, ...], dict[str, Any]]:
    """Pairs, names of the features and metadata of a file.

    Raises:
      UserError: not a file of mined pairs.
    """
    try:
        file = parquet.ParquetFile(path)
        about = (file.metadata.metadata or {}).get(_KEY)
        if about is None:
            raise Malformed("it has no settings of mof_jax")
        info, table = parse_object(about), file.read()
        if not isinstance(info.get("rules"), dict) or not info["rules"]:
            raise Malformed("its settings have no rules")
        _check(info)
        names = tuple(info["rules"])
        cosines = [table[f"cos_{name}"].to_numpy() for name in names]
        return Pairs(table["i"].to_numpy(), table["j"].to_numpy(), np.stack(cosines)), names, info
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:  # `Malformed` is a ValueError
        raise UserError(f"{path}: not a file of mined pairs ({reason(error)})") from None


def _check(info: dict[str, Any]) -> None:
    """Of a file's settings, what `blindness` and `summary` take from them.

    Raises:
      Malformed: naming what is not as `write` leaves it.
    """
    def need(key: str, right: bool) -> None:
        if not right:
            raise Malformed(f"{key} of its settings is damaged")

    rules, limits, found = info["rules"], info.get("thresholds"), info.get("statistics")
    need("rules", all(isinstance(rule, str) for rule in rules.values()))
    need("centred", isinstance(info.get("centred"), bool))
    need("usable", is_count(info.get("usable")))
    need("thresholds", isinstance(limits, dict) and list(limits) == list(rules) and all(
        isinstance(x, list) and len(x) == 2 and x[0] in ("above", "below") and is_number(x[1]) for x in limits.values()))
    need("statistics", isinstance(found, dict))
    for key in ("pairs", "images", *(["same_label"] if "labels" in found else [])):
        need(f"statistics.{key}", is_count(found.get(key)))
    for key in ("share_of_pairs", "share_of_images"):
        need(f"statistics.{key}", is_number(found.get(key)))
    cosines, labelled = found.get("cosines"), found.get("labels", {})
    need("statistics.cosines", isinstance(cosines, dict) and list(cosines) == list(rules) and all(
        isinstance(x, dict) and {*x} <= {*map(str, _QUANTILES)} and all(map(is_number, x.values())) for x in cosines.values()))
    need("statistics.labels", isinstance(labelled, dict) and all(
        isinstance(x, dict) and is_number(x.get("share")) and all(is_count(x.get(k)) for k in ("pairs", "images", "records"))
        for x in labelled.values()))


def summary(info: dict[str, Any]) -> Table:
    """The statistics, to print."""
    s = info["statistics"]
    result = Table(title="Pairs", title_justify="left", show_header=False)
    for name, rule in info["rules"].items():
        result.add_row(plain(f"cos_{name}"), plain(rule + (", centred" if info["centred"] else "")))
    result.add_row("pairs", f"{s['pairs']:,} ({s['share_of_pairs']:.3g} of all)")
    result.add_row("images", f"{s['images']:,} ({s['share_of_images']:.1%} of {info['usable']:,})")
    for name, quantiles in s["cosines"].items():
        result.add_row(plain(f"cos_{name}"), ", ".join(f"{float(q):.0%} {value:.4f}" for q, value in quantiles.items()))
    if "labels" in s:
        result.add_row("same label", f"{s['same_label']:,}")
        for label, found in [(label, found) for label, found in s["labels"].items() if found["pairs"]][:_SHOWN]:
            result.add_row(plain(f"  {label}"), f"{found['pairs']:,} pairs ({found['share']:.2%} of its own), in pairs of any "
                           f"kind {found['images']:,} of {found['records']:,} images")
    return result


def labels(source: Source, attribute: str) -> list[str]:
    """An attribute of every record, "" for one that cannot be read.

    Raises:
      UserError: no record has it.
    """
    found = []
    for n in range(len(source)):
        try:
            found.append(source[n].attributes.get(attribute, ""))
        except BadExample:
            found.append("")
    if not any(found):
        has = sorted(source[0].attributes)
        raise UserError(f"{source.name}: no record has attribute {attribute!r}{nearest(attribute, has)}")
    return found


def sheet(pairs: Pairs, info: dict[str, Any], source: Source, count: int = 16, size: int = 96) -> Image.Image:
    """The blindest pairs side by side, their cosines before them; no picture twice, and none that cannot be read."""
    names, lines, shown = list(info["rules"]), [], set()
    for n in np.argsort(-blindness(pairs, info["thresholds"]), kind="stable"):
        places = {int(pairs.i[n]), int(pairs.j[n])}
        if places & shown:
            continue
        try:
            records = [source[place] for place in sorted(places)]
        except BadExample:
            continue
        shown |= places
        cosines = "  ".join(f"{name} {value:.3f}" for name, value in zip(names, pairs.cosines[:, n]))
        lines.append((cosines, records))
        if len(lines) == count:
            break
    return comparison_sheet(lines, ("first", "second"), size)
