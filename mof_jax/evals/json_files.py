"""Benchmark files as their authors publish them, read with errors that name file, record and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import itertools
import json
import os
from typing import Any, TypeVar

from mof_jax import storage
from mof_jax.data.keyed import hash64
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, check_text, kind, parse_json

V = TypeVar("V")
_SPREAD = 33  # what a key is for
_NAMES = {int: "whole number", str: "text", list: "list", dict: "object"}


def read_object(path: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
      UserError: no such file, or something else in it.
    """
    try:
        found = parse_json(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}; download it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {kind(found)}, not an object; is it another file of the benchmark?")
    return found


def rows(found: Mapping[str, Any], key: str, path: str) -> list[dict[str, Any]]:
    """The objects listed under `key`, at least one.

    Raises:
      UserError: there is no such list. BadExample: an entry that is no object.
    """
    entries = found.get(key)
    if not isinstance(entries, list) or not entries:
        has = ", ".join(found) or "nothing"
        raise UserError(f"{path}: no list under {key!r} (it has {has}); is it another file of the benchmark?")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise BadExample(path, f"{key} {number}", "not an object")
    return entries


def field(row: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], path: str, record: str | int) -> Any:
    """`row[name]`, of one of `kinds`.

    Raises:
      BadExample: missing, of another type, or text that cannot be written down again.
    """
    value = row.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(_NAMES[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise BadExample(path, record, f"{name!r} is {json.dumps(value)[:60]} where a {wanted} is expected")
    if isinstance(value, str):
        try:
            check_text(value)
        except Malformed as error:
            raise BadExample(path, record, f"{name!r}: {error}") from None
    return value


def unique(pairs: Iterable[tuple[Any, V]], name: str, path: str) -> dict[str, V]:
    """Values by id (as a string, in the file's order).

    Raises:
      BadExample: an id twice.
    """
    found: dict[str, V] = {}
    for key, value in pairs:
        if str(key) in found:
            raise BadExample(path, str(key), f"this {name} stands there twice; remove one")
        found[str(key)] = value
    return found


def spread(items: Sequence[V], limit: int) -> list[V]:
    """At most `limit` items, one from each of as many equal stretches of the whole; all of them for 0.

    Which one is drawn by a hash: a fixed step could fall in with a file's own period (POPE's answers alternate).
    """
    if not limit or limit >= len(items):
        return list(items)
    edges = [i * len(items) // limit for i in range(limit + 1)]
    return [items[first + hash64(_SPREAD, i) % (last - first)] for i, (first, last) in enumerate(itertools.pairwise(edges))]


def check_images(root: str, names: Mapping[str, str], source: str) -> None:
    """Stops for a missing picture before the first question is asked (local folders only; a store is not listed).

    Args:
      names: record -> path inside `root`.

    Raises:
      BadExample: naming the record.
    """
    if storage.is_remote(root):
        return
    for record, name in names.items():
        if not os.path.isfile(os.path.join(root, name)):
            read_image(root, name, source, record)  # says what is wrong
