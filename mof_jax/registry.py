"""The one idiom for "a config names a kind".

A kind is a frozen dataclass with a class attribute `kind`; its fields are the keys of its config section. A room has a base class
and a registry, which imports the modules of the room once, at the first look-up, and finds them: there is no list to edit. A
user's own kinds come from files that his config names (`plugins`).

    EVALUATORS = Registry("mof_jax.evals", Evaluator, "evaluator")
    EVALUATORS.build({"kind": "knn", "k": 5, ...}, "config.evals.0")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import importlib
import inspect
import pkgutil
import re
from typing import Any, Generic, TypeVar

from mof_jax import config as configs
from mof_jax import plugins
from mof_jax.errors import UserError, nearest
from mof_jax.parsing import show

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """The kinds of one room by name, in the order of the alphabet.

    A config field typed with the base class takes a section of any of them, see `config.choose_by_kind`.

    Args:
      package: dotted name of the room. base: what its kinds derive from. what: one of them, in words.
      default: the kind of a section that names none; "" for a section that has to.
      also: further packages whose modules hold kinds of this room.
    """

    def __init__(self, package: str, base: type[T], what: str, *, default: str = "", also: Sequence[str] = ()):
        self.packages, self.base, self.what, self.default = (package, *also), base, what, default
        self._broken: dict[str, str] = {}
        self._known: tuple[frozenset[str], dict[str, type[T]]] | None = None
        configs.choose_by_kind(base, self.build)

    @property
    def _kinds(self) -> Mapping[str, type[T]]:
        """Those of the room, and of the plugins that have been loaded."""
        loaded = frozenset(plugins.loaded())
        if self._known is None or self._known[0] != loaded:
            self._known = loaded, self._find(loaded)
        return self._known[1]

    def _find(self, loaded: frozenset[str]) -> dict[str, type[T]]:
        """Every kind; a module whose extra is not installed breaks only itself.

        Args:
          loaded: the plugins' modules.

        Raises:
          UserError: two classes of one kind.
        """
        for package in self.packages:
            root = importlib.import_module(package)
            for name in sorted(module.name for module in pkgutil.walk_packages(root.__path__, f"{package}.")):
                try:
                    importlib.import_module(name)
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] == package.partition(".")[0]:
                        raise
                    self._broken[name] = str(error)
        rooms = tuple(f"{package}." for package in self.packages)
        found: dict[str, type[T]] = {}
        for cls in _below(self.base):
            ours = f"{cls.__module__}.".startswith(rooms) or cls.__module__ in loaded
            if "kind" not in vars(cls) or not ours:
                continue
            if (other := found.setdefault(cls.kind, cls)) is not cls:
                both = f"{inspect.getfile(other)} and {inspect.getfile(cls)}"
                raise UserError(f"two classes of {self.what} kind {cls.kind!r}: {both}")
        return dict(sorted(found.items()))

    def __getitem__(self, kind: Any) -> type[T]:
        if not isinstance(kind, str) or kind not in self._kinds:
            raise KeyError(kind)
        return self._kinds[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def find(self, kind: Any, where: str) -> type[T]:
        """The class of a kind.

        Raises:
          UserError: naming `where`, and the nearest kind.
        """
        try:
            return self[kind]
        except KeyError:
            broken = "".join(f"; {line}" for line in self.broken())
            raise UserError(f"{where}: unknown {self.what} kind {show(kind)}{nearest(kind, self)}{broken}") from None

    def broken(self) -> list[str]:
        """A line for each module of the room whose kinds are not here, because an extra is missing."""
        len(self)  # looks for them
        return [f"{name} cannot be imported: {reason}" for name, reason in self._broken.items()]

    def build(self, section: Mapping[str, Any], where: str) -> T:
        """The object of a config section: `kind` chooses the class, the other keys are its fields.

        Raises:
          UserError: no such kind, or a key that this kind does not have.
        """
        cls, values = self.parse(section, where)
        return configs.build(cls, values, where)

    def parse(self, section: Mapping[str, Any], where: str) -> tuple[type[T], dict[str, Any]]:
        """The class that a section names, and the rest of the section.

        Raises:
          UserError: it is no section, or has no kind of this room.
        """
        if not isinstance(section, Mapping):
            raise UserError(f"{where}: expected a section with a kind, got {show(section)}")
        values = {"kind": self.default} | dict(section) if self.default else dict(section)
        if "kind" not in values:
            raise UserError(f"{where}.kind: missing (one of {', '.join(self)})")
        return self.find(values.pop("kind"), f"{where}.kind"), values

    def rows(self) -> list[tuple[str, str, str]]:
        """(kind, first sentence of its docstring, module) of each, for `mof list`."""
        return [(kind, _first_sentence(cls), cls.__module__) for kind, cls in self.items()]


def _first_sentence(cls: type) -> str:
    words = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return re.match(r".*?(?=[.;:] |$)", words)[0].rstrip(".")


def _below(base: type) -> Iterator[type]:
    """All classes that derive from one, in the order of their definition."""
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)
