"""TFDS data sets prepared in ArrayRecord format, read without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from mof_jax.data import remote
from mof_jax.data.record import Record
from mof_jax.data.sources import fields
from mof_jax.errors import BadExample, UserError


class TfdsSource:
    """A split of a prepared TFDS data set; images stay encoded.

    Text features become captions under their own names, class labels become the name of the class.

    Args:
      path: the folder of a prepared data set (`.../name/version`), or a TFDS name that is prepared in its data folder.
      split: a split, slices included (`train[:10%]`).
      image_field: the image feature; by default the first one.
      text_fields: caption kind -> feature; by default every text and class-label feature.

    Raises:
      UserError: not prepared, not in ArrayRecord format, no such split or feature.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        image_field: str = "",
        text_fields: Mapping[str, str] | None = None,
    ):
        if remote.is_remote(path):
            raise UserError(f"{path}: copy a TFDS data set to a local disk, or convert it with `mof data convert`")
        self._arguments = (path, split, name, image_field, dict(text_fields or {}))
        self.name = name or f"{os.path.basename(path.rstrip('/'))}/{split}"
        self._split = split
        self._open(path, split, image_field, dict(text_fields or {}))

    def _open(self, path: str, split: str, image_field: str, text_fields: dict[str, str]) -> None:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(path) if os.path.isdir(path) else tfds.builder(path)
            features = dict(builder.info.features)
            images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
            self._image = image_field or (images[0] if images else "")
            if self._image and self._image not in features:
                raise UserError(f"{path}: no feature {self._image!r} (has {', '.join(features)})")
            self._labels = {k: f for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)}
            words = [k for k, f in features.items() if isinstance(f, tfds.features.Text) or k in self._labels]
            self._texts = text_fields or {k: k for k in words if k not in fields.ID_FIELDS}
            for feature in self._texts.values():
                if feature not in features:
                    raise UserError(f"{path}: no feature {feature!r} (has {', '.join(features)})")
            decoders = {self._image: tfds.decode.SkipDecoding()} if self._image else None
            self._data = builder.as_data_source(split=split, decoders=decoders)
        except UserError:
            raise
        except Exception as error:  # TFDS raises classes of its own for each of these mistakes
            text = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: TFDS cannot open split {split!r}: {text}") from None
        self._length = len(self._data)
        if not self._length:
            raise UserError(f"{path}: split {split!r} is empty or its files are missing")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._length:
            raise IndexError(index)
        try:
            example = self._data[index]
        except Exception as error:  # a broken shard or example: array_record and TFDS share no error class
            raise BadExample(self.name, index, f"cannot be read: {str(error).splitlines()[0][:160]}") from None
        image = example.get(self._image)
        name = fields.first(example, fields.ID_FIELDS)
        row = {key: self._plain(key, value) for key, value in example.items() if key != self._image}
        return Record(
            id=f"{self._split}/{index}" if name is None else (fields.strings(name) or (str(name),))[0],
            image=bytes(image) if image is not None else None,
            texts=fields.texts(row, self._texts),
            scores=fields.scores(row),
            group=fields.group(row),
        )

    def _plain(self, key: str, value: Any) -> Any:
        return self._labels[key].int2str(int(value)) if key in self._labels and int(value) >= 0 else value

    def __getstate__(self):  # the builder is opened again in a worker process
        return self._arguments

    def __setstate__(self, state):
        self.__init__(*state)
