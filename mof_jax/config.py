"""From a config file and command-line overrides to typed, checked values.

A config file is Python: `get_config(arg=None)`, or `get_config()`, returns an `ml_collections.ConfigDict`. What a section may
hold is written once, as a frozen dataclass next to the code that reads it; `build` turns the section into that dataclass and
refuses unknown keys, wrong types and numbers outside their range (`ranges`), naming the nearest key.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import math
import os
import re
import sys
import traceback
import types
import typing
from typing import Any, TypeVar

import ml_collections

from mof_jax import plugins, renames
from mof_jax.errors import UserError, nearest
from mof_jax.parsing import reason, show
from mof_jax.ranges import Range

C = TypeVar("C")

# Base classes whose kinds a registry knows, each with the function that makes one of them of a section.
_BY_KIND: dict[type, Callable[[Mapping[str, Any], str], Any]] = {}


def choose_by_kind(base: type, make: Callable[[Mapping[str, Any], str], Any]) -> None:
    """From now on a section that is to become a `base` becomes what its `kind` says, see `registry.Registry`.

    Args:
      make: `(section, where)` to an object of a class below `base`.
    """
    _BY_KIND[base] = make


def load(spec: str) -> ml_collections.ConfigDict:
    """Runs `get_config` of a config file.

    Args:
      spec: `path/to/file.py` or `path/to/file.py:arg`; `arg` is handed to `get_config` as a string.

    Raises:
      UserError: the file is missing, has no `get_config`, raises while it is read, or takes no argument and is given one; or a
        plugin that it names cannot be imported.
    """
    path, _, arg = spec.partition(":")
    module = load_module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: a config file defines get_config(arg=None)")
    if not callable(module.get_config):
        raise UserError(f"{path}: get_config is {show(module.get_config)}, not a function")
    if arg and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path}: takes no argument, but is given {arg!r}; write --config.key=value for a key of it")
    config = call(path, module.get_config, *([arg] if arg else []))
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{path}: get_config returned {type(config).__name__}, not ml_collections.ConfigDict")
    values = config.to_dict()
    named = plugins.load(values, os.path.dirname(os.path.abspath(path)))
    return config if named == values else ml_collections.ConfigDict(named)


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
    """The Python module at `path`, outside `sys.modules`.

    Raises:
      UserError: no such file, or it fails; the line says where.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such config file")
    name = "mof_config_" + hashlib.sha1(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: a config file is Python, and ends in .py")
    module = importlib.util.module_from_spec(spec)
    call(path, spec.loader.exec_module, module)
    return module


def call(path: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` of the config file at `path`.

    Raises:
      UserError: what it raised, with the file's line; one of its own passes as it is.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if os.path.abspath(frame.filename) == os.path.abspath(path)]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == path else lines[-1] if lines else None
        where = path if line is None else f"{path} line {line}"
        raise UserError(f"{where}: {type(error).__name__}: {reason(error)}") from error


def override(config: ml_collections.ConfigDict, assignments: Sequence[str]) -> ml_collections.ConfigDict:
    """A copy of `config` with `key.sub.key=value` assignments applied.

    A key that was called otherwise once is translated (`renames`), and a line says so. A value is read as a Python literal and
    otherwise kept as a string. Keys that the file did not set are allowed here: `build` decides whether they exist. A list is
    indexed by number (`data.sources.0.weight=2`). A section that the file has set is changed key by key; one that it has not
    may be given as a whole.

    Raises:
      UserError: naming the assignment.
    """
    values = copy.deepcopy(config.to_dict())  # `to_dict` shares the lists, and what is in them, with the original
    values = renames.translate(values, renames.told)
    for assignment in assignments:
        key, eq, text = assignment.partition("=")
        if not eq:
            raise UserError(f"override {show(assignment)}: write --config.key=value")
        if (now := renames.key(key)) != key:
            renames.told(f"config.{key} is called config.{now} now")
        with _of_override(key):
            _assign(values, now, _plain(literal(text)))
    return ml_collections.ConfigDict(plugins.load(renames.translate(values, renames.told)))


@contextlib.contextmanager
def _of_override(key: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"override {key}: {error}") from None


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key."""
    *parents, leaf = key.split(".")
    for part in (*parents, leaf):
        _check_name(part)
    node: Any = values
    for i, part in enumerate(parents):
        where = ".".join(parents[: i + 1])
        if isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(node, (list, tuple)) and _index(part) < len(node):
            node = node[_index(part)]
        else:
            raise UserError(f"{where} does not exist")
        if isinstance(node, tuple):
            raise UserError(f"{where} is a tuple; make it a list in the config file")
    if isinstance(node, list):
        if _index(leaf) >= len(node):
            raise UserError(f"no entry {leaf!r} in a list of {len(node)}")
        there = node[_index(leaf)]
    elif isinstance(node, dict):
        there = node.get(leaf)
    else:
        raise UserError(f"{'.'.join(parents)} is a {type(node).__name__}, not a section")
    none = value is None or (isinstance(value, str) and value.lower() == "none")
    if isinstance(there, dict) and there and not none and not (isinstance(value, dict) and value.keys() >= there.keys()):
        name = next(iter(value if isinstance(value, dict) and value else there))
        raise UserError(f"{show(value)} would take the place of a whole section and drop what the file says in it "
                        f"({', '.join(map(str, there))}); set its keys one by one, as in {key}.{name}=…")
    node[_index(leaf) if isinstance(node, list) else leaf] = value


def _index(part: str) -> int:
    """A place in a list; no list is as long as what anything else gives."""
    return int(part) if re.fullmatch(r"[0-9]{1,9}", part) else sys.maxsize


def _plain(value: Any) -> Any:
    """A literal that a config can hold: names are text without dots, and nothing is a set, bytes or a complex number."""
    if isinstance(value, dict):
        for name in value:
            _check_name(name)
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(f"{show(value)} is of type {type(value).__name__}, which no key takes")


def _check_name(name: Any) -> None:
    """Raises `UserError` for what no key is called; names in `__` are Python's own, and `ConfigDict` stumbles over them."""
    if not isinstance(name, str) or not name or "." in name or name.startswith("__"):
        raise UserError(f"{show(name)} is no name of a key")


def literal(text: str) -> Any:
    """`text` as a Python literal (`1e-3`, `True`, `(1, 2)`, `None`), else `text` itself; `none` is a word until `build` knows
    what the key takes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)


def section(values: Mapping[str, Any], key: str, where: str = "config") -> dict[str, Any]:
    """The section at `key` of one that is still as it was written, empty if there is none.

    Raises:
      UserError: something else stands there.
    """
    found = values.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise UserError(f"{where}.{key}: expected a section, got {show(found)}")
    return dict(found or {})


def build(cls: type[C], values: Mapping[str, Any] | None, where: str = "config") -> C:
    """`cls(**values)` for a dataclass, with every key and type checked, sections inside it too.

    Args:
      cls: a dataclass; fields may be dataclasses, `tuple[X, ...]`, `dict[str, X]`, unions and plain types. A base class that
        has a registry, here or in a field, stands for its kinds: the section's `kind` chooses.
      values: what the config says; missing keys take the dataclass's defaults.
      where: the dotted path of this section, for messages.

    Raises:
      UserError: naming `where.key`.
    """
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a section, got {show(values)}")
    values = {} if values is None else dict(values)
    if cls in _BY_KIND:
        return _BY_KIND[cls](values, where)
    hints = _hints(cls)
    own = vars(cls).get("kind")
    if isinstance(own, str) and "kind" not in hints and (given := values.pop("kind", own)) != own:
        raise UserError(f"{where}.kind: {show(given)}; this section takes {own!r} alone")
    for key in values:
        if key not in hints:
            known = ["kind", *hints] if isinstance(own, str) else hints
            raise UserError(f"{where}.{key}: unknown key{nearest(key, known)}")
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
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, or a `UserError` that says what was expected."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is typing.Annotated:
        value = _convert(args[0], value, where)
        for bounds in args[1:]:
            if isinstance(bounds, Range) and not bounds.holds(value):
                raise UserError(f"{where}: {value!r} is not {bounds}")
        return value
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and (value is None or _means_none(value, args)):
            return None
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _convert(option, value, where)
            except UserError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if dataclasses.is_dataclass(kind) or kind in _BY_KIND:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section ({kind.__name__}), got {show(value)}")
        return build(kind, value, where)
    if origin in (tuple, Sequence):
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, got {show(value)}")
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            if len(args) != len(value):
                raise UserError(f"{where}: expected {len(args)} values, got {len(value)}")
            return tuple(_convert(a, v, f"{where}.{i}") for i, (a, v) in enumerate(zip(args, value)))
        return tuple(_convert(args[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section, got {show(value)}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind in (int, float):
        return _number(kind, value, where)
    if isinstance(kind, type) and not isinstance(value, kind):
        quoted = f"; on a command line, text that reads as something else is quoted twice: \"'{value}'\""
        quoted = quoted if kind is str and isinstance(value, (bool, int, float)) else ""
        raise UserError(f"{where}: expected {kind.__name__}, got {show(value)}{quoted}")
    return value


def _number(kind: type, value: Any, where: str) -> Any:
    """A finite number; NumPy's and JAX's scalars, as grids are often made of, become Python's."""
    if hasattr(value, "dtype") and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise UserError(f"{where}: expected {kind.__name__}, got {show(value)}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise UserError(f"{where}: a number of {value.bit_length()} bits; whole numbers have at most 63 here")
    if not math.isfinite(value):
        raise UserError(f"{where}: {value!r} is not finite")
    return kind(value)


def _means_none(value: Any, options: Sequence[Any]) -> bool:
    """Whether `none` was written where it is no choice of its own (as a rematerialisation is)."""
    choices = (choice for option in options if typing.get_origin(option) is typing.Literal for choice in typing.get_args(option))
    return isinstance(value, str) and value.lower() == "none" and value not in choices


def to_dict(value: Any) -> Any:
    """A built config as plain JSON-able values (the resolved `config.json`); `kind` first where the class has one."""
    if dataclasses.is_dataclass(value):
        kind = vars(type(value)).get("kind")
        named = {"kind": kind} if isinstance(kind, str) else {}
        return named | {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {k: to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """A config by dotted keys, lists by number (`data.sources.0.kind`); an empty section is a value."""
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, (list, tuple)):
        items = [(str(i), value) for i, value in enumerate(values)]
    else:
        items = []
    if not items:
        return {prefix: values}
    below = (flatten(inner, f"{prefix}.{name}" if prefix else name) for name, inner in items)
    return {key: value for part in below for key, value in part.items()}


def digest(value: Any) -> str:
    """Twelve hex digits that identify a resolved config."""
    return hashlib.sha256(json.dumps(to_dict(value), sort_keys=True).encode()).hexdigest()[:12]
