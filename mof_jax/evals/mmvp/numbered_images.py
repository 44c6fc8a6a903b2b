"""A table whose rows are numbered and folders of pictures named by those numbers: read so that nothing can be out of step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import os
import re
import shutil
import tempfile
from typing import Any

from mof_jax import storage
from mof_jax.data.files import tables
from mof_jax.data.image import images
from mof_jax.errors import BadExample, UserError

_PICTURE = re.compile(r"(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"


def read_csv(path: str, columns: Sequence[str], aliases: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of a comma-separated file, every one with a cell in every column.

    Args:
      aliases: other spellings of columns, in small letters; case does not count.

    Raises:
      UserError: no such file, no rows, columns missing, or broken quotes. BadExample: a row with too few or too many cells.
    """
    known = {column.lower(): column for column in columns} | dict(aliases)
    how = f"the header is {', '.join(columns)}"
    table = tables.read(path, known, how, case=False)
    header = [known.get(name.lower(), name) for name in table.header]
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; {how}")
    twice = next((column for column in columns if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: column {twice} stands twice in the header")
    if not table.rows:
        raise UserError(f"{path}: the table has no rows")
    for n, row in enumerate(table.rows, 1):
        if row.fault:
            raise BadExample(path, f"row {n}", f"{row.fault}; if it is a published file, download it again")
    return [dict(zip(header, row.cells)) for row in table.rows]


def check_rows(path: str, numbers: Sequence[str], column: str, pairs: int | None, published: int) -> None:
    """Rows are numbered from 1 in order, and make whole pairs.

    Args:
      numbers: what stands in `column`. pairs: how many there must be, None for any number. published: pairs of the real file.

    Raises:
      UserError, BadExample: they are not.
    """
    for n, number in enumerate(numbers, 1):
        if number.strip() != str(n):
            raise BadExample(path, f"row {n}", f"{column} is {number!r} where {n} is expected; rows count from 1, and their "
                             "order is what pairs them")
    if len(numbers) % 2:
        raise UserError(f"{path}: {len(numbers)} rows are no whole pairs (the published file has {2 * published} rows); is it "
                        "cut off?")
    if pairs is not None and len(numbers) != 2 * pairs:
        raise UserError(f"{path}: {len(numbers) // 2} pairs where {pairs} are expected; is it cut off?")


def names(folder: str) -> list[str]:
    """What lies in a folder, local or remote; nothing where there is none."""
    if storage.is_remote(folder):
        return [found.rstrip("/").rpartition("/")[2] for found in storage.glob(storage.join(folder, "*"))]
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def read_pictures(path: str, wanted: Mapping[str, Sequence[int]], folders: Sequence[str] = ()) -> list[bytes]:
    """Pictures 1, 2, … of all rows, `N.jpg` or `N.png`, each of which can be decoded.

    Args:
      path: the table, to name in errors. wanted: folder -> rows whose pictures lie there. folders: more of them, which may hold
        none.

    Raises:
      UserError: a picture without a row, or two of one number. BadExample: a row without a picture, or with a broken one.
    """
    there = {folder: _numbered(folder) for folder in (*wanted, *folders)}
    result: dict[int, bytes] = {}
    for folder, numbers in wanted.items():
        for n in numbers:
            name = there[folder].pop(n, None)
            if name is None:
                raise BadExample(path, f"row {n}", f"no picture {n}.jpg or {n}.png in {folder!r}; download the folder again")
            # Not `read_image`: the names are the folder's own, and a download cache links its files to blobs outside.
            result[n] = storage.read(storage.join(folder, name))
            images.decode(result[n], source=path, record=f"row {n} ({name})")
    left = [(folder, name) for folder, found in there.items() for name in found.values()]
    if left:
        raise UserError(f"{path}: {len(result)} rows, but pictures without one: {len(left)}, the first is {left[0][1]} in "
                        f"{left[0][0]!r}; is the table cut off?")
    return [result[n] for n in sorted(result)]


def _numbered(folder: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in names(folder):
        if match := _PICTURE.fullmatch(name):
            other = found.setdefault(int(match[1]), name)
            if other != name:
                raise UserError(f"{folder}: {other} and {name} are both picture {match[1]}; remove one")
    return found


@contextlib.contextmanager
def new_folder(folder: str) -> Iterator[str]:
    """A folder to fill, which takes its place once it is complete.

    Raises:
      UserError: something is there already, or the place is remote.
    """
    if storage.is_remote(folder):
        raise UserError(f"{folder}: write to a local folder and copy that")
    folder = os.path.abspath(folder)
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise UserError(f"{folder}: already there; name a new folder")
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    inside = tempfile.mkdtemp(dir=os.path.dirname(folder), prefix=".partial-")
    try:
        yield inside
        os.chmod(inside, 0o755)
        os.replace(inside, folder)
    except BaseException:
        shutil.rmtree(inside, ignore_errors=True)
        raise


def write_pictures(folder: str, pictures: Sequence[bytes], first: int) -> None:
    """Pictures `first`, … in a new folder: as they are, or as PNG if they are neither JPEG nor PNG.

    Raises:
      BadExample: one that cannot be decoded.
    """
    os.makedirs(folder)
    for n, data in enumerate(pictures, first):
        if not data.startswith((_JPEG, _PNG)):
            data = images.encode(images.to_array(images.decode(data, source=folder, record=n)))
        with open(os.path.join(folder, f"{n}.{'jpg' if data.startswith(_JPEG) else 'png'}"), "wb") as f:
            f.write(data)


def write_csv(path: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A comma-separated file, quoted where it must be."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
