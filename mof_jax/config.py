"""From a config file and command-line overrides to typed, checked values.

A config file is Python: `get_config(arg=None)`, or `get_config()`, returns an `ml_collections.ConfigDict`. What a section may
hold is written once, as a frozen dataclass next to the code that reads it; `build` turns the section into that dataclass and
refuses unknown keys and wrong types, naming the nearest key.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
import copy
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import types
import typing
from typing import Any, TypeVar

import ml_collections

from mof_jax.errors import UserError, nearest

C = TypeVar("C")


def load(spec: str) -> ml_collections.ConfigDict:
    """Runs `get_config` of a config file.

    Args:
      spec: `path/to/file.py` or `path/to/file.py:arg`; `arg` is handed to `get_config` as a string.

    Raises:
      UserError: the file is missing, has no `get_config`, raises while it is read, or takes no argument and is given one.
    """
    path, _, arg = spec.partition(":")
    module = load_module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: a config file defines get_config(arg=None)")
    if arg and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path}: takes no argument, but is given {arg!r}; write --config.key=value for a key of it")
    config = module.get_config(arg) if arg else module.get_config()
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{path}: get_config returned {type(config).__name__}, not ml_collections.ConfigDict")
    return config


def arguments(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
    """The argument of a config file, `name=value,name=value`, over its defaults.

    Raises:
      UserError: a name that has no default, or a value of another type than the default's (None takes any).
    """
    found = dict(defaults)
    for pair in (arg or "").split(",") if arg else ():
        name, eq, text = (part.strip() for part in pair.partition("="))
        if not eq or name not in defaults:
            known = ", ".join(f"{key}=…" for key in defaults)
            raise UserError(f"config argument {pair!r}{nearest(name, defaults) if eq else ''}: write {known}")
        default = defaults[name]
        value = text if isinstance(default, str) else literal(text)
        kind = Any | None if default is None else type(default)
        found[name] = _convert(kind, value, f"config argument {name}")
    return types.SimpleNamespace(**found)


def load_module(path: str) -> types.ModuleType:
    """The Python module at `path`, outside `sys.modules`."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such config file")
    name = "mof_config_" + hashlib.sha1(os.path.abspath(path).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def override(config: ml_collections.ConfigDict, assignments: Sequence[str]) -> ml_collections.ConfigDict:
    """A copy of `config` with `key.sub.key=value` assignments applied.

    A value is read as a Python literal and otherwise kept as a string. Keys that the file did not set are allowed here:
    `build` decides whether they exist. A list is indexed by number (`data.sources.0.weight=2`).
    """
    values = copy.deepcopy(config.to_dict())  # `to_dict` shares the lists, and what is in them, with the original
    for assignment in assignments:
        key, eq, text = assignment.partition("=")
        if not eq:
            raise UserError(f"override {assignment!r}: write --config.key=value")
        *parents, leaf = key.split(".")
        node: Any = values
        for i, part in enumerate(parents):
            where = ".".join(parents[: i + 1])
            if isinstance(node, dict):
                node = node.setdefault(part, {})
            elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                raise UserError(f"override {key}: {where} does not exist")
            if isinstance(node, tuple):
                raise UserError(f"override {key}: {where} is a tuple; make it a list in the config file")
        if isinstance(node, list):
            if not leaf.isdigit() or int(leaf) >= len(node):
                raise UserError(f"override {key}: no entry {leaf!r} in a list of {len(node)}")
            node[int(leaf)] = literal(text)
        elif isinstance(node, dict):
            node[leaf] = literal(text)
        else:
            raise UserError(f"override {key}: {'.'.join(parents)} is a {type(node).__name__}, not a section")
    return ml_collections.ConfigDict(values)


def literal(text: str) -> Any:
    """`text` as a Python literal (`1e-3`, `True`, `(1, 2)`, `None`), else `text` itself; `none` is a word until `build` knows
    what the key takes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def build(cls: type[C], values: Mapping[str, Any] | None, where: str = "config") -> C:
    """`cls(**values)` for a dataclass, with every key and type checked, sections inside it too.

    Args:
      cls: a dataclass; fields may be dataclasses, `tuple[X, ...]`, `dict[str, X]`, unions and plain types.
      values: what the config says; missing keys take the dataclass's defaults.
      where: the dotted path of this section, for messages.

    Raises:
      UserError: naming `where.key`.
    """
    values = {} if values is None else dict(values)
    hints = _hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, hints)}")
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.init and f.name not in values:
            raise UserError(f"{where}.{f.name}: missing, and it has no default")
    try:
        return cls(**{k: _convert(hints[k], v, f"{where}.{k}") for k, v in values.items()})
    except ValueError as error:  # a dataclass that checks itself in __post_init__
        raise UserError(f"{where}: {error}") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, or a `UserError` that says what was expected."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and (value is None or _means_none(value, args)):
            return None
        errors = []
        for option in _of_kind([a for a in args if a is not type(None)], value, where):
            try:
                return _convert(option, value, where)
            except UserError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section ({kind.__name__}), got {value!r}")
        return build(kind, value, where)
    if origin in (tuple, Sequence):
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, got {value!r}")
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            if len(args) != len(value):
                raise UserError(f"{where}: expected {len(args)} values, got {len(value)}")
            return tuple(_convert(a, v, f"{where}.{i}") for i, (a, v) in enumerate(zip(args, value)))
        return tuple(_convert(args[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section, got {value!r}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _means_none(value: Any, options: Sequence[Any]) -> bool:
    """Whether `none` was written where it is no choice of its own (as a rematerialisation is)."""
    choices = (choice for option in options if typing.get_origin(option) is typing.Literal for choice in typing.get_args(option))
    return isinstance(value, str) and value.lower() == "none" and value not in choices


def _of_kind(options: Sequence[Any], value: Any, where: str) -> Sequence[Any]:
    """Where dataclasses have kinds: the one that a section names, or the first; else all."""
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    kinds = {kind: option for option in sections for kind in typing.get_args(_hints(option).get("kind"))}
    if not kinds or not isinstance(value, Mapping):
        return options
    kind = value.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise UserError(f"{where}.kind: {kind!r} is not one of {', '.join(map(repr, kinds))}")
    return [kinds[kind]]


def to_dict(value: Any) -> Any:
    """A built config as plain JSON-able values (the resolved `config.json`)."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {k: to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


def digest(value: Any) -> str:
    """Twelve hex digits that identify a resolved config."""
    return hashlib.sha256(json.dumps(to_dict(value), sort_keys=True).encode()).hexdigest()[:12]
