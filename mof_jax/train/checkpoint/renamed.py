"""A train state whose parameters were called otherwise when it was saved (`mof_jax.renames`)."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax

from mof_jax import renames
from mof_jax.train.checkpoint.fingerprints import named


def as_saved(abstract: Any, saved: Mapping[str, tuple[Any, str]]) -> Any:
    """The abstract state under the names of a checkpoint whose leaves are `saved`, `{"params:image/…": (shape, dtype)}`.

    What is gone since then is added to the frozen parameters, so that it is read, verified and then dropped.
    """
    if not dataclasses.is_dataclass(abstract) or saved.keys() == named(abstract).keys():
        return abstract
    paths = {name.rpartition(":")[2] for name in saved}
    before = {renames.parameter(path): path for path in paths if renames.parameter(path) not in (None, path)}
    found = _with_names(abstract, before)
    everywhere = abstract.step.sharding
    frozen = {name.removeprefix("frozen:"): x for name, x in saved.items() if name.startswith("frozen:")}
    gone = {path: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=everywhere)
            for path, (shape, dtype) in frozen.items() if renames.parameter(path) is None}
    return dataclasses.replace(found, frozen={**found.frozen, **gone}) if gone else found


def as_today(state: Any, abstract: Any) -> Any:
    """A state that was read `as_saved`, under the names of `abstract`."""
    if not dataclasses.is_dataclass(state):
        return state
    known = {*abstract.params, *abstract.frozen}
    gone = {path for path in state.frozen if renames.parameter(path) is None and path not in known}
    found = dataclasses.replace(state, frozen={path: x for path, x in state.frozen.items() if path not in gone})
    paths = {*found.params, *found.frozen}
    return _with_names(found, {path: renames.parameter(path) for path in paths if path not in known})


def _with_names(tree: Any, names: Mapping[str, str]) -> Any:
    """The same tree; keys of dictionaries, wherever in it, that `names` has are replaced."""
    if not names:
        return tree
    is_table = lambda x: isinstance(x, dict)

    def rename(x: Any) -> Any:
        return {names.get(path, path): value for path, value in x.items()} if is_table(x) else x

    return jax.tree.map(rename, tree, is_leaf=is_table)
