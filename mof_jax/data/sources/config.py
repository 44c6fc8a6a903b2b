"""What a config says about one source, whatever its kind."""

from __future__ import annotations

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

from mof_jax.data.filter import FilterConfig
from mof_jax.data.record import Source
from mof_jax.data.text.captions import CaptionConfig
from mof_jax.ranges import NotNegative, Whole
from mof_jax.registry import Registry

# Keys that every section had while one class stood for all kinds; no kind of today has all of them.
_ONCE = {"path", "name", "weight", "split", "locales", "image_field", "text_fields", "image_root", "size",
         "pixels", "cache_dir", "captions", "filter"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig(abc.ABC):
    """One source of a mixture. A kind of sources derives from it, in the file of its reader.

    Attributes:
      kind: its name in a config. embedded: whether it comes with the package.
      name: name in tables, ids and messages; by default the kind and the last part of the path.
      weight: share of the mixture, relative to the other sources' weights; 0 leaves the source out.
      skip: records left out at the beginning, so that what is trained on (`size=90`) and what a loss is
        measured on (`size=100, skip=90`) have nothing in common.
      cache_dir: where indexes, filters and remote shards are kept; by default $MOF_CACHE or ~/.cache/mof_jax.
      captions: how to choose among the texts.
      filter: which records to keep.
    """

    kind: ClassVar[str]
    embedded: ClassVar[bool] = False

    name: str = ""
    weight: NotNegative = 1.0
    skip: Whole = 0
    cache_dir: str = ""
    captions: CaptionConfig = CaptionConfig()
    filter: FilterConfig | None = None

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")
        if self.skip < 0:
            raise ValueError(f"skip must not be negative, got {self.skip}")

    @property
    def label(self) -> str:
        """The source's name."""
        return self.name or self.kind

    @abc.abstractmethod
    def open(self) -> Source:
        """The source, without its filter; `sources.open_source` has expanded the paths.

        Raises:
          UserError: nothing there, or nothing that this kind reads.
        """


@dataclasses.dataclass(frozen=True)
class FileConfig(SourceConfig):
    """A source that lies in files.

    Attributes:
      path: file, pattern (`*`, `?`, `[ab]`, `{000..012}`, `{a,b}`), `name@N`, folder or URL, as the reader
        documents; what is there under the very name is that file.
    """

    path: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise ValueError(f"a source of kind {self.kind!r} needs a path")

    @property
    def label(self) -> str:
        """The source's name."""
        return self.name or f"{self.kind}:{self.path.rstrip('/').rsplit('/', 1)[-1]}"


class SourceRegistry(Registry[SourceConfig]):
    """The kinds of sources; one that is not named is `emoji5`."""

    def parse(self, section: Mapping[str, Any], where: str) -> tuple[type[SourceConfig], dict[str, Any]]:
        """The class that a section names, and the rest of it: of one that an older version wrote out, with
        every key of every kind, those that this kind has (the others meant nothing).

        Raises:
          UserError: it is no section, or of no kind.
        """
        cls, values = super().parse(section, where)
        if values.keys() >= _ONCE:
            known = {f.name for f in dataclasses.fields(cls)}
            values = {key: value for key, value in values.items() if key in known}
        return cls, values
