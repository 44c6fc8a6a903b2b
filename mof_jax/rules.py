"""One idiom for every per-parameter decision: ordered rules, regex on the parameter path, first match wins.

Freezing, learning-rate factors, weight decay, value bounds: each is a list of `(pattern, value)`. A pattern must match the
whole path (`image/blocks/.*`). A parameter that no rule covers is an error, and so is a rule of the user's that matches
no parameter: both are how a typo freezes the wrong tower for a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import re
from typing import Any, NamedTuple

from mof_jax.errors import UserError, nearest


class Rule(NamedTuple):
    """`value` for the parameters whose path `pattern` matches in full.

    Attributes:
      pattern: regular expression over a path such as `image/blocks/attn/qkv/kernel`.
      value: what the decision is (a flag, a factor, one factor a layer of a scanned stack ...).
      optional: whether matching nothing is fine (library defaults) or an error (the user's rules).
    """

    pattern: str
    value: Any
    optional: bool = False


def user_rules(pairs: Iterable[Sequence[Any]], where: str) -> list[Rule]:
    """Rules from a config's `[(pattern, value), ...]`."""
    rules = []
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not isinstance(pair[0], str):
            raise UserError(f"{where}: a rule is (regex, value), got {pair!r}")
        rules.append(Rule(pair[0], pair[1]))
    return rules


def resolve(rules: Sequence[Rule], paths: Iterable[str], where: str) -> dict[str, Any]:
    """The value of the first matching rule for every path.

    Raises:
      UserError: a pattern is not a regular expression, a path is not covered, or a rule that is not optional matches no
        path at all (a rule shadowed by earlier ones still counts as matching).
    """
    paths = list(paths)
    compiled = []
    for rule in rules:
        try:
            compiled.append((re.compile(rule.pattern), rule))
        except re.error as error:
            raise UserError(f"{where}: {rule.pattern!r} is not a regular expression: {error}") from None
    values, used = {}, set()
    for path in paths:
        matches = [rule for pattern, rule in compiled if pattern.fullmatch(path)]
        if not matches:
            raise UserError(f"{where}: no rule covers parameter {path}")
        values[path] = matches[0].value
        used.update(rule.pattern for rule in matches)
    for _, rule in compiled:
        if not rule.optional and rule.pattern not in used:
            raise UserError(f"{where}: rule {rule.pattern!r} matches no parameter{nearest(rule.pattern, paths)}")
    return values
