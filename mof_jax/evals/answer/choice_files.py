"""Multiple-choice questions in the files of MMBench and SEED-Bench."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
import dataclasses
import functools
import string
from typing import Any

from mof_jax.data.files import tables
from mof_jax.data.image import images
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.json_files import check_images, field, read_object, rows, unique
from mof_jax.parsing import is_count, is_text, kind, show

_COLUMNS = ("index", "question", "A", "B", "answer", "image")
_ROTATED = 1_000_000  # MMBench's files repeat question i, its options rotated, under index i + a multiple of this
_REFERENCE = 64  # a picture this short is the index of the row that holds it


@dataclasses.dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its options.

    Attributes:
      hint: what one is told before the question.
      right: number of the right option.
      image: reads the encoded picture.
    """

    id: str
    hint: str
    question: str
    options: tuple[str, ...]
    right: int
    category: str
    image: Callable[[], bytes]

    def rotations(self) -> list[ChoiceQuestion]:
        """The question with its options moved on by 0, 1, … places, once for each option; their ids are `id`, `id+1`, …"""
        turned = lambda k: dataclasses.replace(self, id=f"{self.id}+{k}", options=self.options[k:] + self.options[:k],
                                               right=(self.right - k) % len(self.options))
        return [self, *map(turned, range(1, len(self.options)))]


def mmbench(path: str) -> list[ChoiceQuestion]:
    """Questions of an MMBench table: `index question hint A B C D answer category image`, tab-separated, pictures in base64.

    Columns besides those, among `hint`, `category` and the options after B, may be missing. The rotated copies that the
    published files hold are left out.

    Raises:
      UserError: no such file, or another layout. BadExample: a row that is wrong.
    """
    table = _table(path)
    by_index = unique(((row["index"], row) for row in table), "index", path)
    pictures = {index: row["image"] for index, row in by_index.items()}
    return [_mmbench(path, index, row, pictures) for index, row in by_index.items()
            if not (index.isdecimal() and len(index) < 20 and int(index) >= _ROTATED)]


def _mmbench(path: str, index: str, row: Mapping[str, str], pictures: Mapping[str, str]) -> ChoiceQuestion:
    cells = [_cell(row, letter) for letter in string.ascii_uppercase]
    count = next((i for i, cell in enumerate(cells) if not cell), len(cells))
    if count < 2 or any(cells[count:]):
        raise BadExample(path, index, "options must fill the columns from A on without a gap, at least two of them")
    answer = _cell(row, "answer").upper()
    if not answer:
        raise BadExample(path, index, "no answer; those of the test split are kept by its authors, take the dev split")
    right = string.ascii_uppercase[:count].find(answer)
    if len(answer) != 1 or right < 0:
        raise BadExample(path, index, f"answer {answer!r} is none of the {count} options")
    image = pictures[index]
    if len(image) <= _REFERENCE:
        if image not in pictures:
            raise BadExample(path, index, f"image {image!r} is neither a picture nor the index of a row")
        image = pictures[image]
    return ChoiceQuestion(index, _cell(row, "hint"), _cell(row, "question"), tuple(cells[:count]), right, _cell(row, "category"),
                          functools.partial(_unpack, image, path, index))


def _cell(row: Mapping[str, str], column: str) -> str:
    text = (row.get(column) or "").strip()
    return "" if text == "nan" else text  # an empty cell, as pandas writes it


def _unpack(text: str, path: str, index: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadExample(path, index, f"image is not base64: {error}") from None
    images.decode(data, source=path, record=index)
    return data


def _table(path: str) -> list[dict[str, str]]:
    table = tables.read(path, _COLUMNS, f"an MMBench table has {', '.join(_COLUMNS)} and more")
    missing = [column for column in _COLUMNS if column not in table.header]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; an MMBench table has {', '.join(_COLUMNS)} and more")
    if not table.rows:
        raise UserError(f"{path}: the table has no rows")
    return table.dicts()


def seed_bench(path: str, root: str) -> list[ChoiceQuestion]:
    """Image questions of a SEED-Bench file, with the names of their types as categories; those about videos are left out.

    Args:
      root: folder of the pictures, each named by its `data_id`.

    Raises:
      UserError: no such file, another layout, or videos alone. BadExample: a question that is wrong.
    """
    found = read_object(path)
    types = found.get("question_type")
    names = _type_names(types, path)
    listed = unique(((field(row, "question_id", (int, str), path, f"questions {number}"), row)
                     for number, row in enumerate(rows(found, "questions", path))), "question_id", path)
    pictured = {key: row for key, row in listed.items() if row.get("data_type", "image") == "image"}
    if not pictured:
        raise UserError(f"{path}: all of its {len(listed)} questions are about videos")
    files = {key: str(field(row, "data_id", (int, str), path, key)) for key, row in pictured.items()}
    check_images(root, files, path)
    return [_seed(path, key, row, names, functools.partial(read_image, root, files[key], path, key))
            for key, row in pictured.items()]


def _type_names(types: Any, path: str) -> dict[str, str]:
    """Names of the types of questions by their numbers, as text."""
    if types is None:
        return {}
    if not isinstance(types, dict):
        raise UserError(f"{path}: 'question_type' is {kind(types)} where an object of numbers by name is expected")
    found: dict[str, str] = {}
    for name, number in types.items():
        if not (is_count(number) or is_text(number)) or not is_text(name) or str(number) in found:
            raise UserError(f"{path}: 'question_type' gives {show(name)} the number {show(number)}; each needs one of its own")
        found[str(number)] = name
    return found


def _seed(path: str, key: str, row: Mapping[str, Any], names: Mapping[str, str], image: Callable[[], bytes]) -> ChoiceQuestion:
    options = tuple(str(field(row, f"choice_{letter}", (str, int), path, key)) for letter in "abcd")
    answer = field(row, "answer", str, path, key)
    if answer not in tuple("ABCD"):
        raise BadExample(path, key, f"answer {answer!r} is none of A, B, C, D")
    number = str(field(row, "question_type_id", (int, str), path, key))
    return ChoiceQuestion(key, "", field(row, "question", str, path, key).strip(), options, "ABCD".index(answer),
                          names.get(number, number), image)
