"""What a vocabulary file may ask of the machine: how many ids, and how much a text may grow before it is split.

Rules of a file are applied to every caption, one after the other: three that replace a letter by a thousand make a gigabyte of
it. How much each rule can add is told from the file, before a text is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
import math
import re
import struct
from typing import Any

from mof_jax.parsing import Malformed, kind, show

MAX_IDS = 1 << 22  # ids are below this: 16 times the largest vocabulary that is published
MAX_GROWTH = 64  # times a text may grow under a file's rules, beside what Unicode's own forms make of it
MAX_CONTEXT = 1 << 20  # tokens a text

_LONGEST = 256  # letters that a rule puts before a text, or a model before or behind a piece
_LONGEST_WORD = 10_000  # letters of a word that WordPiece looks at: its time grows with their square
_LONGEST_FORM = 256  # bytes that a character may become by a table of SentencePiece
_STEP = {"ByteLevel": 4}  # letters that one letter may become


def check_file(spec: dict[str, Any]) -> None:
    """Refuses a `tokenizer.json` whose rules may make more of a text than is read here, or are random.

    Raises:
      Malformed: naming the rule.
    """
    for parts in (("normalizer", "pre_tokenizer"), ("decoder",)):
        growth = math.prod(_growth(rule) for part in parts for rule in _rules(spec.get(part)))
        if growth > MAX_GROWTH:
            raise Malformed(f"its {' and '.join(parts)} may make a text {growth:,} times as long; at most {MAX_GROWTH} are read")
    model = spec.get("model")
    if not isinstance(model, dict):
        raise Malformed(f"its model is {kind(model)}, not an object")
    if model.get("dropout"):
        raise Malformed(f"its model drops merges at random (dropout {show(model['dropout'])}); set dropout to null")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if isinstance(text := model.get(name), str) and len(text) > _LONGEST:
            raise Malformed(f"its {name} has {len(text):,} letters; at most {_LONGEST} are read")
    letters = model.get("max_input_chars_per_word", 0)
    if isinstance(letters, int) and letters > _LONGEST_WORD:
        raise Malformed(f"its max_input_chars_per_word is {show(letters)}; at most {_LONGEST_WORD:,} are read")


def check_sentencepiece(data: bytes) -> None:
    """Refuses a SentencePiece model whose table of forms turns a character into a book.

    Raises:
      Malformed: that, or bytes that are no such model.
    """
    for field in (3, 5):  # normalizer_spec and denormalizer_spec of ModelProto
        for spec in _fields(data, field):
            for table in _fields(spec, 2):  # precompiled_charsmap
                _check_table(table)


def _rules(part: Any) -> Iterator[dict[str, Any]]:
    """The rules of a part, those inside sequences one by one."""
    if isinstance(part, dict):
        inside = [part.get(name) for name in ("normalizers", "pretokenizers", "decoders")]
        nested = [rule for rules in inside if isinstance(rules, list) for rule in rules]
        if nested:
            for rule in nested:
                yield from _rules(rule)
        else:
            yield part


def _growth(rule: dict[str, Any]) -> int:
    """How many letters a rule may make of one."""
    name = rule.get("type")
    if name == "Precompiled" and isinstance(table := rule.get("precompiled_charsmap"), str):
        try:
            _check_table(base64.b64decode(table, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Malformed(f"its Precompiled table cannot be read ({error})") from None
    if name == "Prepend" and isinstance(text := rule.get("prepend"), str) and len(text) > _LONGEST:
        raise Malformed(f"it puts {len(text):,} letters before every text; at most {_LONGEST} are read")
    if name != "Replace" or not isinstance(content := rule.get("content"), str):
        return _STEP.get(name, 1) if isinstance(name, str) else 1
    pattern = rule.get("pattern")
    letters = pattern.get("String") if isinstance(pattern, dict) else None
    least = len(letters) if isinstance(letters, str) else _least(pattern.get("Regex") if isinstance(pattern, dict) else None)
    return max(1, -(-len(content) // least)) if least else 1 + len(content)


def _least(pattern: Any) -> int:
    """Letters that a match of a regular expression takes at least; 0 where that is not known."""
    try:
        return re._parser.parse(re.sub(r"\\[pP]\{\^?\w+\}", r"\\w", pattern)).getwidth()[0]  # Unicode classes, a letter each
    except (re.error, TypeError, RecursionError, OverflowError):
        return 0


def _check_table(table: bytes) -> None:
    """A table of forms: the size of its trie, the trie, and the forms one after the other with a NUL behind each."""
    if not table:
        return
    size = struct.unpack_from("<I", table)[0] if len(table) >= 4 else len(table)
    if size > len(table) - 4:
        raise Malformed("its table of forms is damaged")
    longest = max(map(len, table[4 + size :].split(b"\0")))
    if longest > _LONGEST_FORM:
        raise Malformed(f"its table of forms turns a character into {longest:,} bytes; at most {_LONGEST_FORM} are read")


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """The values of a field, of those with a length, in a message of protocol buffers."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise Malformed("damaged: a field is longer than the file")
            if tag >> 3 == wanted:
                yield data[at : at + length]
            at += length
        elif tag & 7 == 0:
            _, at = _varint(data, at)
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise Malformed("damaged: a field of no known type")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise Malformed("damaged: a number without end")
