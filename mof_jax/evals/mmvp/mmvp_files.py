"""MMVP and MMVP-VLM in the files their authors publish (arXiv 2401.06209): read, and written for worlds of one's own.

    MMVP Images/1.jpg … 300.jpg               MLLM_VLM Images/<Type>/1.jpg … 270.jpg
    Questions.csv                             Questions.csv
      lndex,Question,Options,Correct Answer     Question ID,Type,Statement
      1,Is the door open?,(a) Yes (b) No,(a)    1,Orientation,The dog looks to the left
    patterns.csv
      index,pattern

Rows 2k - 1 and 2k are a pair, and row i is about picture i. `lndex` with a small L is how the published header is spelt;
`Index` is read too, and so is the parquet copy of MMVP (`lmms-lab-eval/MMVP`, labels corrected), which holds its pictures.
`patterns.csv` is ours: the authors publish no patterns of MMVP's questions. A pattern is a key of `data.pairs.PATTERNS`, the
paper's name, a `Type`, or empty where it is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import os
import re
from typing import Any, Literal

from mof_jax import storage
from mof_jax.data.image import images
from mof_jax.data.pairs import PATTERNS, Pair, pattern_of
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.json_files import unique
from mof_jax.evals.mmvp.numbered_images import (
    check_rows,
    names,
    new_folder,
    read_csv,
    read_pictures,
    write_csv,
    write_pictures,
)
from mof_jax.parsing import reason

Labels = Literal["original", "corrected"]

QUESTIONS, PATTERNS_FILE = "Questions.csv", "patterns.csv"
_MMVP_ROOT = "MMVP Images"
_VLM_ROOTS = ("MLLM_VLM Images", "MMVP_VLM_Images", "MLLM_VLM_Images", "MMVP_VLM Images")
_MMVP_COLUMNS = ("lndex", "Question", "Options", "Correct Answer")
_VLM_COLUMNS = ("Question ID", "Type", "Statement")
_ALIASES = {"index": "lndex"}
_OPTIONS = re.compile(r"\s*\(a\)(.*?)\(b\)(.*)", re.IGNORECASE | re.DOTALL)
_PUBLISHED, _PUBLISHED_VLM = 150, 135  # pairs

# The pairs (from 0: rows 99 and 100, 279 and 280) whose published labels are the wrong way round (tsb0601/MMVP, issues 14 and
# 30), with words of their options, so that a world which happens to have 150 pairs is not taken for MMVP. As published, the
# answers of both are (a), (b).
_MISLABELLED = {49: ("long", "short"), 139: ("stand", "sit")}


def read_mmvp(path: str, labels: Labels = "original", patterns: str = "", pairs: int | None = None) -> list[Pair]:
    """Pairs with a question and two options; ids count from 1.

    Args:
      path: the folder with `Questions.csv`, the parquet copy, or a folder that holds it.
      labels: as published, with which a perfect model gets 148 of 150; or with the four labels that are wrong set right.
      patterns: file of the questions' patterns; by default `patterns.csv` beside the questions, if it is there.
      pairs: how many there must be (150 of the published file); None for any number.

    Raises:
      UserError: files that are missing, incomplete, or none of the above; labels that do not apply to them.
      BadExample: a row that is wrong, or its picture.
    """
    if labels not in ("original", "corrected"):
        raise UserError(f"labels: {labels!r} is neither 'original' nor 'corrected'")
    parquet = _find_parquet(path)
    source = parquet or storage.join(path, QUESTIONS)
    rows = _read_parquet(parquet) if parquet else read_csv(source, _MMVP_COLUMNS, _ALIASES)
    check_rows(source, [row["lndex"] for row in rows], "lndex", pairs, _PUBLISHED)
    if parquet:
        pictures = [_embedded(row["image"], source, n) for n, row in enumerate(rows, 1)]
    else:
        folder = storage.join(path, _MMVP_ROOT)
        pictures = read_pictures(source, {folder: range(1, len(rows) + 1)})
        patterns = patterns or _beside(path, PATTERNS_FILE)
    of = _read_patterns(patterns, len(rows)) if patterns else [""] * len(rows)
    read = [_question(source, n, row) for n, row in enumerate(rows, 1)]
    found = []
    for k in range(len(rows) // 2):
        (question, options, first), (other, others, second) = read[2 * k : 2 * k + 2]
        if _plain(question, *options) != _plain(other, *others):
            raise BadExample(source, f"row {2 * k + 2}", f"asks something else than row {2 * k + 1}; the two make a pair, whose "
                             "question and options are the same: a row is missing or out of place")
        if first == second:
            raise BadExample(source, f"row {2 * k + 2}", f"has the same answer as row {2 * k + 1}; a pair's answers are opposite")
        if of[2 * k] != of[2 * k + 1]:
            raise BadExample(patterns, f"row {2 * k + 2}", f"pattern {of[2 * k + 1]!r} where the other half has {of[2 * k]!r}")
        found.append(Pair(str(k + 1), tuple(pictures[2 * k : 2 * k + 2]), question, options, (first, second), pattern=of[2 * k]))
    return _labelled(source, found, labels)


def _plain(*texts: str) -> list[list[str]]:
    """What counts when texts are compared: words, not case, spaces or punctuation."""
    return [re.findall(r"\w+", text.lower()) for text in texts]


def _question(source: str, n: int, row: Mapping[str, str]) -> tuple[str, tuple[str, str], int]:
    """(question, options, which is right)."""
    question, match = row["Question"].strip(), _OPTIONS.fullmatch(row["Options"])
    options = tuple(text.strip() for text in match.groups()) if match else ()
    if not question:
        raise BadExample(source, f"row {n}", "the question is empty")
    if not options or not all(options):
        raise BadExample(source, f"row {n}", f"options {row['Options']!r}; expected '(a) one (b) another'")
    answer = row["Correct Answer"].strip().lower().removeprefix("(").removesuffix(")")
    if answer not in ("a", "b"):
        raise BadExample(source, f"row {n}", f"correct answer {row['Correct Answer']!r} is neither (a) nor (b)")
    return question, options, "ab".index(answer)


def _labelled(source: str, pairs: list[Pair], labels: Labels) -> list[Pair]:
    """The pairs with the answers that `labels` stands for."""
    published = len(pairs) == _PUBLISHED and all(
        word in option.lower() for k, words in _MISLABELLED.items() for word, option in zip(words, pairs[k].options))
    if labels == "corrected":
        if not published:
            raise UserError(f"{source}: labels='corrected' sets rows 99, 100, 279 and 280 of the published MMVP right, and this "
                            f"is another set ({2 * len(pairs)} rows); leave labels at 'original'")
        return [dataclasses.replace(pair, answers=(1, 0)) if k in _MISLABELLED else pair for k, pair in enumerate(pairs)]
    if published and any(pairs[k].answers != (0, 1) for k in _MISLABELLED):
        raise UserError(f"{source}: rows 99, 100, 279 and 280 are not labelled as published; say labels='corrected'")
    return pairs


# --- parquet and patterns -------------------------------------------------------------------------------------------------


def _find_parquet(path: str) -> str:
    """The parquet file at `path` or in that folder (or its `data`), "" if there is none."""
    if path.endswith(".parquet"):
        return path
    if storage.exists(storage.join(path, QUESTIONS)):
        return ""
    found = [storage.join(folder, name) for folder in (path, storage.join(path, "data")) for name in names(folder)
             if name.endswith(".parquet")]
    if len(found) == 1:
        return found[0]
    raise UserError(f"{path}: " + (f"{len(found)} parquet files; name one of them" if found else
                                   f"neither {QUESTIONS} nor a parquet file in this folder"))


def _read_parquet(path: str) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    data = storage.read(path)
    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
        table = table.rename_columns([_ALIASES.get(name.lower(), name) for name in table.column_names])  # names are UTF-8, or not
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not parquet ({reason(error)}); download it again") from None
    missing = [name for name in (*_MMVP_COLUMNS, "image") if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; the copy has Index, Question, Options, Correct Answer, image")
    try:
        rows = table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # ValueError: texts that are not UTF-8
        raise UserError(f"{path}: holds what cannot be read ({reason(error)}); download it again") from None
    for n, row in enumerate(rows, 1):
        for name in _MMVP_COLUMNS:
            if row[name] is None:
                raise BadExample(path, f"row {n}", f"{name} is empty")
            row[name] = str(row[name])
    return rows


def _embedded(cell: Any, source: str, n: int) -> bytes:
    """The picture in a cell: bytes, or as `datasets` writes it `{"bytes": …, "path": …}`."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise BadExample(source, f"row {n}", "no picture in column image")
    images.decode(data, source=source, record=f"row {n}")
    return data


def _read_patterns(path: str, count: int) -> list[str]:
    """The pattern of each question, in order."""
    rows = read_csv(path, ("index", "pattern"), {"lndex": "index"})
    by_index = unique(((row["index"].strip(), row["pattern"].strip()) for row in rows), "index", path)
    missing = next((str(n) for n in range(1, count + 1) if str(n) not in by_index), None)
    if missing or len(by_index) != count:
        raise UserError(f"{path}: " + (f"no pattern for question {missing}" if missing else
                        f"{len(by_index)} patterns for {count} questions") + "; one row a question, the pattern empty if unknown")
    for index, name in by_index.items():
        if name and not pattern_of(name):
            raise BadExample(path, index, f"pattern {name!r} is none of {', '.join(PATTERNS)}")
    return [pattern_of(by_index[str(n)]) for n in range(1, count + 1)]


def _beside(path: str, name: str) -> str:
    file = storage.join(path, name)
    return file if storage.exists(file) else ""


# --- MMVP-VLM -------------------------------------------------------------------------------------------------------------


def read_mmvp_vlm(path: str, pairs: int | None = None) -> list[Pair]:
    """Pairs with two statements, of which the first is true of the first picture; ids count from 1.

    Args:
      path: the folder with `Questions.csv` and the folder of pictures, under any of its names.
      pairs: how many there must be (135 of the published file); None for any number.

    Raises:
      UserError: files that are missing or incomplete; patterns of different size; 135 pairs that are not nine times 15 in the
        paper's order, by which the authors' script tells patterns apart. BadExample: a row that is wrong, or its picture.
    """
    source = storage.join(path, QUESTIONS)
    rows = read_csv(source, _VLM_COLUMNS, {})
    check_rows(source, [row["Question ID"] for row in rows], "Question ID", pairs, _PUBLISHED_VLM)
    of = [_pattern(source, n, row) for n, row in enumerate(rows, 1)]
    for n in range(0, len(rows), 2):
        if of[n] != of[n + 1]:
            raise BadExample(source, f"row {n + 2}", f"type {rows[n + 1]['Type']!r}; row {n + 1}, the pair's other half, has "
                             f"{rows[n]['Type']!r}")
    _check_patterns(source, of[::2])
    root = next((folder for name in _VLM_ROOTS if storage.exists(folder := storage.join(path, name))), None)
    if root is None:
        raise UserError(f"{path}: no folder {_VLM_ROOTS[0]!r} (or {_VLM_ROOTS[1]!r}) with the pictures")
    folders = {pattern_of(name): storage.join(root, name) for name in names(root) if pattern_of(name)}
    wanted: dict[str, list[int]] = {}
    for n, pattern in enumerate(of, 1):
        wanted.setdefault(folders.get(pattern) or storage.join(root, PATTERNS[pattern][1]), []).append(n)
    pictures = read_pictures(source, wanted, list(folders.values()))
    statements = [row["Statement"].strip() for row in rows]
    return [Pair(str(n // 2 + 1), tuple(pictures[n : n + 2]), statements=tuple(statements[n : n + 2]), pattern=of[n])
            for n in range(0, len(rows), 2)]


def _pattern(source: str, n: int, row: Mapping[str, str]) -> str:
    if not row["Statement"].strip():
        raise BadExample(source, f"row {n}", "the statement is empty")
    found = pattern_of(row["Type"])
    if not found:
        kinds = ", ".join(kind for _, kind in PATTERNS.values())
        raise BadExample(source, f"row {n}", f"type {row['Type']!r} is none of {kinds}")
    return found


def _check_patterns(source: str, of: Sequence[str]) -> None:
    counts = Counter(of)
    if len(set(counts.values())) > 1:
        raise UserError(f"{source}: patterns of different size ({', '.join(f'{key} {n}' for key, n in counts.items())} pairs); a "
                        "row is missing or has the wrong type")
    if len(of) == _PUBLISHED_VLM and list(of) != [key for key in PATTERNS for _ in range(_PUBLISHED_VLM // len(PATTERNS))]:
        raise UserError(f"{source}: the {len(of)} pairs are not nine patterns of 15 in the paper's order, by which the published "
                        f"file is scored ({', '.join(PATTERNS)}); download it again")


# --- writing --------------------------------------------------------------------------------------------------------------


def write_mmvp(folder: str, pairs: Sequence[Pair]) -> None:
    """A new folder that `read_mmvp` reads, with `patterns.csv` if patterns are known.

    Pictures are written as they are, or as PNG if they are neither JPEG nor PNG. Ids are not kept: pairs are numbered.

    Raises:
      UserError: the folder is there already, or a pair that the layout cannot hold.
    """
    for pair in pairs:
        if not pair.question.strip() or len(pair.options) != 2 or not all(text.strip() for text in pair.options):
            raise BadExample(folder, pair.id, "MMVP needs a question and two options")
        if sorted(pair.answers) != [0, 1] or "(b)" in pair.options[0].lower():
            raise BadExample(folder, pair.id, "MMVP needs opposite answers, and a first option without '(b)' in it")
    with new_folder(folder) as inside:
        write_pictures(os.path.join(inside, _MMVP_ROOT), [data for pair in pairs for data in pair.images], 1)
        halves = [(pair, answer) for pair in pairs for answer in pair.answers]
        write_csv(os.path.join(inside, QUESTIONS), _MMVP_COLUMNS, [
            (n, pair.question, f"(a) {pair.options[0]} (b) {pair.options[1]}", ("(a)", "(b)")[answer])
            for n, (pair, answer) in enumerate(halves, 1)])
        if any(pair.pattern for pair in pairs):
            write_csv(os.path.join(inside, PATTERNS_FILE), ("index", "pattern"), [
                (n, pair.pattern) for n, (pair, _) in enumerate(halves, 1)])


def write_mmvp_vlm(folder: str, pairs: Sequence[Pair]) -> None:
    """A new folder that `read_mmvp_vlm` reads: pairs by pattern, in the paper's order; pictures and ids as in `write_mmvp`.

    Raises:
      UserError: the folder is there already, patterns of different size, or a pair without statements or pattern.
    """
    for pair in pairs:
        if pair.pattern not in PATTERNS or len(pair.statements) != 2 or not all(text.strip() for text in pair.statements):
            raise BadExample(folder, pair.id, "MMVP-VLM needs a pattern and two statements")
    groups = {key: [pair for pair in pairs if pair.pattern == key] for key in PATTERNS}
    _check_patterns(folder, [key for key, group in groups.items() for _ in group])
    rows: list[tuple] = []
    with new_folder(folder) as inside:
        for key, group in groups.items():
            if group:
                kind = PATTERNS[key][1]
                pictures = [data for pair in group for data in pair.images]
                write_pictures(os.path.join(inside, _VLM_ROOTS[0], kind), pictures, len(rows) + 1)
                statements = [text for pair in group for text in pair.statements]
                rows += [(n, kind, text) for n, text in enumerate(statements, len(rows) + 1)]
        write_csv(os.path.join(inside, QUESTIONS), _VLM_COLUMNS, rows)
