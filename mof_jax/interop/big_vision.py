"""SigLIP as `big_vision` stores it (`.npz`), under the names of `transformers`: from there on it is a model of family `siglip`.

    params/img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel [w, mlp]         vision_model.encoder.layers.0.mlp.fc1.weight
    params/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel [layers, w, mlp]   the same where layers were scanned

Nothing else describes the model: its sizes are those of the arrays, heads included. A member is a zip entry of one array; it is
opened without pickle, and its header and sizes are checked before any of it is unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import functools
import math
import re
from typing import Any, NamedTuple
import zipfile

import numpy as np

from mof_jax.data import remote
from mof_jax.errors import UserError
from mof_jax.interop.safetensors import Entry
from mof_jax.interop.weights import Weights

_UNPACKED = 20  # times the size of the file that its members may take: more is no model but a bomb
_ASIDE = ("opt/", "chrono/")  # of the training run
_FLOATS = ("float16", "float32", "float64")

Shape = tuple[int, ...]


class Made(NamedTuple):
    """A tensor of theirs: its shape, the members it is made of, how, and which layer of them."""

    shape: Shape
    members: tuple[str, ...]
    how: Callable[..., np.ndarray]
    layer: int | None


class BigVision(Weights):
    """The arrays of a file, by the names that `transformers` gives them.

    Attributes:
      theirs: the `config.json` of that library for this model.
    """

    def __init__(self, path: str):
        self._path, self._members = path, _headers(path)
        made = dict(_towers(self._members, path))
        left = set(self._members) - {name for m in made.values() for name in m.members}
        if left:
            raise UserError(f"{path}: nothing reads {', '.join(sorted(left)[:3])}; the file holds another model than a SigLIP")
        dtypes = {name: self._members[m.members[0]][1] for name, m in made.items()}
        super().__init__(path, {name: (path, Entry(m.shape, dtypes[name], 0, math.prod(m.shape) * dtypes[name].itemsize))
                                for name, m in made.items()})
        self._made, self.theirs = made, _config(self._members, path)
        self._member = functools.lru_cache(4)(self._unpack)  # a scanned array is asked for layer after layer

    def read(self, name: str) -> np.ndarray:
        self._find(name)
        shape, members, how, layer = self._made[name]
        parts = [self._member(member) for member in members]
        return how(*(x if layer is None else x[layer] for x in parts)).reshape(shape)

    def _unpack(self, member: str) -> np.ndarray:
        try:
            with zipfile.ZipFile(self._path) as file, file.open(self._members[member][2]) as f:
                return np.lib.format.read_array(f, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{self._path}: {member} cannot be read ({error}); fetch the file again") from None


def _headers(path: str) -> dict[str, tuple[Shape, np.dtype, str]]:
    """(shape, dtype, zip entry) of every parameter, by its name without `params/`.

    Raises:
      UserError: no zip file, an entry that is no array of floats, or one whose size is not what its header says.
    """
    size, found = remote.size(path), {}
    try:
        with zipfile.ZipFile(path) as file:
            if sum(info.file_size for info in file.infolist()) > _UNPACKED * size:
                raise UserError(f"{path}: unpacks to more than {_UNPACKED} times its size; no model does")
            for info in file.infolist():
                name = info.filename.removesuffix(".npy")
                if name.startswith(_ASIDE):
                    continue
                with file.open(info) as f:
                    version = np.lib.format.read_magic(f)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(f)
                    size_of_it = math.prod(shape) * dtype.itemsize
                    if dtype.name not in _FLOATS or not size_of_it or info.file_size - f.tell() != size_of_it:
                        raise UserError(f"{path}: {name} holds {dtype}{list(shape)} in {info.file_size:,} bytes; floats are "
                                        "read, in as many bytes as they take")
                found[name.removeprefix("params/")] = shape, dtype, info.filename
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: not a .npz file, or damaged ({str(error)[:120]})") from None
    return found


def _towers(members: Mapping[str, Any], path: str) -> Iterator[tuple[str, Made]]:
    """(their name, what it is made of) of the whole model."""

    def shape(name: str, layer: int | None = None) -> Shape:
        if name not in members:
            raise UserError(f"{path}: has no {name}; of big_vision's models, SigLIP's two towers are read")
        return members[name][0] if layer is None else members[name][0][1:]

    def one(theirs: str, names: list[str], how: Callable[..., np.ndarray], layer: int | None = None):
        shapes = [shape(name, layer) for name in names]
        # No value is needed to know what becomes of a shape.
        made = how(*(np.broadcast_to(np.float32(0), s) for s in shapes))
        yield theirs, Made(made.shape, tuple(names), how, layer)

    same = lambda x: x
    flat = lambda x: x.reshape(-1)
    first = lambda x: x[0]
    dense = lambda x: x.reshape(x.shape[0], -1).T
    back = lambda x: x.reshape(-1, x.shape[-1]).T

    def linear(theirs: str, name: str, layer: int | None = None, how: Callable = dense):
        yield from one(f"{theirs}.weight", [f"{name}/kernel"], how, layer)
        yield from one(f"{theirs}.bias", [f"{name}/bias"], flat, layer)

    def norm(theirs: str, name: str, layer: int | None = None):
        yield from one(f"{theirs}.weight", [f"{name}/scale"], same, layer)
        yield from one(f"{theirs}.bias", [f"{name}/bias"], same, layer)

    def mlp(theirs: str, name: str, layer: int | None = None):
        yield from linear(f"{theirs}.fc1", f"{name}/MlpBlock_0/Dense_0", layer)
        yield from linear(f"{theirs}.fc2", f"{name}/MlpBlock_0/Dense_1", layer)

    def blocks(theirs: str, encoder: str):
        for i, (name, layer) in enumerate(_layers(members, encoder)):
            here, attention = f"{theirs}.encoder.layers.{i}", f"{name}/MultiHeadDotProductAttention_0"
            for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
                yield from linear(f"{here}.self_attn.{letter}_proj", f"{attention}/{word}", layer)
            yield from linear(f"{here}.self_attn.out_proj", f"{attention}/out", layer, back)
            yield from norm(f"{here}.layer_norm1", f"{name}/LayerNorm_0", layer)
            yield from norm(f"{here}.layer_norm2", f"{name}/LayerNorm_1", layer)
            yield from mlp(f"{here}.mlp", name, layer)

    yield from linear("vision_model.embeddings.patch_embedding", "img/embedding", how=lambda x: x.transpose(3, 2, 0, 1))
    yield from one("vision_model.embeddings.position_embedding.weight", ["img/pos_embedding"], first)
    yield from blocks("vision_model", "img/Transformer")
    yield from norm("vision_model.post_layernorm", "img/Transformer/encoder_norm")
    head, attention = "vision_model.head", "img/MAPHead_0/MultiHeadDotProductAttention_0"
    three = lambda leaf: [f"{attention}/{word}/{leaf}" for word in ("query", "key", "value")]
    yield from one(f"{head}.probe", ["img/MAPHead_0/probe"], same)
    yield from one(f"{head}.attention.in_proj_weight", three("kernel"), lambda *x: np.concatenate([dense(y) for y in x]))
    yield from one(f"{head}.attention.in_proj_bias", three("bias"), lambda *x: np.concatenate([flat(y) for y in x]))
    yield from linear(f"{head}.attention.out_proj", f"{attention}/out", how=back)
    yield from norm(f"{head}.layernorm", "img/MAPHead_0/LayerNorm_0")
    yield from mlp(f"{head}.mlp", "img/MAPHead_0")
    yield from one("text_model.embeddings.token_embedding.weight", ["txt/Embed_0/embedding"], same)
    yield from one("text_model.embeddings.position_embedding.weight", ["txt/pos_embedding"], first)
    yield from blocks("text_model", "txt/Encoder_0")
    yield from norm("text_model.final_layer_norm", "txt/Encoder_0/encoder_norm")
    yield from linear("text_model.head", "txt/head")
    yield from one("logit_scale", ["t"], same)  # both libraries store the logarithm
    yield from one("logit_bias", ["b"], same)


def _layers(members: Mapping[str, Any], encoder: str) -> list[tuple[str, int | None]]:
    """(name, layer of its arrays) of each block; a scanned encoder has one name for all."""
    scanned = f"{encoder}/encoderblock/LayerNorm_0/scale"
    if scanned in members:
        return [(f"{encoder}/encoderblock", i) for i in range(members[scanned][0][0])]
    found = {int(m[1]) for name in members if (m := re.match(rf"{encoder}/encoderblock_(\d+)/", name))}
    return [(f"{encoder}/encoderblock_{i}", None) for i in sorted(found)]


def _config(members: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The config of `transformers`, from the shapes of arrays that `_towers` has found."""

    def tower(encoder: str) -> dict[str, Any]:
        layers = _layers(members, encoder)
        name, layer = layers[0] if layers else (f"{encoder}/encoderblock_0", None)
        of = lambda leaf: members[f"{name}/{leaf}"][0][0 if layer is None else 1:]
        width, heads, _ = of("MultiHeadDotProductAttention_0/query/kernel")
        return dict(hidden_size=width, num_hidden_layers=len(layers), num_attention_heads=heads,
                    intermediate_size=of("MlpBlock_0/Dense_0/kernel")[1])

    try:
        patch, positions = members["img/embedding/kernel"][0][0], members["img/pos_embedding"][0][1]
        return dict(
            model_type="siglip", vision_config=tower("img/Transformer") | dict(
                model_type="siglip_vision_model", patch_size=patch, image_size=patch * math.isqrt(positions)),
            text_config=tower("txt/Encoder_0") | dict(
                model_type="siglip_text_model", vocab_size=members["txt/Embed_0/embedding"][0][0],
                max_position_embeddings=members["txt/pos_embedding"][0][1], projection_size=members["txt/head/kernel"][0][1]))
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path}: the arrays of its towers are not those of a SigLIP ({error})") from None
