"""Web pages of texts and pictures: OBELICS and MMC4 as JSON lines, their pictures in a folder.

    obelics   {"texts": ["...", null, ...], "images": [null, "a.jpg", ...]}     one of the two at every place
    mmc4      {"text_list": ["...", ...], "image_info": [{"image_name": "a.jpg", "matched_text_index": 0, ...}, ...]}

Both sets are published with addresses of pictures; whoever downloads them puts file names, relative to `image_root`, in
their place (MMC4's `image_name` is one already). Fields beyond these are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any, ClassVar

from mof_jax.data.packing.documents import Page
from mof_jax.data.sources import fields
from mof_jax.data.sources.config import FileConfig
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.data.sources.jsonl import JsonLines
from mof_jax.data.sources.llava import check_head, record_name
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, check_text, kind

# A page's text, or the name of a picture, in reading order.
_Piece = tuple[str, bool]  # (text or file name, whether it is a picture)


@dataclasses.dataclass(frozen=True)
class ObelicsConfig(FileConfig):
    """Web pages as OBELICS has them, JSON lines with their pictures in a folder.

    Attributes:
      image_root: folder that paths of pictures are relative to; by default the folder of the file.
    """

    kind: ClassVar[str] = "obelics"

    image_root: str = ""

    def open(self) -> PageSource:
        return PageSource(self.path, self.kind, self.label, self.image_root)


@dataclasses.dataclass(frozen=True)
class Mmc4Config(ObelicsConfig):
    """Web pages as MMC4 has them: sentences, and pictures that each match one of them."""

    kind: ClassVar[str] = "mmc4"


class PageSource:
    """Pages of a `.jsonl` file.

    Args:
      style: `obelics` or `mmc4`.
      image_root: folder of the pictures; by default the folder of the file.

    Raises:
      UserError: no such file, or no lines in it.
    """

    def __init__(self, path: str, style: str, name: str = "", image_root: str = ""):
        self.path, self.name = path, name or os.path.basename(path)
        self._root = image_root or (path.rsplit("/", 1)[0] if "/" in path else ".")
        self._pieces = _STYLES[style]
        check_head(path, "pages as JSON lines")
        self._rows = JsonLines(path)
        if not len(self._rows):
            raise UserError(f"{path}: the file has no lines")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Page:
        if not 0 <= index < len(self):
            raise IndexError(index)
        line, row = self._rows[index]
        where = f"line {line}"
        pieces = self._pieces(row, lambda reason: BadExample(self.path, where, reason))
        try:
            for piece, picture in pieces:
                if not picture:
                    check_text(piece)
        except Malformed as error:
            raise BadExample(self.path, where, str(error)) from None
        parts = tuple(read_image(self._root, piece, self.path, where) if picture else piece for piece, picture in pieces)
        if not parts:
            raise BadExample(self.path, where, "a page without texts and images")
        words = "\n".join(part for part in parts if isinstance(part, str))
        return Page(
            id=record_name(row, str(line), self.path, where),
            image=next((part for part in parts if isinstance(part, bytes)), None),
            texts={"text": (words,)} if words else {},
            scores=fields.scores(row),
            parts=parts,
        )


def _obelics(row: Mapping[str, Any], bad: Callable[[str], BadExample]) -> list[_Piece]:
    texts, pictures = row.get("texts"), row.get("images")
    if not isinstance(texts, list) or not isinstance(pictures, list) or len(texts) != len(pictures):
        raise bad("needs lists 'texts' and 'images' of one length, with null where the other has an entry")
    pieces = []
    for place, (text, picture) in enumerate(zip(texts, pictures)):
        given = picture if text is None else text
        if (text is None) == (picture is None) or not isinstance(given, str):
            raise bad(f"place {place}: needs a text or an image name, and null for the other" +
                      ("" if given is None or isinstance(given, str) else f"; it has {kind(given)}"))
        pieces.append((given, text is None))
    return pieces


def _mmc4(row: Mapping[str, Any], bad: Callable[[str], BadExample]) -> list[_Piece]:
    sentences, infos = row.get("text_list"), row.get("image_info")
    if not isinstance(sentences, list) or not isinstance(infos, list) or not all(isinstance(s, str) for s in sentences):
        raise bad("needs a list of strings 'text_list' and a list 'image_info'")
    before: dict[int, list[str]] = {}
    for number, info in enumerate(infos):
        name, place = (info.get("image_name"), info.get("matched_text_index")) if isinstance(info, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(place, int) or isinstance(place, bool):
            raise bad(f"image_info {number}: needs image_name and matched_text_index")
        if not 0 <= place < len(sentences):
            raise bad(f"image_info {number}: matched_text_index {place} of {len(sentences)} sentences")
        before.setdefault(place, []).append(name)
    pieces: list[_Piece] = []
    for place, sentence in enumerate(sentences):
        pieces += [(name, True) for name in before.get(place, ())]
        # Sentences are joined by spaces; the first one, and one behind a picture, begins as it is.
        follows = bool(pieces) and not pieces[-1][1]
        pieces.append((" " + sentence if follows else sentence, False))
    return pieces


_STYLES: dict[str, Callable[..., list[_Piece]]] = {"obelics": _obelics, "mmc4": _mmc4}
