"""A foreign model, opened: its family, its config and its tensors as ours. No tensor is read before it is asked for."""

from __future__ import annotations

from collections import Counter
import dataclasses
import functools
import os
import re
from typing import Any

import jax

from mof_jax import storage
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.errors import UserError
from mof_jax.interop import big_vision, preprocess, sentences, words
from mof_jax.interop.big_vision import BigVision
from mof_jax.interop.families import family_of, recognise, timm
from mof_jax.interop.families.open_clip import OPEN_CLIP
from mof_jax.interop.families.siglip import SIGLIP
from mof_jax.interop.family import Family
from mof_jax.interop.preprocess import Processing
from mof_jax.interop.transfer import Reading
from mof_jax.interop.weights import FILES, PICKLES, WEIGHTS, Weights, read_json
from mof_jax.models.image_tower import ImageTowerConfig
from mof_jax.models.mllm import MllmConfig
from mof_jax.models.tower import WordsConfig
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.nn.module import Skeleton
from mof_jax.parsing import reason

PREFIX = "hf:"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# Where no processor file says otherwise: ImageNet's, with which DINOv2 was trained, and the halves of SigLIP and ViT.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_ONE_SIZE = ("clip", "siglip", "vit", "llava")  # families whose library does not resample positions unasked


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened model of another library.

    Attributes:
      where: its folder or file. family: its format.
      theirs: its config file. config: the same as ours, with the normalisation of its processor file.
      reading: its tensors as our parameters, all checked.
      processing: what becomes of a picture, None for a model without eyes. tokenizer: None where there is none.
      files: small files that travel in a checkpoint, by name.
    """

    where: str
    family: Family
    theirs: dict[str, Any]
    config: Any
    weights: Weights
    reading: Reading
    processing: Processing | None
    files: dict[str, Any]

    @classmethod
    def open(cls, spec: str) -> Source:
        """The model at `hf:PATH_OR_ID`.

        Raises:
          UserError: nothing there, a format that is not read here, or a file that does not fit its config.
        """
        path = locate(spec)
        folder = _folder(path)
        weights = BigVision(path) if path.endswith(big_vision.SUFFIX) else None
        family, theirs = _identify(path, folder) if weights is None else (SIGLIP, weights.theirs)
        if family.name == "open_clip" and path == folder:
            path = storage.join(folder, family.weights_file)
        config = family.parse(theirs, storage.join(folder, family.config_file))
        try:
            processing, files = _processing(folder, family, theirs, config)
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{folder}: its processor file is malformed ({reason(error)})") from None
        if processing is not None:
            config = with_normalisation(config, processing)
        if family.name == "bert":
            config = _as_sentences(folder, config)
        weights = weights or Weights.open(path)
        config = family.settle(config, weights)
        shapes = Skeleton.of(lambda rngs: family.build(config, rngs)).shapes
        reading = Reading(family.table(config), shapes, weights, family.ignored(config))
        patch = getattr(eyes(config), "patch_size", 1)
        if processing is not None and processing.image_size % patch:
            raise UserError(f"{folder}: its processor makes pictures of {processing.image_size} pixels, which patches of {patch} "
                            "do not divide")
        if processing is not None and family.name in _ONE_SIZE and processing.image_size != eyes(config).image_size:
            raise UserError(f"{folder}: its processor makes pictures of {processing.image_size} pixels, and its model takes "
                            f"{eyes(config).image_size}; its library refuses such pictures")
        return cls(path, family, theirs, config, weights, reading, processing, files)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer, if there is a file of it."""
        return words.read_tokenizer(_folder(self.where), self.family.name, self.config, self.theirs)

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Our parameters, as its own config has them."""
        return dict(self.reading.shapes)

    @property
    def notes(self) -> list[str]:
        """What a user should know, a line each."""
        return [*self.family.notes(self.theirs), *(self.processing.notes if self.processing else ())]

    def travel(self) -> dict[str, Any]:
        """What a checkpoint keeps for the way back, as JSON: config and small files, and the dtypes as they came."""
        dtypes = self.reading.dtypes()
        default = Counter(dtypes.values()).most_common(1)[0][0]
        others = {name: dtype for name, dtype in dtypes.items() if dtype != default}
        layout = {"layout": self.weights.layout._asdict()} if isinstance(self.weights, BigVision) else {}
        return {"family": self.family.name, "config": self.theirs, "dtype": default, "dtypes": others, "files": self.files,
                "spelling": self.reading.spelling(), **layout}


def is_foreign(path: str) -> bool:
    """Whether a path names a model of another library."""
    return path.startswith(PREFIX)


def locate(spec: str) -> str:
    """The folder or file that `hf:…` stands for; a hub's model is downloaded.

    Raises:
      UserError: there is no such path, and no such model that could be fetched.
    """
    name = spec.removeprefix(PREFIX)
    if storage.exists(name):
        return name.rstrip("/")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        raise UserError(f"{spec}: no such file or folder")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{spec}: no such folder; to fetch it from the hub, pip install 'mof_jax[hf]'") from None
    repo, _, revision = name.partition("@")
    try:
        return huggingface_hub.snapshot_download(
            repo, revision=revision or None, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt"])
    except Exception as error:  # noqa: BLE001  requests', the hub's own, and OSError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{spec}: no such folder, and the hub did not give it ({reason}); fetch it elsewhere and give its "
                        "folder") from None


def _as_sentences(folder: str, config: WordsConfig) -> WordsConfig:
    """A BERT that pools as the files of sentence-transformers say, and hides what the tokenizer beside it pads with.

    Raises:
      UserError: such files that ask for something else.
    """
    text = dataclasses.replace(config.text, pool=sentences.pool_of(folder))
    tokenizer = words.read_tokenizer(folder, "bert", config)
    if tokenizer is not None:
        text = dataclasses.replace(text, pad_id=tokenizer.pad_id)
    return dataclasses.replace(config, text=text)


def _folder(path: str) -> str:
    """Where the small files beside the weights lie."""
    return os.path.dirname(path) or "." if path.endswith((*FILES, big_vision.SUFFIX)) else path


def eyes(config: Any) -> ImageTowerConfig | None:
    """The image tower of a model, if it has one."""
    if isinstance(config, MllmConfig):
        return config.encoders[0].vit if config.encoders else None
    return getattr(config, "image", None) or getattr(config, "encoder", None)


def with_normalisation(config: Any, processing: Processing) -> Any:
    """The config of a model with eyes, its tower normalising as the processor does."""
    tower = dataclasses.replace(eyes(config), mean=processing.mean, std=processing.std)
    if isinstance(config, MllmConfig):
        return dataclasses.replace(config, encoders=(dataclasses.replace(config.encoders[0], vit=tower), *config.encoders[1:]))
    return dataclasses.replace(config, **{"image" if hasattr(config, "image") else "encoder": tower})


def with_words(config: Any, tokenizer: Tokenizer | None) -> Any:
    """The config of a model, with what its tokenizer decides."""
    if isinstance(config, TwoTowerConfig | WordsConfig):
        return config.with_tokenizer(tokenizer)
    return config.with_vocabulary(tokenizer.vocab_size) if isinstance(config, MllmConfig) else config


def _identify(path: str, folder: str) -> tuple[Family, dict[str, Any]]:
    """The family, and the config file as it is. Where a folder has both formats, the one whose weights are there."""
    both = {name: storage.exists(storage.join(folder, name)) for name in ("config.json", OPEN_CLIP.config_file)}
    open_clip = path.endswith(OPEN_CLIP.weights_file) or not any(
        storage.exists(storage.join(folder, name)) for name in ("model.safetensors", "model.safetensors.index.json"))
    if both[OPEN_CLIP.config_file] and (open_clip or not both["config.json"]):
        return OPEN_CLIP, read_json(storage.join(folder, OPEN_CLIP.config_file))
    if not both["config.json"]:
        there = path != folder or any(storage.exists(storage.join(folder, name)) for name in (*WEIGHTS, *PICKLES))
        found = recognise(Weights.open(path)) if there else None
        if found is not None:
            return found
        raise UserError(f"{folder}: no config.json there; weights alone do not say what model they are of")
    theirs = read_json(storage.join(folder, "config.json"))
    return family_of(theirs, storage.join(folder, "config.json")), theirs


def _processing(
    folder: str, family: Family, theirs: dict[str, Any], config: Any
) -> tuple[Processing | None, dict[str, Any]]:
    """(what becomes of pictures, small files that travel)."""
    names = [name for name in PROCESSORS if storage.exists(storage.join(folder, name))]
    files = {name: read_json(storage.join(folder, name)) for name in names} | words.read_kept(folder)
    if family.name == "open_clip":
        size = config.image.image_size
        cfg = theirs.get("preprocess_cfg")
        where = storage.join(folder, OPEN_CLIP.config_file)
        return preprocess.read_open_clip({} if cfg is None else cfg, size, where), files
    tower = eyes(config)
    if tower is None:
        return None, files
    if family.name == "timm":
        return timm.read_processing(theirs, tower.image_size, storage.join(folder, family.config_file)), files
    for name in PROCESSORS:
        if name in files and (name == PROCESSORS[0] or files[name].get("image_processor") is not None):
            return preprocess.read_hf(files[name], storage.join(folder, name), family.name), files
    mean, std = {"dinov2": _IMAGENET, "siglip": _HALF, "vit": _HALF}.get(family.name, (tower.mean, tower.std))
    resize = "squash" if family.name == "siglip" else "crop"
    note = "no preprocessor_config.json beside it: pictures are prepared as its family does by default"
    return Processing(tower.image_size, resize, "bicubic", mean, std, (note,)), files

