"""Files of one name as one sample: `KEY.jpg`, `KEY.txt`, `KEY.json`, `KEY.cls`, in a tar or in a folder.

Which part of `a.b.jpg` is the key? webdataset's writers end it at the first point, so that `0001.seg.png` belongs to sample
`0001`; others keep points in their names (`photo.v2.png`, `v1.0_0001.jpg`). Both are read:

    0001.jpg  0001.txt  0001.seg.png         sample 0001; what is not its picture, text, .json or .cls is counted as not read
    photo.v2.png  photo.v2.txt               sample photo.v2: a picture and a text (or .json, .cls) that differ in the ending only
    0001.input.jpg  0001.caption.txt         sample 0001, if it has one picture and one text under any ending
    0001.left.jpg  0001.right.jpg  0001.txt  a bad record that names them: which one is meant must be said
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from mof_jax.data.files.tar import Member
from mof_jax.data.sources import fields
from mof_jax.parsing import Malformed, check_text, decode, parse_object, show

IMAGES = ("jpg", "jpeg", "png", "webp", "gif")
KINDS = ("image", "txt", "json", "cls")  # what a sample is made of
MAX_TEXT = 16 << 20  # bytes of a text or a .json

_SHOWN = 6  # endings in a message

_Found = dict[str, list[tuple[str, Member]]]  # kind -> (ending, member)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Which members a sample is made of, by kind; `problem` says why it cannot be read, "" if it can."""

    key: str
    members: Mapping[str, Member]
    problem: str = ""

    @property
    def first(self) -> int:
        """Where the sample begins."""
        return min(member.offset for member in self.members.values())


class Endings:
    """Which endings stand for what.

    Args:
      image: the ending of a sample's picture, as `jpg` or `input.jpg`; "" for any of `IMAGES`.
      texts: further endings of texts, e.g. `caption.txt`; each is a kind of its own.
    """

    def __init__(self, image: str = "", texts: Sequence[str] = ()):
        image = image.lower().removeprefix(".")
        self.kinds = KINDS + tuple(texts)
        self.known = {ending: "image" for ending in ([image] if image else IMAGES)}
        self.known |= {kind.lower(): kind for kind in self.kinds if kind != "image"}
        self.exact = "." in image  # then the key ends at the first point, whatever follows

    def gather(self, members: Iterable[Member]) -> tuple[list[Sample], Counter[str]]:
        """(samples in the order of their first members, how many members of each ending are not read). Hidden files are neither.

        Raises:
          Malformed: a name twice.
        """
        groups: dict[str, dict[str, tuple[str, Member]]] = {}
        for member in members:
            folder, slash, file = member.name.rpartition("/")
            if file.startswith("."):
                continue
            stem, _, ending = file.partition(".")
            group = groups.setdefault(folder + slash + stem, {})
            if ending in group:
                kind = self.known.get(ending.lower(), ending)
                raise Malformed(f"two members for {kind} of key {show(folder + slash + stem)}")
            group[ending] = (ending.lower(), member)
        samples: list[Sample] = []
        unread: Counter[str] = Counter()
        for key, group in groups.items():
            found, left = self._samples(key, list(group.values()))
            samples += found
            unread.update(left)
        return sorted(samples, key=lambda sample: sample.first), unread

    def _samples(self, key: str, group: list[tuple[str, Member]]) -> tuple[list[Sample], list[str]]:
        """The samples among the members of a name's first part, and the endings that belong to none."""
        plain: _Found = {}
        inner: dict[str, _Found] = {}  # what lies between the first point and the last -> its members
        left = []
        for ending, member in group:
            between, _, last = member.name.rpartition("/")[2].partition(".")[2].rpartition(".")
            if (kind := self.known.get(ending)) is not None:
                plain.setdefault(kind, []).append((ending, member))
            elif not self.exact and between and (kind := self.known.get(last.lower())) is not None:
                inner.setdefault(between, {}).setdefault(kind, []).append((ending, member))
            else:
                left.append(ending)
        least = {"txt"} if "image" in plain else set(self.kinds) - {"image"}
        own = {name: None for name, found in inner.items() if "image" in found and least & found.keys()}  # an ordered set
        loose = [name for name in inner if name not in own]
        merged = dict(plain)
        if "image" in plain:  # which has one text more, at most
            texts = [entry for name in loose if "image" not in inner[name] for entry in inner[name].get("txt", ())]
            if "txt" not in plain and len(texts) == 1:
                merged["txt"] = texts
            left += [entry[0] for name in loose for found in inner[name].values() for entry in found
                     if entry not in merged.get("txt", ())]
        elif plain or (not own and any("image" not in inner[name] for name in loose)):
            for name in loose:
                for kind, found in inner[name].items():
                    merged[kind] = merged.get(kind, []) + found
        else:
            own |= dict.fromkeys(loose)
        samples = [_sample(f"{key}.{name}", inner[name]) for name in own]
        return samples + ([_sample(key, merged)] if merged else []), left


def _sample(key: str, found: _Found) -> Sample:
    problem = ""
    for kind, entries in found.items():
        if len(entries) > 1:
            what = {"image": "pictures", "txt": "texts"}.get(kind, f"members for {kind}")
            names = sorted(ending for ending, _ in entries)
            how = f"; say which with image_field={names[0]!r}" if kind == "image" else ""
            how = f"; say which with text_fields={{'alt': {names[0]!r}}}" if kind == "txt" else how
            problem = f"{len(entries)} {what} ({listed(Counter(names))}){how}"
            break
    return Sample(key, {kind: entries[0][1] for kind, entries in found.items()}, problem)


def listed(endings: Mapping[str, int]) -> str:
    """Endings with their counts, the commonest first."""
    most = sorted(endings, key=lambda ending: (-endings[ending], ending))
    shown = [f"{'.' + ending if ending else 'no ending'}{f' {endings[ending]:,}' if endings[ending] > 1 else ''}"
             for ending in most[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(most) - _SHOWN:,} more" if len(most) > _SHOWN else "")


def row_of(data: bytes | None) -> dict[str, Any]:
    """The object in a `.json` member; none where there is no such member.

    Raises:
      Malformed: anything else in it.
    """
    if data is None:
        return {}
    try:
        return parse_object(data)
    except Malformed as error:
        reason = str(error)
        raise Malformed(f"its .json member is {reason}" if reason.startswith("not ") else f"its .json member {reason}") from None


def text_of(data: bytes, ending: str) -> str:
    """The text in a member.

    Raises:
      Malformed: another encoding than UTF-8, or no text.
    """
    try:
        return check_text(decode(data))
    except Malformed as error:
        raise Malformed(f"its .{ending} member: {error}") from None


def texts_of(row: Mapping[str, Any], members: Mapping[str, str], text_fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Captions by kind from a sample's `.json` row and its members that are text.

    Args:
      text_fields: caption kind -> key of the row, or ending of a member; empty takes `alt` from the `.txt` and the usual keys.

    Raises:
      Malformed: a text that is none.
    """
    if text_fields:
        found = fields.texts({**row, **members}, text_fields)
    else:
        found = fields.texts(row, {})
        if "txt" in members:  # img2dataset repeats it under `caption`
            found = {"alt": (members["txt"],), **{kind: values for kind, values in found.items() if kind != "caption"}}
    for values in found.values():
        for text in values:
            check_text(text)
    return found
