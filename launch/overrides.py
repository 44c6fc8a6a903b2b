"""Overrides of a job: keys of a config's sections, in TOML, and as the words that `mof train` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by dotted key: a table of a job sets keys of a section, it does not take its place."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def is_plain(value: Any) -> bool:
    """Whether a config can hold a value: TOML has dates and times besides."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def assignments(overrides: Mapping[str, Any]) -> list[str]:
    """`KEY=VALUE` of each, such that `mof_jax.config.literal` reads the value back."""
    return [f"{key}={_literal(value)}" for key, value in overrides.items()]


def _literal(value: Any) -> str:
    return value if isinstance(value, str) and configs.literal(value) == value else repr(value)
