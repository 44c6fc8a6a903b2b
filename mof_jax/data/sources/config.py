"""What a config says about one source."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mof_jax.data.filter import FilterConfig
from mof_jax.data.text.captions import CaptionConfig
from mof_jax.ranges import Count, NotNegative, Share, Whole

Kind = Literal["emoji5", "arrayrecord", "tfds", "webdataset", "jsonl", "folder", "synthetic", "obelics", "mmc4", "llava", "pages",
               "glossary", "scenes", "patterns"]
EMBEDDED = ("emoji5", "synthetic", "pages", "glossary", "scenes", "patterns")  # they come with the package and need no path


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture.

    Attributes:
      kind: which reader.
      path: file, pattern (`*`, `?`, `[ab]`, `{000..012}`, `{a,b}`), `name@N`, folder or URL, as the reader documents; what is
        there under the very name is that file. Unused by what comes with the package (emoji5, synthetic, pages, glossary,
        scenes, patterns).
      name: name in tables, ids and messages; by default the kind and the last part of the path.
      weight: share of the mixture, relative to the other sources' weights; 0 leaves the source out.
      split: split of emoji5, TFDS, pages, scenes and patterns.
      locales: caption languages of emoji5; languages that pages and glossary name things in.
      image_field: column or feature with the image; by default the usual names. Of tars, the ending of the picture where a
        sample has several (`jpg`, `input.jpg`).
      text_fields: caption kind -> column or feature, e.g. `{"alt": "caption"}`; by default the usual names.
      image_root: folder that image paths of JSONL, OBELICS, MMC4 and LLaVA files are relative to; by default the
        folder of the file.
      size, pixels: number and side of synthetic pictures, scenes and patterns; number of pages.
      skip: records left out at the beginning, so that what is trained on (`size=90`) and what a loss is measured on
        (`size=100, skip=90`) have nothing in common.
      questions: which questions `scenes` asks, which patterns `patterns` shows; all by default.
      stated: share of the captions of `patterns` that state the fact a question would ask for.
      cache_dir: where indexes and remote shards are kept; by default $MOF_CACHE or ~/.cache/mof_jax.
      captions: how to choose among the texts.
      filter: which records to keep.
    """

    kind: Kind = "emoji5"
    path: str = ""
    name: str = ""
    weight: NotNegative = 1.0
    split: str = "train"
    locales: tuple[str, ...] = ("en",)
    image_field: str = ""
    text_fields: dict[str, str] = dataclasses.field(default_factory=dict)
    image_root: str = ""
    size: Count = 1024
    pixels: Count = 64
    skip: Whole = 0
    questions: tuple[str, ...] = ()
    stated: Share = 0.25
    cache_dir: str = ""
    captions: CaptionConfig = CaptionConfig()
    filter: FilterConfig | None = None

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")
        if self.skip < 0:
            raise ValueError(f"skip must not be negative, got {self.skip}")
        if self.kind not in EMBEDDED and not self.path:
            raise ValueError(f"a source of kind {self.kind!r} needs a path")

    @property
    def label(self) -> str:
        """The source's name."""
        if self.name:
            return self.name
        last = self.path.rstrip("/").rsplit("/", 1)[-1]
        return f"{self.kind}:{last}" if last else self.kind
