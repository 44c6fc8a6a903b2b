"""Where records come from, behind one interface; a config names a source by `kind`."""

from __future__ import annotations

import dataclasses

import numpy as np

from mof_jax import storage
from mof_jax.data.filter import Subset
from mof_jax.data.record import Source
from mof_jax.data.sources.config import SourceConfig, SourceRegistry
from mof_jax.errors import UserError

SOURCES = SourceRegistry(__name__, SourceConfig, "source", default="emoji5", also=("mof_jax.data.worlds",))

_PATHS = ("path", "image_root", "cache_dir")


def default_sources() -> tuple[SourceConfig, ...]:
    """What is read where a config says nothing: the embedded pictures."""
    return (SOURCES[SOURCES.default](),)


def open_source(config: SourceConfig) -> Source:
    """Opens a source, without its filter; `~` in its paths is the user's home.

    Raises:
      UserError: nothing at the path, or no records in it.
    """
    paths = {name: storage.expand(getattr(config, name)) for name in _PATHS if hasattr(config, name)}
    source = dataclasses.replace(config, name=config.label, **paths).open()
    where = getattr(config, "path", "") or config.label
    if not len(source):
        raise UserError(f"{where}: the source has no records")
    if config.skip >= len(source):
        raise UserError(f"{where}: skip leaves out {config.skip} of {len(source)} records")
    return Subset(source, np.arange(config.skip, len(source))) if config.skip else source
