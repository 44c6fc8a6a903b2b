"""Mutations of what a JSON, TOML or CSV file says, rather than of its bytes."""

from __future__ import annotations

from collections.abc import Callable
import copy
import csv
import io
import json
import random
from typing import Any

Path = tuple[Any, ...]  # keys and places from the root of a value to one inside it


class Raw(str):
    """Text that stands in the JSON as it is: numbers that Python would not write, nesting without end."""


# Under each there is a kind of fault that once was found: another type, falsy, no number, too large, no text, too deep.
ODD: tuple[Any, ...] = (
    None,
    {},
    [],
    "",
    True,
    False,
    0,
    -1,
    1,
    0.5,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    -(2**63) - 1,
    2**70,
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw("1e300"),
    Raw("1e400"),
    Raw("-0"),
    Raw("9" * 5000),
    Raw("[" * 100_000),
    Raw('{"a":' * 20_000),
    "\ud83d",
    "\0",
    "a\nb\r\u2028c",
    "\u202eabc",
    "[/red] [bold",
    "x" * 100_000,
    "../../etc/passwd",
    "/etc/passwd",
    "~/x",
    "²",
    "none",
    "NaN",
    "1e999",
    "{image_id.__class__}",
    "%s%n",
    "gs://no-such-bucket/x",
    "-rf",
    [[]],
    [None],
    [{}],
    {"": ""},
    {"a": None},
    ["a", 1],
    [True],
    {"__class__": 1},
    {"a.b": 1},
    [10**30] * 3,
    [1] * 70,
)


def mutate_json(text: str, rng: random.Random) -> str:
    """A JSON text with some of its values, keys or order changed; of another text, none of it."""
    try:
        return _dumps(mutate(json.loads(text), rng))
    except (ValueError, RecursionError):  # an earlier change has made it none, or one that nests too deeply
        return text


def mutate_lines(text: str, rng: random.Random) -> str:
    """JSON lines: one or several of them changed, exchanged, doubled or left out."""
    lines = [line for line in text.split("\n") if line]
    for _ in range(rng.choice((1, 1, 2))):
        if not lines:
            break
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                lines[i], lines[j] = lines[j], lines[i]
            case 1:
                lines.insert(j, lines[i])
            case 2:
                del lines[i]
            case 3:
                lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
            case 4:
                lines[i] = _dumps(_odd(rng))
            case _:
                lines[i] = mutate_json(lines[i], rng)
    return "\n".join(lines) + rng.choice(("\n", "\n", "", "\r\n"))


def mutate(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one to three changes."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        path = rng.choice(places)
        if not path:
            if len(places) == 1 or rng.random() < 0.2:
                return _odd(rng)
            path = rng.choice(places[1:])
        parent = _at(value, path[:-1])
        _change(parent, path[-1], rng)
    return value


def _odd(rng: random.Random) -> Any:
    """A copy: what is put into a value may be changed there again."""
    return copy.deepcopy(rng.choice(ODD))


def _change(parent: Any, key: Any, rng: random.Random) -> None:
    action = rng.randrange(10)
    if action < 6:
        parent[key] = _odd(rng)
    elif action == 6:
        del parent[key]
    elif action == 7 and isinstance(parent, dict):
        parent[rng.choice((f"{key}x", str(key).upper(), "", "\ud83d", "id", "version", "a\nb"))] = parent.pop(key)
    elif action == 7:
        parent.insert(key, copy.deepcopy(parent[key]))
    elif action == 8:
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    else:
        parent[key] = _wrapped(parent[key], rng)


def _wrapped(value: Any, rng: random.Random) -> Any:
    """The same value as another type."""
    ways: list[Callable[[Any], Any]] = [lambda v: [v], lambda v: {"a": v}, str]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        ways += [
            lambda v: v + 1,
            lambda v: -v,
            lambda v: v * 1e18,
            float,
            lambda v: v << 40 if isinstance(v, int) else v / 3,
        ]
    if isinstance(value, list):
        ways += [lambda v: v[::-1], lambda v: v + v, lambda v: v[:-1], lambda v: dict(enumerate(v))]
    if isinstance(value, str):
        ways += [
            str.upper,
            lambda v: v + v,
            lambda v: v[:-1],
            lambda v: f" {v}\t",
            lambda v: v + "\ud83d",
            lambda v: f"../{v}",
        ]
    return rng.choice(ways)(value)


def _places(value: Any, path: Path = ()) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _dumps(value: Any) -> str:
    """JSON, in which `Raw` stands as it is."""
    found: list[str] = []

    def marked(inner: Any) -> Any:
        if isinstance(inner, Raw):
            found.append(str(inner))
            return f"\x01{len(found) - 1}\x01"
        if isinstance(inner, dict):
            return {key: marked(x) for key, x in inner.items()}
        return [marked(x) for x in inner] if isinstance(inner, list) else inner

    text = json.dumps(marked(value))
    for i, raw in enumerate(found):
        text = text.replace(f'"\\u0001{i}\\u0001"', raw)
    return text


def mutate_toml(text: str, rng: random.Random) -> str:
    """TOML: a value, a key or a line changed."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2))):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                lines[i], lines[j] = lines[j], lines[i]
            case 1:
                lines.insert(j, lines[i])
            case 2:
                lines[i] = ""
            case _:
                key, eq, _ = lines[i].partition("=")
                if eq:
                    lines[i] = f"{rng.choice((key, key, key, 'x.y ', key.strip() + '.z '))}= {rng.choice(_TOML)}"
    return "\n".join(lines)


_TOML = (
    '""',
    "[]",
    "{}",
    "true",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 5000,
    "2026-01-01",
    "12:00:00",
    "[" * 5000,
    '"\\u0000"',
    '"a\\nb"',
    '"$(touch x)"',
    '"-x"',
    "[[]]",
    "{a = 1}",
    '{"a.b" = []}',
    "1_000",
    "0x7fffffffffffffff",
    '"none"',
    "18446744073709551616",
    '["a", 1]',
    '"../../x"',
    '"gs://b/x"',
    "{a = {b = {c = 1}}}",
    '"\u2028"',
)


def mutate_csv(text: str, rng: random.Random) -> str:
    """CSV or TSV: cells, rows, columns or quotes changed."""
    separator = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))
    for _ in range(rng.choice((1, 1, 2))):
        i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
        column = rng.randrange(len(rows[i]) or 1)
        match rng.randrange(9):
            case 0:
                rows[i], rows[j] = rows[j], rows[i]
            case 1:
                rows.insert(j, list(rows[i]))
            case 2 if len(rows) > 1:
                del rows[i]
            case 3:
                rows[i].append("extra")
            case 4 if rows[i]:
                del rows[i][column]
            case 5 if rows[0]:
                rows[0][rng.randrange(len(rows[0]))] = rng.choice(rows[0] + ["", "\0", "a\nb", "id"])
            case _ if rows[i]:
                rows[i][column] = rng.choice(_CELLS)
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator=rng.choice(("\n", "\n", "\r\n"))).writerows(rows)
    text = out.getvalue()
    if rng.random() < 0.15:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(('"', separator, "\r", "\u2028", "\x85", "\0", "\ufeff", ";", "\n\n")) + text[at:]
    return text


_CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "9" * 5000,
    "1,5",
    "1.000,5",
    "\0",
    "a\nb",
    '"',
    "../../x",
    "²",
    "[/red]",
    "x" * 70_000,
    "\ud83d",
    "\ufffd",
    "true",
    "None",
    "{}",
    "1e-320",
    "=1+1",
    "\u2028",
    "0x10",
    "1_0",
)
