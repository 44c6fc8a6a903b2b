"""Parameters through a table of links, strictly: everything is matched by name, shape and dtype before a value is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import math
import re
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from mof_jax.errors import UserError, nearest
from mof_jax.interop.links import Link, Shape, Table
from mof_jax.interop.weights import Weights

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class Ignored(NamedTuple):
    """Tensors that no parameter of ours is made of.

    Attributes:
      pattern: regular expression over the whole name.
      reason: for the report.
      keep: they travel in the checkpoint, so that an export gives them back.
      same_as: a tensor they must equal, bit for bit (a tied head that was written out).
    """

    pattern: str
    reason: str
    keep: bool = False
    same_as: str | None = None


class Reading:
    """Our parameters, made of the tensors of a file. Opening one checks everything and reads nothing.

    Attributes:
      shapes: of our parameters.
      links: for each of our paths, the link that fills it and which part of it.
      ignored: (name, reason) of the tensors left aside. kept: those of them that travel.
    """

    def __init__(self, table: Table, shapes: Shapes, weights: Weights, ignored: Sequence[Ignored] = ()):
        self._weights, self.shapes = weights, shapes
        self.links = {path: _choose(table, path, shapes, weights) for path in shapes}
        used: set[str] = set()
        for path, (link, _) in self.links.items():
            shape = shapes[path].shape
            for name in all_names(link, shape):
                _check(weights, name, path, link.their_shape(shape[1:] if link.stacked else shape))
                used.add(name)
        self.ignored, self.kept = _left_over(weights, used, ignored)

    @property
    def paths(self) -> list[str]:
        """Our parameters, in the model's order."""
        return list(self.links)

    def read(self, path: str, dtype: np.dtype | str = "float32") -> np.ndarray:
        """One parameter; its tensors are read one at a time."""
        link, part = self.links[path]
        shape = self.shapes[path].shape
        if not link.stacked:
            out = aligned(shape, dtype)
            out[...] = self._one(link, part, shape, None)
            return out
        out = aligned(shape, dtype)
        for layer in range(shape[0]):
            out[layer] = self._one(link, part, shape[1:], layer)
        return out

    def spelling(self) -> dict[str, str]:
        """The first name that each of our parameters was found under: an export uses the same ones."""
        return {path: link.theirs[0] for path, (link, _) in self.links.items()}

    def dtypes(self) -> dict[str, str]:
        """The dtype of each of their tensors that is used, by name."""
        names = [name for path, (link, _) in self.links.items() for name in all_names(link, self.shapes[path].shape)]
        return {name: self._weights.dtype(name).name for name in names}

    def _one(self, link: Link, part: int, shape: Shape, layer: int | None) -> np.ndarray:
        theirs = link.their_shape(shape)
        return link.to_ours([self._weights.read(name).reshape(theirs) for name in link.names(layer)], part, shape)


def aligned(shape: Shape, dtype: np.dtype | str) -> np.ndarray:
    """An array whose memory JAX can take over on a CPU instead of copying it: it starts at a multiple of 64 bytes."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(kind).reshape(shape)


def all_names(link: Link, shape: Shape) -> list[str]:
    """Their names for one of our parameters, all layers."""
    layers = range(shape[0]) if link.stacked else [None]
    return [name for layer in layers for name in link.names(layer)]


def announce(table: Table, shapes: Shapes, spelling: Mapping[str, str] = MappingProxyType({})) -> dict[str, Shape]:
    """Every tensor of an export, in the order in which `export` makes them, with its shape.

    Args:
      spelling: see `Reading.spelling`; where a table knows several names, the first unless this says another.
    """
    found: dict[str, Shape] = {}
    for link in _chosen(table, shapes, spelling):
        shape = shapes[link.ours[0]].shape
        each = link.their_shape(shape[1:] if link.stacked else shape)
        found |= {name: each for name in all_names(link, shape)}
    return found


def export(
    table: Table, shapes: Shapes, read: Callable[[str], np.ndarray], spelling: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor), one after the other; `read` gives one of our parameters by path."""
    for link in _chosen(table, shapes, spelling):
        arrays = [np.asarray(read(path)) for path in link.ours]
        if link.stacked:
            for layer in range(arrays[0].shape[0]):
                yield from zip(link.names(layer), link.to_theirs([x[layer] for x in arrays]))
        else:
            yield from zip(link.names(None), link.to_theirs(arrays))


def _chosen(table: Table, shapes: Shapes, spelling: Mapping[str, str]) -> list[Link]:
    """The links of a model, each of our paths in one of them."""
    chosen: dict[str, Link] = {}
    for path in shapes:
        options = [link for link in table if path in link.ours and all(ours in shapes for ours in link.ours)]
        if not options:
            raise UserError(f"{path} has no place in this format")
        if path not in chosen:
            link = next((link for link in options if link.theirs[0] == spelling.get(path)), options[0])
            chosen |= dict.fromkeys(link.ours, link)
    return list(dict.fromkeys(chosen.values()))


def _choose(table: Table, path: str, shapes: Shapes, weights: Weights) -> tuple[Link, int]:
    """The first link to `path` whose tensors are all there."""
    options = [link for link in table if path in link.ours and all(ours in shapes for ours in link.ours)]
    if not options:
        raise UserError(f"{weights.where}: {path} has no counterpart in this format")
    # A file has fewer layers than tensors; a config that claims a billion of them is not counted to the end.
    shape = shapes[path].shape
    some = (min(shape[0], len(weights.names) + 1), *shape[1:]) if shape else shape
    missing = [[name for name in all_names(link, some) if name not in weights] for link in options]
    best = min(range(len(options)), key=lambda i: len(missing[i]))
    if missing[best]:
        name = missing[best][0]
        raise UserError(f"{weights.where}: {path} is to come from {name}, which is not there{nearest(name, weights.names)}")
    return options[best], options[best].ours.index(path)


def _check(weights: Weights, name: str, path: str, expected: Shape) -> None:
    """The shape, up to dimensions of size one, and that it is a float."""
    got, dtype = weights.shape(name), weights.dtype(name)
    without = lambda shape: [n for n in shape if n != 1]
    if without(got) != without(expected):
        raise UserError(f"{weights.where}: {name} is of shape {list(got)}, and {path} needs {list(expected)}; its config.json "
                        "speaks of another model")
    if dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise UserError(f"{weights.where}: {name} holds {dtype.name}, and {path} needs floats; quantised files are not read")


def _left_over(weights: Weights, used: set[str], rules: Sequence[Ignored]) -> tuple[list[tuple[str, str]], list[str]]:
    """(name, reason) of the tensors that nothing reads, and the names of those that travel."""
    ignored, kept, strangers = [], [], []
    for name in weights.names:
        if name in used:
            continue
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
        if rule is None:
            strangers.append(name)
            continue
        if rule.same_as is not None:
            twin = weights.read(rule.same_as)
            if not np.array_equal(weights.read(name), twin):
                raise UserError(f"{weights.where}: {name} differs from {rule.same_as}, although the config ties them; set "
                                "tie_word_embeddings to false in its config.json")
        if rule.keep:
            kept.append(name)
        ignored.append((name, rule.reason))
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise UserError(f"{weights.where}: nothing reads {', '.join(strangers[:3])}{more}; the file holds another model than its "
                        "config.json says")
    return ignored, kept
