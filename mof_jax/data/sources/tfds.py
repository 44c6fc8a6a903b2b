"""TFDS data sets prepared in ArrayRecord format, read without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import os
from typing import Any, ClassVar

import numpy as np

from mof_jax import storage
from mof_jax.data.record import Record
from mof_jax.data.sources import fields
from mof_jax.data.sources.config import FileConfig
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, parse_json, reason, show

_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # of features.json, and of its older form


@dataclasses.dataclass(frozen=True)
class TfdsConfig(FileConfig):
    """A data set of TensorFlow Datasets that is prepared in ArrayRecord format.

    Attributes:
      path: its folder, or its TFDS name. split: slices included (`train[:10%]`).
      image_field: feature with the image; by default the first one.
      text_fields: caption kind to feature, e.g. `{"alt": "caption"}`; by default every feature of texts.
    """

    kind: ClassVar[str] = "tfds"

    split: str = "train"
    image_field: str = ""
    text_fields: dict[str, str] = dataclasses.field(default_factory=dict)

    def open(self) -> TfdsSource:
        return TfdsSource(self.path, self.split, self.label, self.image_field, self.text_fields)


class TfdsSource:
    """A split of a prepared TFDS data set; images stay encoded.

    Text features become captions under their own names, lists of texts too (`captions` of coco_captions, a list of objects with
    one text each), class labels become the name of the class.

    Args:
      path: the folder of a prepared data set (`.../name/version`), or a TFDS name that is prepared in its data folder.
      split: a split, slices included (`train[:10%]`).
      image_field: the image feature; by default the first one.
      text_fields: caption kind -> feature (`captions/text` for one inside another); by default every feature of texts, and the
        class labels where no feature is a list of texts, or another is a text.

    Raises:
      UserError: not prepared, not in ArrayRecord format, no such split or feature, or a feature that is named and holds no text.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        image_field: str = "",
        text_fields: Mapping[str, str] | None = None,
    ):
        if storage.is_remote(path):
            raise UserError(f"{path}: copy a TFDS data set to a local disk, or convert it with `mof data convert`")
        self._arguments = (path, split, name, image_field, dict(text_fields or {}))
        self.name = name or f"{os.path.basename(path.rstrip('/'))}/{split}"
        self._split = split
        self._open(path, split, image_field, dict(text_fields or {}))

    def _open(self, path: str, split: str, image_field: str, text_fields: dict[str, str]) -> None:
        if os.path.isdir(path):
            _check_classes(os.path.join(path, "features.json"))
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(path) if os.path.isdir(path) else tfds.builder(path)
            features = dict(builder.info.features)
            images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
            self._image = image_field or (images[0] if images else "")
            if self._image and self._image not in features:
                raise UserError(f"{path}: no feature {self._image!r} (has {', '.join(features)})")
            self._texts = {kind: _text_path(path, feature, features) for kind, feature in text_fields.items()}
            self._texts = self._texts or _usual_texts(path, features)
            self._labels = {p: f for p in self._texts.values() if (f := _label(_at(p, features))) is not None}
            decoders = {self._image: tfds.decode.SkipDecoding()} if self._image else None
            self._data = builder.as_data_source(split=split, decoders=decoders)
            self._folder = str(builder.data_path)
        except UserError:
            raise
        except Exception as error:  # TFDS raises classes of its own for each of these mistakes
            text = " ".join(str(error).split())[:300] or type(error).__name__
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
            raise BadExample(self.name, index, f"cannot be read: {reason(error)}") from None
        image = example.get(self._image)
        where = f"{self._split}/{index}"
        try:
            if not isinstance(image, bytes | None):
                raise Malformed(f"feature {self._image!r} holds {type(image).__name__}, no picture")
            row = {path: self._plain(path, example) for path in self._texts.values()}
            return Record(
                id=fields.name(example) or where,
                image=image,
                texts=fields.texts(row, self._texts),
                scores=fields.scores(example),
                group=fields.group(example),
            )
        except Malformed as error:
            raise BadExample(self.name, where, str(error)) from None

    @property
    def content(self) -> str:
        """Changes with the data set's files."""
        files = sorted(os.listdir(self._folder))
        marks = [storage.fingerprint(os.path.join(self._folder, file)) for file in files]
        return hashlib.sha256(repr((self._split, marks)).encode()).hexdigest()[:12]

    def _plain(self, path: str, example: Mapping[str, Any]) -> Any:
        """The value at a path; numbers of classes become their names, one without a class (-1) stays a missing text.

        Raises:
          Malformed: no number, or one beyond the names of the classes.
        """
        value: Any = example
        for part in path.split("/"):
            value = value[part]
        if path not in self._labels:
            return value
        try:
            names = [self._labels[path].int2str(int(n)) for n in np.atleast_1d(value) if int(n) >= 0]
        except (TypeError, ValueError, IndexError):
            raise Malformed(f"feature {path!r} has a class without a name: {show(np.ravel(value).tolist())}") from None
        return names if np.ndim(value) else (names[0] if names else None)

    def __getstate__(self):  # the builder is opened again in a worker process
        return self._arguments

    def __setstate__(self, state):
        self.__init__(*state)


def _check_classes(path: str) -> None:
    """Of a data set's features: TFDS imports the module that a feature names as its class, whichever that is.

    Raises:
      UserError: one that is not of TFDS; or the file is damaged.
    """
    if not os.path.isfile(path):
        return
    try:
        waiting = [parse_json(storage.read(path))]
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    while waiting:
        value = waiting.pop()
        for key, inner in value.items() if isinstance(value, dict) else ():
            named = key in _CLASS_KEYS and isinstance(inner, str) and "." in inner
            if named and not inner.startswith("tensorflow_datasets."):
                raise UserError(f"{path}: a feature of class {show(inner)}, which is not of TFDS: its module is not imported; "
                                "convert the data set where it was made")
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _inner(feature: Any) -> tuple[Any, bool]:
    """A feature without the list around it, and whether there was one."""
    inside = getattr(feature, "feature", None)
    return (feature, False) if inside is None else (inside, True)


def _at(path: str, features: Mapping[str, Any]) -> Any:
    """The feature at a path, None where there is none."""
    found: Any = features
    for part in path.split("/"):
        found = found if isinstance(found, Mapping) else _parts(found)
        found = found.get(part) if found is not None else None
        if found is None:
            return None
    return found


def _parts(feature: Any) -> dict[str, Any] | None:
    inside = _inner(feature)[0]
    return dict(inside) if isinstance(inside, Mapping) or hasattr(inside, "keys") else None


def _label(feature: Any) -> Any:
    import tensorflow_datasets as tfds

    inside = _inner(feature)[0]
    return inside if isinstance(inside, tfds.features.ClassLabel) else None


def _words(name: str, feature: Any) -> list[str]:
    """Paths of the texts in a feature: itself, or those inside."""
    import tensorflow_datasets as tfds

    inside = _inner(feature)[0]
    if isinstance(inside, tfds.features.Text):
        return [name]
    return [path for part, value in (_parts(feature) or {}).items() for path in _words(f"{name}/{part}", value)]


def _text_path(path: str, named: str, features: Mapping[str, Any]) -> str:
    """The path of a feature that the user named, or of the one text inside it.

    Raises:
      UserError: no such feature, one without text, or one with several.
    """
    feature = _at(named, features)
    if feature is None:
        raise UserError(f"{path}: no feature {named!r} (has {', '.join(features)})")
    found = [named] if _label(feature) is not None else _words(named, feature)
    if len(found) != 1:
        texts = [p for name, f in features.items() for p in _words(name, f)]
        what = f"holds several texts; name one of {', '.join(found)}" if found else "holds no text"
        raise UserError(f"{path}: feature {named!r} {what} (texts: {', '.join(texts) or 'none'})")
    return found[0]


def _usual_texts(path: str, features: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, feature in features.items():
        if name not in fields.ID_FIELDS and (words := _words(name, feature)):
            if len(words) > 1:
                raise UserError(f"{path}: feature {name!r} holds several texts; choose with text_fields among {', '.join(words)}")
            found[name] = words[0]
    plain = [name for name in found if not _inner(features[name])[1] and found[name] == name]
    labels = {name: name for name, f in features.items() if _label(f) is f} if plain or not found else {}
    return {name: (found | labels)[name] for name in features if name in found or name in labels}
