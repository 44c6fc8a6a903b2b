"""A user's own kinds: a Python file beside his config, named in it by `plugins=("my_paper.py",)`.

The file is imported once, as `mof_jax.plugins.p_<digest of its content>`, and every registry finds the kinds in it. Its hash
belongs to the config, so that a run does not go on under another file. Worker processes inherit the paths and import the same
files by those names. Only what a user names is imported: `load` takes his config file, his overrides, `--plugin FILE`; a config
that lies in a checkpoint or a work dir is never a reason to run code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import importlib
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
import json
import os
import sys
from types import ModuleType
from typing import Any

from mof_jax.errors import UserError
from mof_jax.parsing import show

VARIABLE = "MOF_JAX_PLUGINS"  # module name to path, as JSON: what child processes inherit
_PREFIX = f"{__name__}.p_"


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A file of kinds.

    Attributes:
      path: relative to the config file, or to where the command runs.
      sha256: of its content; filled in when it is imported.
    """

    path: str
    sha256: str = ""


def load(values: Mapping[str, Any], beside: str | None = None) -> dict[str, Any]:
    """A user's config with its plugins imported, each with its absolute path and hash; those of stages, too.

    Args:
      beside: folder of the config file.

    Raises:
      UserError: no such file, one that fails, or one that is not what its `sha256` says.
    """
    found = dict(values)
    if isinstance(stages := found.get("stages"), (list, tuple)):
        return {**found, "stages": [load(stage, beside) if isinstance(stage, Mapping) else stage for stage in stages]}
    if not found.get("plugins"):
        return found
    given = found["plugins"]
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence):
        raise UserError(f"config.plugins: expected a list of files, got {show(given)}")
    return {**found, "plugins": [dataclasses.asdict(_load(x, beside, f"config.plugins.{i}")) for i, x in enumerate(given)]}


def load_file(path: str) -> Plugin:
    """Imports the plugin at a path, as `--plugin` names it."""
    return _load(path, None, "--plugin")


def loaded() -> dict[str, str]:
    """Module names to paths of all that this process, or the one that started it, has imported."""
    return json.loads(os.environ.get(VARIABLE, "{}"))


def check(plugins: Sequence[Plugin]) -> None:
    """Raises `UserError` for a plugin that no user has named in this process."""
    for i, plugin in enumerate(plugins):
        if not plugin.sha256 or _name(plugin.sha256) not in loaded():
            raise UserError(f"config.plugins.{i}: {plugin.path} is not imported, because no one named it here; if you trust the "
                            f"file, add --plugin {plugin.path} (in Python: mof_jax.plugins.load_file), with the content that it "
                            "had then")


def _load(entry: Any, beside: str | None, where: str) -> Plugin:
    path, digest = (entry.get("path"), entry.get("sha256", "")) if isinstance(entry, Mapping) else (entry, "")
    if not isinstance(path, str) or not path.endswith(".py"):
        raise UserError(f"{where}: expected the path of a Python file, got {show(path)}")
    places = [os.path.join(beside, path)] if beside else []
    there = next(filter(os.path.isfile, [*places, path]), None)
    if there is None:
        raise UserError(f"{where}: {path}: no such file{f' beside the config, in {beside}, or here' if beside else ''}")
    there = os.path.abspath(there)
    with open(there, "rb") as f:
        content = hashlib.sha256(f.read()).hexdigest()
    if digest and digest != content:
        raise UserError(f"{where}: {path} is another file than the one of the hash {digest[:12]}…; its own is {content[:12]}…")
    name = _name(content)
    if name not in loaded():
        os.environ[VARIABLE] = json.dumps(loaded() | {name: there})
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        os.environ[VARIABLE] = json.dumps({key: value for key, value in loaded().items() if key != name})
        raise UserError(f"{where}: {path}: {type(error).__name__}: {error}") from error
    return Plugin(there, content)


def _name(digest: str) -> str:
    return _PREFIX + digest[:16]


class _Files(MetaPathFinder, Loader):
    """Finds a plugin's module by the digest in its name, in this process and in those that it starts."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        file = loaded().get(fullname) if fullname.startswith(_PREFIX) else None
        return None if file is None else ModuleSpec(fullname, self, origin=file)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__file__ = spec.origin
        return module

    def exec_module(self, module: ModuleType) -> None:
        with open(module.__file__, "rb") as f:
            source = f.read()
        if _name(hashlib.sha256(source).hexdigest()) != module.__name__:
            raise UserError(f"{module.__file__}: has changed since the run began to use it; start again")
        exec(compile(source, module.__file__, "exec"), vars(module))


sys.meta_path.append(_Files())
