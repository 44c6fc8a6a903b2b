"""Models that arms begin from: trained once for a config, its data and the code, and found again by the
hash of the three."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

from mof_jax import config as configs
from mof_jax.data.identity import content
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.sweep import table
from mof_jax.sweep.points import expand
from mof_jax.sweep.runner import Runner, trainer

PREFIX = "base:"


def train(spec: str, store: str, code: str) -> str:
    """The work dir of a base model in the store; trained now if it is not there, or not to its end.

    Args:
      spec: `FILE.py[:ARG]`. code: the commit it is trained by, see `commits.code`.

    Raises:
      UserError: its config is wrong, or its run failed. Preempted: a signal came; run again to go on.
    """
    sweep = expand(spec, grid=[{}])
    point = sweep.points[-1]
    data = [content(source, found, found) for run in point.runs.values() for source in sources(run.data)
            for found in (open_source(source),)]
    folder = os.path.join(store, configs.digest({"config": point.id, "data": data, "code": code}))
    workdir = table.folder_of(folder, point.id)
    if table.read_summary(workdir) is None:
        Runner(sweep, folder, trainer(spec)).run()
    return workdir


def sources(section: Any) -> Iterator[SourceConfig]:
    """Every source in a section of a config, wherever it stands."""
    if isinstance(section, SourceConfig):
        yield section
    elif dataclasses.is_dataclass(section):
        yield from sources([getattr(section, field.name) for field in dataclasses.fields(section)])
    elif isinstance(section, Mapping):
        yield from sources(list(section.values()))
    elif isinstance(section, (list, tuple)):
        for part in section:
            yield from sources(part)


def resolve(value: Any, bases: Mapping[str, str]) -> Any:
    """A value of an override with `base:NAME` in it replaced by the work dir of that base."""
    if isinstance(value, str) and value.startswith(PREFIX):
        return bases[value.removeprefix(PREFIX)]
    if isinstance(value, Mapping):
        return {key: resolve(part, bases) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(resolve(part, bases) for part in value)
    return value


def named(value: Any) -> Iterator[str]:
    """The bases that a value of an override names."""
    if isinstance(value, str) and value.startswith(PREFIX):
        yield value.removeprefix(PREFIX)
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from named(part)
