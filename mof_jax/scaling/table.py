"""The points of a law: read from anybody's table, checked, and left out by stated rules, never silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import math
import os
from typing import Any

from jaxtyping import Bool, Float
import numpy as np

from mof_jax.data.files import tables
from mof_jax.errors import UserError, nearest
from mof_jax.parsing import Malformed, decode, parse_json, show

# What a column may hold, by its symbol: (meaning and unit, names it has in tables that nobody mapped).
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "N": ("parameters", ("parameters", "params")),
    "D": ("training tokens or examples", ("tokens", "examples")),
    "C": ("training compute, FLOP (for openclip GMAC, as its points have it)", ("flops", "compute", "flop")),
    "L": ("loss, lower is better", ("loss",)),
    "x": ("what a power law is in: C, N or D unless mapped", ()),
    "error": ("error, a share or a percentage", ()),
    "U": ("unique training tokens or examples", ("unique_tokens", "unique_examples", "unique")),
    "lr": ("peak learning rate", ("learning_rate",)),
    "wd": ("weight decay", ("weight_decay",)),
    "batch": ("examples or tokens a step", ("batch_size",)),
}
DIVERGED = 1.5
_FAULT = "\0"  # key of a row that could not be read: why
# C over 6·N·D within these bounds is of the model: experts that rest, attention, the passes of a step; with D in examples, the
# tokens of one.
_TOKENS, _EXAMPLES = (1 / 30, 30.0), (1 / 30, 800.0)
_UNITS = {1e15: "parameters in millions and tokens in billions", 1e18: "parameters and tokens in billions",
          1e12: "parameters and tokens in millions", 1e9: "parameters or tokens in billions",
          1e6: "parameters or tokens in millions", 1e3: "parameters or tokens in thousands",
          1e-3: "FLOP in thousands", 1e-6: "FLOP in millions", 1e-9: "GFLOP", 1e-12: "TFLOP", 1e-15: "PFLOP", 1e-18: "EFLOP",
          1 / 8.64e19: "petaFLOP/s-days"}
_FILES = ("points.csv", "points.jsonl")  # of a work dir
_MAX_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Excluded:
    """A point that a law does not see. `row` counts from 1, the header left out."""

    row: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Points:
    """Numbers by symbol, float64, all of one length.

    Attributes:
      rows: of the table, from 1. excluded: the rows that are not among them. notes: what else a reader should know. warnings:
        what makes the numbers doubtful.
      names: of the columns that the symbols were read from.
    """

    source: str
    columns: Mapping[str, Float[np.ndarray, "points"]]
    rows: tuple[int, ...]
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, symbol: str) -> Float[np.ndarray, "points"]:
        return self.columns[symbol]

    def __contains__(self, symbol: str) -> bool:
        return symbol in self.columns

    def keep(self, kept: Bool[np.ndarray, "points"], reason: Sequence[str] | str) -> Points:
        """Without the points that are not kept; `reason` of all, or of each."""
        reasons = [reason] * len(self) if isinstance(reason, str) else reason
        out = [Excluded(row, why) for row, ok, why in zip(self.rows, kept, reasons) if not ok]
        return dataclasses.replace(
            self, columns={name: values[kept] for name, values in self.columns.items()},
            rows=tuple(row for row, ok in zip(self.rows, kept) if ok),
            excluded=tuple(sorted((*self.excluded, *out), key=lambda e: e.row)))


def read(path: str, mapping: Mapping[str, str] | None = None) -> tuple[str, dict[str, str], list[dict[str, Any]]]:
    """Rows of a `.csv`, `.tsv`, `.json` (a list) or `.jsonl` file, or of the points of a sweep's work dir, columns renamed.

    Args:
      mapping: symbol -> name of the column; symbols that it lacks are looked for by their usual names.

    Returns:
      The file, the name of each symbol's column, and the rows by symbol.

    Raises:
      UserError: no such file, not a table, or a column that it does not have.
    """
    path, rows = _load(path, mapping or {})
    names = list(dict.fromkeys(name for row in rows for name in row if name != _FAULT))
    chosen = dict(mapping or {})
    for symbol, name in chosen.items():
        if symbol not in COLUMNS:
            raise UserError(f"--columns {symbol}={name}: unknown symbol{nearest(symbol, COLUMNS)}")
        if name not in names:
            raise UserError(f"{path}: no column {name!r}{nearest(name, names)}")
    for symbol, (_, usual) in COLUMNS.items():
        found = [name for name in (symbol, *usual) if name in names]
        if symbol not in chosen and found:
            chosen[symbol] = found[0]
    return path, chosen, [{symbol: row.get(name) for symbol, name in chosen.items()} |
                          ({_FAULT: row[_FAULT]} if _FAULT in row else {}) for row in rows]


def points(source: str, rows: Sequence[Mapping[str, Any]], needed: Sequence[str], optional: Sequence[str] = (),
           target: str = "L", diverged: float = DIVERGED, names: Mapping[str, str] | None = None) -> Points:
    """Checks every row and leaves out what a law must not see.

    D follows from C = 6·N·D where it is not given, and so do C and N. Left out, each with its reason: a number that is missing,
    unreadable, not finite or not positive; a copy of an earlier row; a diverged run. Rows that differ in the target alone are
    repeated measurements: they stay, and a note says so.

    Args:
      needed: symbols that the law reads. optional: those that it reads where there are some.
      diverged: a run has diverged if its target is more than this many times that of a run that is no larger in anything.
      names: see `Points`.

    Raises:
      UserError: a symbol that no column gives.
    """
    given = {symbol for row in rows for symbol in row} - {_FAULT}
    symbols = [*needed, *(s for s in optional if s in given)]
    missing = [s for s in needed if not _available(s, given)]
    if missing:
        known = ", ".join(sorted(given)) or "none"
        raise UserError(f"{source}: the law needs {', '.join(missing)} ({COLUMNS[missing[0]][0]}); recognised: {known}; "
                        f"name the columns with --columns '{missing[0]}=NAME'")
    kept, values, out = [], [], []
    for number, row in enumerate(rows, 1):
        numbers, reason = _numbers(row, symbols, given)
        if reason:
            out.append(Excluded(number, reason))
        else:
            kept.append(number)
            values.append(numbers)
    columns = {s: np.array([v[i] for v in values], np.float64) for i, s in enumerate(symbols)}
    names = dict(names or {})
    if "x" in symbols and "x" not in given:
        names["x"] = names.get(_sources("x", given)[0], _sources("x", given)[0])
    doubts = () if "error" in needed else _units(rows, kept, names)  # openclip's points have C in GMAC
    found = _without_copies(Points(source, columns, tuple(kept), tuple(out), names=names, warnings=doubts), target)
    return _without_diverged(found, target, diverged)


def drop_highest(p: Points, count: int, target: str = "L") -> Points:
    """Without the `count` points of the highest target, as the replication of Chinchilla's fit leaves out five."""
    kept = np.ones(len(p), bool)
    kept[np.argsort(-p[target], kind="stable")[:count]] = False
    return p.keep(kept, f"one of the {count} highest {target} (--drop-highest)")


def parse_columns(text: str) -> dict[str, str]:
    """`'N=Model Size,C=Training FLOP'` as a mapping.

    Raises:
      UserError: a part without `=`, or a symbol given twice.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        symbol, equals, name = (word.strip() for word in part.partition("="))
        if not (symbol and equals and name) or symbol in found:
            raise UserError(f"--columns {part.strip()!r}: expected SYMBOL=NAME, each symbol once; symbols: "
                            f"{', '.join(COLUMNS)}")
        found[symbol] = name
    return found


def _load(path: str, mapping: Mapping[str, str]) -> tuple[str, list[dict[str, Any]]]:
    if os.path.isdir(path):
        inside = [os.path.join(path, name) for name in _FILES if os.path.isfile(os.path.join(path, name))]
        if not inside:
            raise UserError(f"{path}: no points of a sweep in this folder (looked for {', '.join(_FILES)})")
        path = inside[0]
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file or folder")
    if os.path.getsize(path) > _MAX_BYTES:
        raise UserError(f"{path}: more than {_MAX_BYTES >> 20} MiB, which is no table of runs")
    if path.endswith((".csv", ".tsv")):
        rows = _cells(path, mapping)
    elif path.endswith((".jsonl", ".json")):
        rows = _objects(path)
    else:
        raise UserError(f"{path}: expected .csv, .tsv, .json, .jsonl or a sweep's work dir")
    if not rows:
        raise UserError(f"{path}: no rows")
    return path, rows


def _cells(path: str, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of a CSV or TSV; one with a fault has its columns empty, and says why under `_FAULT`."""
    known = {*mapping.values(), *(name for symbol, (_, usual) in COLUMNS.items() for name in (symbol, *usual))}
    table = tables.read(path, known, "name the columns with --columns SYMBOL=NAME,…", skip_blanks=True)
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        if row.fault:
            commas = table.separator == "," and len(row.cells) > len(table.header)
            decimal = "; is one of a decimal comma?" if commas else ""
            rows.append(dict.fromkeys(filter(None, table.header)) | {_FAULT: f"line {row.line} {row.fault}{decimal}"})
        else:
            rows.append({name: cell for name, cell in zip(table.header, row.cells) if name})
    return rows


def _objects(path: str) -> list[dict[str, Any]]:
    with open(path, "rb") as f:
        data = f.read()
    parts = [(path, data)] if path.endswith(".json") else [
        (f"{path} line {number}", line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    rows: list[Any] = []
    for where, part in parts:
        try:
            rows.append(parse_json(decode(part)))
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None
    if path.endswith(".json"):
        (rows,) = rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of JSON objects, one a run")
    return rows


def _available(symbol: str, given: set[str]) -> bool:
    from_others = {"D": {"N", "C"}, "C": {"N", "D"}, "N": {"C", "D"}}
    if symbol == "x":
        return bool(given & {"x", "C", "N", "D"})
    return symbol in given or from_others.get(symbol, {""}) <= given


def _numbers(row: Mapping[str, Any], symbols: Sequence[str], given: set[str]) -> tuple[list[float], str]:
    if _FAULT in row:
        return [], row[_FAULT]
    found: dict[str, float] = {}
    for symbol in dict.fromkeys(s for wanted in symbols for s in _sources(wanted, given)):
        value, reason = _number(row.get(symbol), symbol)
        if reason:
            return [], reason
        found[symbol] = value
    derived = [_derive(symbol, found, given) for symbol in symbols]
    for symbol, value in zip(symbols, derived):
        if not 0 < value < math.inf:
            others = ", ".join(f"{s} = {v:g}" for s, v in found.items() if s in ("N", "D", "C"))
            return [], f"{symbol} is {'infinite' if value else 'zero'} by C = 6·N·D of {others}"
    return derived, ""


def _sources(symbol: str, given: set[str]) -> tuple[str, ...]:
    """The columns that a symbol's number comes from."""
    if symbol in given:
        return (symbol,)
    if symbol == "x":
        return next((s,) for s in ("C", "N", "D") if s in given)
    return tuple(s for s in ("N", "D", "C") if s != symbol)


def _derive(symbol: str, found: Mapping[str, float], given: set[str]) -> float:
    if symbol in given:
        return found[symbol]
    if symbol == "x":
        return found[_sources("x", given)[0]]
    return 6 * found["N"] * found["D"] if symbol == "C" else found["C"] / (6 * found["N" if symbol == "D" else "D"])


def _number(value: Any, symbol: str) -> tuple[float, str]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan, f"{symbol} is missing"
    try:
        number = float(str(value) if isinstance(value, bool) else value)  # true is no 1
    except (ValueError, TypeError, OverflowError):
        return math.nan, f"{symbol} = {show(str(value), 42)} is no number"
    if not math.isfinite(number):
        return math.nan, f"{symbol} is {'NaN' if math.isnan(number) else 'infinite'}"
    return number, "" if number > 0 else f"{symbol} = {number:g} is not positive"


def _units(rows: Sequence[Mapping[str, Any]], kept: Sequence[int], names: Mapping[str, str]) -> tuple[str, ...]:
    """What the table's own C says of its units, beside 6·N·D: nothing where they agree, or not all three are given."""
    numbers, factors = [], []
    for number in kept:
        (n, _), (d, _), (c, _) = (_number(rows[number - 1].get(symbol), symbol) for symbol in "NDC")
        if n > 0 and d > 0 and c > 0:  # no NaN
            numbers.append(number)
            factors.append(math.log(c) - math.log(6) - math.log(n) - math.log(d))
    if not factors:
        return ()
    usual = float(np.median(factors))
    low, high = _TOKENS if "token" in names.get("D", "").lower() else _EXAMPLES
    found = []
    if not math.log(low) <= usual <= math.log(high):
        near = min(_UNITS, key=lambda unit: abs(math.log(unit) - usual))
        guess = f"; {_UNITS[near]} would explain it" if abs(math.log(near) - usual) < math.log(30) else ""
        found.append(f"the table's C is {math.exp(usual):.3g} times 6·N·D{guess}: N, D and C have to be single parameters, "
                     "tokens and FLOP, or the sizes that follow from a budget are wrong")
    others = [n for n, factor in zip(numbers, factors) if abs(factor - usual) > math.log(100)]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        found.append(f"row {', '.join(map(str, others[:5]))}{more}: C over 6·N·D is far from the {math.exp(usual):.3g} of the "
                     "other rows; are they in other units?")
    return tuple(found)


def _without_copies(p: Points, target: str) -> Points:
    seen: dict[tuple[float, ...], int] = {}
    places: dict[tuple[float, ...], int] = {}
    kept, reasons, repeats = np.ones(len(p), bool), [""] * len(p), 0
    others = [s for s in p.columns if s != target]
    for i, row in enumerate(p.rows):
        place = tuple(float(p[s][i]) for s in others)
        whole = (*place, float(p[target][i]))
        if whole in seen:
            kept[i], reasons[i] = False, f"a copy of row {seen[whole]}"
            continue
        repeats += place in places
        seen[whole], places[place] = row, row
    found = p.keep(kept, reasons)
    if not repeats:
        return found
    note = f"{repeats} points repeat another's {', '.join(others)} with another {target}: kept as further measurements"
    return dataclasses.replace(found, notes=(*found.notes, note))


def _without_diverged(p: Points, target: str, ratio: float) -> Points:
    """Of two runs one of which is no larger in N, D, C and x, the larger one should not be much worse."""
    axes = np.array([p[s] for s in ("N", "D", "C", "x") if s in p])
    if not len(p) or not len(axes):
        return p
    y = p[target]
    smaller = (axes[:, None, :] <= axes[:, :, None]).all(0)  # [i, j]: j is no larger than i
    best = np.where(smaller, y, np.inf).min(1)
    reasons = [f"diverged: {target} = {v:.4g} is more than {ratio:g} × the {b:.4g} of a run no larger" for v, b in zip(y, best)]
    return p.keep(y <= ratio * best, reasons)


def write_csv(p: Points, path: str) -> None:
    """The points that a law saw, by symbol, with their row in the table."""
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("row", *p.columns))
        writer.writerows((row, *(repr(float(p[s][i])) for s in p.columns)) for i, row in enumerate(p.rows))
