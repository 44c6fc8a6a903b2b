"""Texts that stand for a class or a caption: phrases with a place for it, lists in files, and their common embedding."""

from __future__ import annotations

from collections.abc import Sequence
import re
from typing import Protocol

from jaxtyping import Float
import numpy as np

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, check_text, decode, show

_PLACE = re.compile(r"\{(?:c|class|classname|name|label)?\}")


class _Embeds(Protocol):
    """What embeds texts, see `embedder.Embedder`."""

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]: ...


def ensemble(
    embedder: _Embeds, texts: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "texts dim"]:
    """Unit-norm mean of the embeddings of each text in every template (prompt ensembling, CLIP §3.1.4).

    Raises:
      UserError: no template, or one without exactly one place for the text.
    """
    if not templates:
        raise UserError("templates: at least one is needed; '{}' is the text itself")
    halves = [_halves(template, "templates") for template in templates]
    total = sum(embedder.texts([f"{before}{text}{behind}" for text in texts]) for before, behind in halves)
    return total / np.linalg.norm(total, axis=-1, keepdims=True)


def phrases(templates: Sequence[str]) -> tuple[str, ...]:
    """Templates as given, or read from the one file they name; the place is `{}` or `{c}` (`{class}`, `{name}`, `{label}`).

    Raises:
      UserError: no such file, or a template without exactly one place, or with other braces.
    """
    if len(templates) != 1 or _PLACE.search(templates[0]):
        for template in templates:
            _halves(template, "templates")
        return tuple(templates)
    path = templates[0]
    if not storage.exists(path):
        raise UserError(f"templates: {show(path)} has no {{}} for the name, and there is no such file")
    for number, line in (found := lines(path)):
        _halves(line, f"{path} line {number}")
    return tuple(line for _, line in found)


def _halves(template: str, where: str) -> tuple[str, str]:
    """What stands before and behind the place."""
    halves = _PLACE.split(template)
    if len(halves) != 2:
        raise UserError(f"{where}: template {show(template)} needs exactly one {{}} for the name, it has {len(halves) - 1}")
    if any(brace in half for half in halves for brace in "{}"):
        raise UserError(f"{where}: template {show(template)} has braces besides the one {{}} for the name; leave them out")
    return halves[0], halves[1]


def lines(path: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1.

    Raises:
      UserError: no such file, one that is not UTF-8, or holds nothing.
    """
    data = storage.read(path)
    try:
        found = [(number, line.strip()) for number, line in enumerate(decode(data).split("\n"), 1) if line.strip()]
    except Malformed as error:
        raise UserError(f"{path} line {1 + _valid(data).count(10)}: {error}") from None  # 10: a line feed
    for number, line in found:
        try:
            check_text(line)
        except Malformed as error:
            raise UserError(f"{path} line {number}: {error}") from None
    if not found:
        raise UserError(f"{path}: the file is empty; it needs one entry a line")
    return found


def _valid(data: bytes) -> bytes:
    """The part of some bytes before the first that is not UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start]
    return b""
