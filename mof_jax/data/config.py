"""What a run reads: its mixture of sources, the fields of its batches, and how they are loaded."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from mof_jax.data.fields.captions import Captions
from mof_jax.data.fields.field import Field
from mof_jax.data.fields.group import Group
from mof_jax.data.fields.views import Views
from mof_jax.data.image import augment, images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.orders import Order
from mof_jax.data.orders.shuffled import Shuffled
from mof_jax.data.reader import OnError
from mof_jax.data.sources import default_sources
from mof_jax.data.sources.config import SourceConfig
from mof_jax.ranges import Count, NotNegative, Whole

_DEFAULTS: dict[str, type[Field]] = {"image": Views, "local": Views, "text": Captions, "group": Group}


@dataclasses.dataclass(frozen=True)
class LocalViews:
    """Small crops beside the other views (multi-crop, arXiv 2006.09882).

    Attributes:
      views: crops per example, each augmented on its own.
      image_size: their side, pixels.
      augment: random changes; by default crops of 5 to 32 % of the picture's area.
    """

    views: Count = 8
    image_size: Count = 96
    augment: augment.AugmentConfig = augment.AugmentConfig(crop=augment.Crop(scale=(0.05, 0.32)))

    def __post_init__(self):
        if min(self.views, self.image_size) < 1:
            raise ValueError("views and image_size must be positive")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a run reads, and what it does to it on the host.

    A batch is a set of fields (see `data.fields`). Without a word about them it has `image`, `text`, `group`
    and, where `local` is set, `local`; `views`, `image_size`, `augment`, `captions` and `local` are short for
    what these say. A section of their name in `fields` takes their place; where both speak, they have to
    agree.

    Attributes:
      sources: the mixture.
      fields: further fields by name, and those that take the place of a default.
      image_size: side of the pictures that leave the host, pixels.
      views: pictures per example, each augmented on its own; 0 for text only.
      captions: captions per example; 0 for pictures only.
      augment: random changes; none by default.
      local: small crops beside the views, None for none.
      resize, resample, resize_side: how a picture that is not cropped becomes square (see `images.resize`).
      pixels: whose pixels, where libraries differ (see `Preprocess`).
      order: in which order examples come, see `data.orders`. shuffle: False reads in stored order.
      on_error: `raise` stops at a bad example; `skip` replaces it by another of the same source, so that
        positions never shift, and reports it.
      cache: `decoded` keeps decoded pictures in memory, up to `cache_gb`; for small sources.
      threads: loader threads; 0 loads in the caller's thread.
      prefetch: batches loaded ahead.
      workers: loader processes, on top of which each has `threads`; 0 for none. Worth it where decoding needs
        more cores than one interpreter can use.
      chunk: rows that one thread loads at a time.
    """

    sources: tuple[SourceConfig, ...] = dataclasses.field(default_factory=default_sources)
    fields: dict[str, Field] = dataclasses.field(default_factory=dict)
    image_size: Count = 64
    views: Whole = 1
    captions: Whole = 1
    augment: augment.AugmentConfig = augment.AugmentConfig()
    local: LocalViews | None = None
    resize: images.Resize = "squash"
    resample: images.Resample = "bicubic"
    resize_side: Count | None = None
    pixels: images.Pixels = "ours"
    order: Order = Shuffled()
    shuffle: bool = True
    on_error: OnError = "raise"
    cache: Literal["none", "decoded"] = "none"
    cache_gb: NotNegative = 4.0
    threads: Whole = 4
    prefetch: Count = 4
    workers: Whole = 0
    chunk: Count = 32

    def __post_init__(self):
        for name, field in self.fields.items():
            if not name.isidentifier():
                raise ValueError(f"fields: {name!r} is no name of a field (letters, digits, _)")
            if name in _DEFAULTS:
                self._agree(name, field)
        _ = self.preprocess  # which checks its own fields
        if not self.sources:
            raise ValueError("sources: at least one is needed")
        if min(self.views, self.captions, self.threads, self.workers) < 0:
            raise ValueError("views, captions, threads and workers count")
        if self.views + self.captions < 1 and not self.fields:
            raise ValueError("views and captions cannot both be 0 without other fields")
        if min(self.image_size, self.prefetch, self.chunk) < 1:
            raise ValueError("image_size, prefetch and chunk must be positive")
        if self.local and not self.views:
            raise ValueError("local views need views beside them")
        labels = [source.label for source in self.sources]
        if len(set(labels)) != len(labels):
            raise ValueError(f"sources need names of their own, got {', '.join(labels)}")

    @property
    def batch_fields(self) -> dict[str, Field]:
        """Every field of a batch by name, their sizes filled in: the defaults first."""
        found: dict[str, Field] = {}
        if self.views:
            found["image"] = Views(self.image_size, self.views, self.augment)
        if self.local:
            found["local"] = Views(self.local.image_size, self.local.views, self.local.augment)
        if self.captions:
            found["text"] = Captions(self.captions)
        found["group"] = Group()
        return {name: field.sized(self.image_size) for name, field in (found | self.fields).items()}

    def _agree(self, name: str, field: Field) -> None:
        """Takes over from a field what flat keys are short for.

        Raises:
          ValueError: it is of another kind than the default of its name, or a flat key says something else.
        """
        if not isinstance(field, _DEFAULTS[name]):
            raise ValueError(f"fields.{name}: the field of this name is of kind {_DEFAULTS[name].kind!r}; "
                             f"{field.kind!r} needs another name")
        says: dict[str, Any] = {}
        if name == "image":
            size = field.size or self.image_size
            says = {"views": field.count, "image_size": size, "augment": field.augment}
        elif name == "local":
            says = {"local": LocalViews(field.count, field.size or self.image_size, field.augment)}
        elif name == "text":
            says = {"captions": field.count}
        plain = {f.name: f.default for f in dataclasses.fields(self)}
        for key, value in says.items():
            if (given := getattr(self, key)) == 0 and key in ("views", "captions"):
                continue  # a task without a default of this name; the field stands for itself
            if given not in (plain[key], value):
                raise ValueError(f"fields.{name} asks for {key} {value!r}, and data.{key} is {given!r}; "
                                 "leave one of them out")
            object.__setattr__(self, key, value)

    @property
    def preprocess(self) -> Preprocess:
        """What happens to a picture outside of training."""
        return Preprocess(self.image_size, self.resize, self.resample, self.augment.fill, self.resize_side,
                          self.pixels)
