"""Rules: first match wins, nothing is left out, no typo passes."""

import pytest

from mof_jax.errors import UserError
from mof_jax.rules import Rule, resolve, user_rules

PATHS = ["image/blocks/attn/qkv", "image/cls", "text/embed"]


def test_first_match_wins():
    rules = [Rule("image/.*", 1), Rule(".*/cls", 2), Rule(".*", 3)]
    assert resolve(rules, PATHS, "here") == {PATHS[0]: 1, PATHS[1]: 1, PATHS[2]: 3}
    assert resolve(rules[::-1], PATHS, "here") == dict.fromkeys(PATHS, 3)


def test_a_pattern_matches_the_whole_path():
    with pytest.raises(UserError, match="here: no rule covers parameter image/cls"):
        resolve([Rule("image/blocks/.*", 0), Rule("cls", 1), Rule("text/embed", 2)], PATHS, "here")


def test_an_uncovered_parameter_is_an_error():
    with pytest.raises(UserError, match="here: no rule covers parameter text/embed"):
        resolve([Rule("image/.*", 0)], PATHS, "here")


def test_a_rule_that_matches_nothing_is_an_error_unless_optional():
    with pytest.raises(UserError, match=r"here: rule 'text/embd' matches no parameter.*did you mean 'text/embed'"):
        resolve([Rule("text/embd", 0), Rule(".*", 1)], PATHS, "here")
    assert resolve([Rule("text/embd", 0, optional=True), Rule(".*", 1)], PATHS, "here")["text/embed"] == 1


def test_a_shadowed_rule_still_counts_as_matching():
    assert resolve([Rule(".*", 1), Rule("image/cls", 2)], PATHS, "here")["image/cls"] == 1


def test_what_is_no_regular_expression_or_no_rule_is_named():
    with pytest.raises(UserError, match=r"here: 'image/\(' is not a regular expression"):
        resolve([Rule("image/(", 0)], PATHS, "here")
    for bad in (["image/.*"], [("a", 1, 2)], [(1, "a")]):
        with pytest.raises(UserError, match="here: a rule is"):
            user_rules(bad, "here")
    assert user_rules([("a", 1), ["b", [1, 2]]], "here") == [Rule("a", 1), Rule("b", [1, 2])]
