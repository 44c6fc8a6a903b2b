"""Class labels of records, and the names that stand for them in prompts."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import logging
import os

from jaxtyping import Int
import numpy as np

from mof_jax import storage
from mof_jax.data.record import Record
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import embedded
from mof_jax.errors import UserError, nearest
from mof_jax.evals.embed.prompts import lines
from mof_jax.evals.embed.retrieval import same_words
from mof_jax.parsing import show

log = logging.getLogger("mof_jax.evals")

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))  # names of folders


def labels_of(items: Sequence[Record], attribute: str, source: SourceConfig | None = None) -> list[str]:
    """The class label of each record.

    Args:
      source: where they come from, to name in errors.

    Raises:
      UserError: a record without one; or a folder whose pictures do not lie in class folders.
    """
    found = [item.attributes.get(attribute) for item in items]
    bare = [item.id for item, label in zip(items, found) if not (label or "").strip()]
    if bare and source is not None and source.kind == "folder" and attribute == "label":
        raise UserError(f"{source.path}: {len(bare):,} of {len(items):,} pictures lie in no class folder, the first is "
                        f"{show(bare[0])}; give the folder that holds a folder for each class")
    if bare:
        where = "" if source is None else f"{source.label}: "
        raise UserError(f"{where}record {bare[0]} has no attribute {attribute!r}, which says its class")
    return found


def check_splits(labels: Sequence[str], source: SourceConfig) -> None:
    """Refuses a folder of splits in the place of one of them, whose classes would be `val/cat` and `train/cat`.

    Raises:
      UserError: naming the folders to give.
    """
    parents = sorted({first for label in labels for first, slash, _ in [label.partition("/")] if slash})
    if source.kind == "folder" and any(parent.lower() in _SPLITS for parent in parents):
        raise _too_high(parents, labels, source)


def _too_high(parents: Sequence[str], labels: Sequence[str], source: SourceConfig) -> UserError:
    nested = next(label for label in labels if "/" in label)
    folders = " or ".join(storage.join(source.path, parent) for parent in parents[:3]) + (" or …" if len(parents) > 3 else "")
    return UserError(f"{source.path}: its classes are folders inside folders ({show(nested)}); give the folder that holds the "
                     f"class folders, {folders}")


@dataclasses.dataclass(frozen=True)
class Classes:
    """Names of classes, each once.

    Attributes:
      names: as they stand in prompts. repeated: how many further entries of the class list say the same as another.
      targets: number of each label's name.
    """

    names: list[str]
    repeated: int
    targets: Int[np.ndarray, "labels"]

    @classmethod
    def of(
        cls, classes: str, labels: Sequence[str], where: str, source: SourceConfig | None = None, spaces: bool = False
    ) -> Classes:
        """The classes of a config entry, see `ZeroShot`, and which of them each label is.

        Names that differ in case, blanks or underscores are one class: no text encoder is sure to tell them apart. Labels that
        are numbers and no names count the entries of a class list from 0, as `.cls` members do.

        Args:
          where: the key that gives `classes`, to name in errors. source: where the labels come from. spaces: whether labels
            that are names have spaces for their underscores.

        Raises:
          UserError: a label that is not in the list, or folders inside folders in the place of classes.
        """
        entries = class_list(classes, labels)
        key = lambda name: same_words(name.replace("_", " "))
        number: dict[str, int] = {}
        place = [number.setdefault(key(entry), len(number)) for entry in entries]
        names = [""] * len(number)
        for at, entry in zip(place[::-1], entries[::-1]):
            names[at] = " ".join(entry.replace("_", " ").split()) if spaces and not classes and "_" in entry else entry
        known = [number.get(key(label)) for label in labels]
        nested = [label for label, at in zip(labels, known) if "/" in label and (at is None or not classes)]
        if nested and source is not None and source.kind == "folder":
            raise _too_high(sorted(set(map(os.path.dirname, nested))), nested, source)
        if classes and all(at is None for at in known) and all(label.isascii() and label.isdecimal() for label in labels):
            known = _numbered(classes, entries, labels, place, where)
        if None in known:
            label = labels[known.index(None)]
            raise UserError(f"{where}: label {label!r} is not in the class list{nearest(label, entries)}")
        if not classes and (underscored := next((name for name in names if "_" in name), None)):
            log.warning("%s: prompts say %s, as the label has it; names='spaces' says it in words", where, show(underscored))
        return cls(names, len(entries) - len(names), np.array(known, np.int32))


def _numbered(classes: str, entries: Sequence[str], labels: Sequence[str], place: Sequence[int], where: str) -> list[int]:
    """What labels that count the class list's entries stand for."""
    if not classes.startswith("emoji5:") and (found := lines(classes))[-1][0] != len(found):
        blank = next(n for n, (line, _) in enumerate(found, 1) if line != n)
        raise UserError(f"{classes} line {blank}: is blank, but labels count the lines of the class list; leave it out")
    beyond = next((label for label in labels if len(label) > 9 or int(label) >= len(entries)), None)
    if beyond is not None:
        raise UserError(f"{where}: label {show(beyond)} is beyond the class list; its {len(entries)} entries count from 0")
    return [place[int(label)] for label in labels]


def class_list(classes: str, labels: Sequence[str]) -> list[str]:
    """The entries of a class list in order: of a file, of `emoji5:<split>`, or the labels themselves, sorted.

    Raises:
      UserError: no such file, or one that is not text.
    """
    if not classes:
        return sorted(set(labels))
    if classes.startswith("emoji5:"):
        return embedded.candidates(classes.removeprefix("emoji5:"))
    return [line for _, line in lines(classes)]
