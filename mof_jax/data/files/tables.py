"""Tables of delimited cells (CSV, TSV), read so that nothing is lost, shifted or cut.

A header that cannot be understood, and quotes that do not close, are errors of the whole table and name their line. A row
with too many or too few cells, or with bytes that are no UTF-8, is a fault of that row, which says so. Rows are held in
memory; the bytes of the file are not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
import contextlib
import csv
import io
import re
import threading
from typing import NamedTuple

from mof_jax import storage
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, check_text, decode, show

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_CELL = 64 * 2**20  # characters of the longest cell: a picture in base64 is one
_FILE = re.compile(r"\S*(?:\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif)|://\S*)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?|")
_ESCAPED = re.compile("[\udc80-\udcff]")  # how Python keeps a byte that is no UTF-8
_limit = threading.Lock()


class Row(NamedTuple):
    """A row: the number of its last line, its cells in the header's order, and what is wrong with it ("": nothing)."""

    line: int
    cells: tuple[str, ...]
    fault: str = ""


class Table(NamedTuple):
    """A header, whose names are unique or empty, and the rows below it.

    Attributes:
      separator: what stands between the cells.
    """

    path: str
    header: tuple[str, ...]
    rows: list[Row]
    separator: str

    def dicts(self) -> list[dict[str, str]]:
        """Every row by column.

        Raises:
          BadExample: the first row with a fault.
        """
        found = []
        for row in self.rows:
            if row.fault:
                raise BadExample(self.path, f"line {row.line}", row.fault)
            found.append({name: cell for name, cell in zip(self.header, row.cells) if name})
        return found


def read(path: str, known: Collection[str], how: str, *, case: bool = True, skip_blanks: bool = False) -> Table:
    """The table in a file: tabs stand between the cells of a `.tsv`, commas in any other.

    Where that gives no known column and one other separator does, that one is taken: open_clip's `.csv` has tabs. Names lose
    the blanks around them. Lines without a cell are passed over.

    Args:
      known: names of columns; one of them at least has to be there.
      how: what to do where none is, for the error.
      case: whether capitals count in names.
      skip_blanks: drop blanks behind a separator.

    Raises:
      UserError: no such file, no header with a known column, a name twice, a quote that does not close, another encoding.
    """
    with storage.open_stream(path) as stream, _long_cells():
        _check_encoding(path, stream)
        lines = _Lines(io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=""))
        head = _first(path, lines)
        where = f"{path} line {lines.number}"
        separator = _separator(path, where, head, known, how, case)
        header = _header(where, head, separator)
        return Table(path, header, _rows(path, lines, header, separator, skip_blanks), separator)


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module's limit of a cell (one for the whole process) raised meanwhile."""
    with _limit:
        before = csv.field_size_limit(_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _check_encoding(path: str, stream: io.BufferedIOBase) -> None:
    head = stream.peek(4)[:4]
    if head[:1] in (b"\xff", b"\xfe") or head == b"\0\0\xfe\xff":
        try:
            decode(head)
        except Malformed as error:
            raise UserError(f"{path} line 1: {error}") from None


class _Lines:
    """Lines of a text, those of the current row kept. They end as they do in the file: a U+2028 is no end."""

    def __init__(self, stream: io.TextIOBase):
        self._stream, self.number, self.row = stream, 0, []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self.number += 1
        self.row.append(line)
        return line


def _first(path: str, lines: _Lines) -> str:
    """The first line with something in it."""
    line = next((line for line in lines if line.strip()), None)
    if line is None:
        raise UserError(f"{path}: the table has no rows")
    if (found := _ESCAPED.search(line)) is not None:
        raise UserError(f"{path} line {lines.number}: byte 0x{ord(found[0]) - 0xdc00:02x} is not UTF-8; save the table as UTF-8")
    if "\0" in line:
        raise UserError(f"{path} line {lines.number}: a NUL is no text (a table in UTF-16?); save it as UTF-8")
    return line


def _split(line: str, separator: str, strict: bool = False) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator, strict=strict, skipinitialspace=True))]


def _separator(path: str, where: str, head: str, known: Collection[str], how: str, case: bool) -> str:
    usual = "\t" if path.endswith(".tsv") else ","
    fold = str if case else str.casefold
    wanted = set(map(fold, known))
    names = {separator: _split(head, separator) for separator in SEPARATORS}
    able = [s for s in SEPARATORS if any(fold(name) in wanted for name in names[s]) and (s == usual or len(names[s]) > 1)]
    shown = ", ".join(show(name, 40) for name in names[usual][:40])
    if len(able) == 1:
        mixed = [name for name in names[able[0]] for s in SEPARATORS if s != able[0] and fold(name) not in wanted
                 and any(fold(part.strip()) in wanted for part in name.split(s))]
        if mixed:
            raise UserError(f"{where}: column {show(mixed[0])} of the header holds another separator; write the table with one")
        return able[0]
    if able:
        both = " and by ".join(SEPARATORS[s] for s in able)
        raise UserError(f"{where}: the header {shown} has known columns if it is split by {both}; write it with one of them")
    likely = max(SEPARATORS, key=lambda s: len(names[s]))
    hint = f"; are its cells split by {SEPARATORS[likely]}?" if len(names[likely]) > len(names[usual]) else ""
    raise UserError(f"{where}: no known column; the header (the first row) is {shown}{hint}; {how}")


def _header(where: str, head: str, separator: str) -> tuple[str, ...]:
    try:
        names = _split(head, separator, strict=True)
    except csv.Error:
        raise UserError(f"{where}: a quote of the header does not close, or text follows it") from None
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise UserError(f"{where}: column {show(name)} stands twice in the header; rename or remove one")
        seen.add(name)
    return tuple(names)


def _rows(path: str, lines: _Lines, header: tuple[str, ...], separator: str, skip_blanks: bool) -> list[Row]:
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=skip_blanks)
    rows: list[Row] = []
    count, unnamed = len(header), "" in header
    while True:
        lines.row = []
        first = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return rows
        except csv.Error as error:
            raise UserError(f"{path} line {first}: {_quoting(str(error), lines.number)}") from None
        plain = True
        for line in lines.row:
            plain = plain and "\0" not in line and (line.isascii() or _ESCAPED.search(line) is None)
        if plain and len(cells) == count > 1 and not unnamed and len(lines.row) == 1:  # most of them, and quicker
            rows.append(Row(first, tuple(cells)))
            continue
        if len(lines.row) > 1:
            _check_span(path, first, lines, count, separator)
        if len(cells) > 1 or (cells and (cells[0].strip() or count == 1)):
            rows.append(_row(lines.number, tuple(cells), header, separator))


def _quoting(text: str, line: int) -> str:
    """What the csv module found, in the words of somebody who looks at the file."""
    remedy = "; write a quote inside a text twice, with quotes around the text"
    if "unexpected end" in text:
        return f"a cell of this row begins with a quote that does not close before the end of the file{remedy}"
    if "expected after" in text:
        return f"a cell of this row begins with a quote, and text follows the closing one in line {line}{remedy}"
    if "field limit" in text:
        return f"a cell of more than {_CELL:,} characters; does one of its quotes not close?"
    return text


def _check_span(path: str, first: int, lines: _Lines, columns: int, separator: str) -> None:
    """A quoted text may hold line breaks; but if the lines it holds look like rows, its quote was not meant as one.

    Raises:
      UserError: naming the line where the quote stands.
    """
    split = lambda line: [cell.strip() for cell in line.strip("\r\n").split(separator)]
    head = split(lines.row[0])
    if columns < 2 or len(head) != columns:
        return
    spaced = f"{separator} "  # a comma in prose has a blank behind it, between cells it seldom has
    for line in lines.row[1:]:
        cells = split(line)
        if separator != "\t" and spaced in line and spaced not in lines.row[0]:
            continue
        if len(cells) == columns and (separator == "\t" or _alike(head, cells)):
            raise UserError(f"{path} line {first}: a quote opens here and closes in line {lines.number}, behind lines that are "
                            "rows themselves; write a quote inside a text twice, with quotes around the text")


def _alike(head: list[str], cells: list[str]) -> bool:
    """Whether a line is a row as the one before: a file's name where that has one, nothing but numbers as there, or cells of the
    form they have there (`7`, `a-12`) where those are no words."""
    if any(_FILE.fullmatch(a) and _FILE.fullmatch(b) for a, b in zip(head, cells)):
        return True
    if all(_NUMBER.fullmatch(cell.strip('"')) for cell in (*head, *cells)):
        return True
    form = lambda cell: re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "a", cell))
    beside = [(form(a), form(b)) for a, b in zip(head, cells) if '"' not in a]
    return bool(beside) and all(a == b and a not in ("", "a") for a, b in beside)


def _row(line: int, cells: tuple[str, ...], header: tuple[str, ...], separator: str) -> Row:
    count = len(header)
    if len(cells) > count and not any(cell.strip() for cell in cells[count:]):
        cells = cells[:count]
    fault = _text_fault(cells)  # first: such a byte may well be why the cells do not fit
    if not fault and len(cells) > count:
        fault = (f"has more cells than the header ({len(cells)} for {count}); a text that contains {SEPARATORS[separator]} needs "
                 "quotes around it")
    elif not fault and len(cells) < count:
        fault = f"ends before column {header[len(cells)][:60]} ({len(cells)} cells for {count})"
    return Row(line, cells, fault or _unnamed(cells, header))


def _text_fault(cells: tuple[str, ...]) -> str:
    for number, cell in enumerate(cells, 1):
        if cell.isascii() and "\0" not in cell:
            continue
        if (found := _ESCAPED.search(cell)) is not None:
            return f"byte 0x{ord(found[0]) - 0xdc00:02x} in cell {number} is not UTF-8; save the table as UTF-8"
        try:
            check_text(cell)
        except Malformed as error:
            return f"cell {number}: {error}"
    return ""


def _unnamed(cells: tuple[str, ...], header: tuple[str, ...]) -> str:
    """A cell under an empty name; the index in the first column, as pandas writes it, is none."""
    for number, (name, cell) in enumerate(zip(header, cells)):
        if not name and cell.strip() and number:
            return f"cell {show(cell, 40)} stands in column {number + 1}, which has no name in the header"
    return ""
