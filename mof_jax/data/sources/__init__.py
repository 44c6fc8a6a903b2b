"""The one place that turns a source's kind into a reader."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from mof_jax import storage
from mof_jax.data.filter import Subset
from mof_jax.data.record import Source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError, lookup

# Readers are imported when used: each may need a package that other runs do not.


def _emoji5(config: SourceConfig) -> Source:
    from mof_jax.data.worlds.embedded import Emoji5

    return Emoji5(split=config.split, locales=config.locales)


def _arrayrecord(config: SourceConfig) -> Source:
    from mof_jax.data.sources.arrayrecord import ArrayRecordSource

    return ArrayRecordSource(config.path, config.label, cache_dir=config.cache_dir)


def _tfds(config: SourceConfig) -> Source:
    from mof_jax.data.sources.tfds import TfdsSource

    return TfdsSource(config.path, config.split, config.label, config.image_field, config.text_fields)


def _webdataset(config: SourceConfig) -> Source:
    from mof_jax.data.sources.webdataset import WebDatasetSource

    return WebDatasetSource(config.path, config.label, config.text_fields, config.cache_dir, config.image_field)


def _jsonl(config: SourceConfig) -> Source:
    from mof_jax.data.sources.jsonl import TableSource

    return TableSource(config.path, config.label, config.image_root, config.image_field, config.text_fields)


def _folder(config: SourceConfig) -> Source:
    from mof_jax.data.sources.imagefolder import ImageFolder

    return ImageFolder(config.path, config.label)


def _synthetic(config: SourceConfig) -> Source:
    from mof_jax.data.sources.synthetic import SyntheticSource

    return SyntheticSource(config.size, config.pixels, config.label)


def _obelics(config: SourceConfig) -> Source:
    from mof_jax.data.sources.interleaved import PageSource

    return PageSource(config.path, "obelics", config.label, config.image_root)


def _mmc4(config: SourceConfig) -> Source:
    from mof_jax.data.sources.interleaved import PageSource

    return PageSource(config.path, "mmc4", config.label, config.image_root)


def _llava(config: SourceConfig) -> Source:
    from mof_jax.data.sources.llava import LlavaSource

    return LlavaSource(config.path, config.label, config.image_root)


def _pages(config: SourceConfig) -> Source:
    from mof_jax.data.worlds.documents_embedded import PageWorld

    return PageWorld(config.size, config.split, config.locales, config.label)


def _glossary(config: SourceConfig) -> Source:
    from mof_jax.data.worlds.documents_embedded import Glossary

    return Glossary(config.size, config.locales, config.label)


def _scenes(config: SourceConfig) -> Source:
    from mof_jax.data.worlds.scenes import Scenes

    return Scenes(config.size, config.split, config.pixels, config.questions, config.label)


def _patterns(config: SourceConfig) -> Source:
    from mof_jax.data.worlds.pattern_world import PatternWorld

    return PatternWorld(config.size, config.split, config.pixels, config.questions, config.stated, config.label)


READERS: dict[str, Callable[[SourceConfig], Source]] = {
    "emoji5": _emoji5,
    "arrayrecord": _arrayrecord,
    "tfds": _tfds,
    "webdataset": _webdataset,
    "jsonl": _jsonl,
    "folder": _folder,
    "synthetic": _synthetic,
    "obelics": _obelics,
    "mmc4": _mmc4,
    "llava": _llava,
    "pages": _pages,
    "glossary": _glossary,
    "scenes": _scenes,
    "patterns": _patterns,
}


def open_source(config: SourceConfig) -> Source:
    """Opens a source, without its filter; `~` in its paths is the user's home.

    Raises:
      UserError: unknown kind, nothing at the path, or no records in it.
    """
    reader = lookup(READERS, config.kind, "source kind")
    paths = {name: storage.expand(getattr(config, name)) for name in ("path", "image_root", "cache_dir")}
    source = reader(dataclasses.replace(config, name=config.label, **paths))
    if not len(source):
        raise UserError(f"{config.path or config.label}: the source has no records")
    if config.skip >= len(source):
        raise UserError(f"{config.path or config.label}: skip leaves out {config.skip} of {len(source)} records")
    return Subset(source, np.arange(config.skip, len(source))) if config.skip else source
