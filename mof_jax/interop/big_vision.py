"""SigLIP as `big_vision` stores it (`.npz`), under the names of `transformers`: from there on it is a model of family `siglip`.

    params/img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel [w, mlp]         vision_model.encoder.layers.0.mlp.fc1.weight
    params/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel [layers, w, mlp]   the same where layers were scanned

One table of rows, read in both directions. Nothing but its arrays describes a stored model: the sizes are theirs, heads included.
A member is a zip entry of one array; it is opened without pickle, and its header and sizes are checked before any of it is
unpacked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
import functools
import lzma
import math
import re
import struct
from typing import Any, NamedTuple
import zipfile
import zlib

import numpy as np

from mof_jax import storage
from mof_jax.data.files.npy import parse_npy, read_header
from mof_jax.errors import UserError
from mof_jax.interop.safetensors import Entry
from mof_jax.interop.weights import Weights
from mof_jax.parsing import Malformed, reason

SUFFIX = ".npz"
_UNPACKED = 20  # times the size of the file that its members may take: more is no model but a bomb
_ASIDE = ("opt/", "chrono/")  # of the training run
_FLOATS = ("float16", "float32", "float64")
# What zipfile and its decompressors raise of a damaged or hostile file; `Malformed` is a ValueError.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, IndexError, OverflowError, MemoryError, struct.error, zlib.error,
            lzma.LZMAError, zipfile.BadZipFile)

Shape = tuple[int, ...]
Header = tuple[Shape, np.dtype, str]


class Layout(NamedTuple):
    """How a file spells its members.

    Attributes:
      scanned: one array for all layers, instead of one for each.
      prefix: of every name.
    """

    scanned: bool = False
    prefix: str = "params/"


class Row(NamedTuple):
    """A tensor of theirs and the members that hold it.

    Attributes:
      name, shape: in `transformers`.
      members: (name, shape) of each; several are its parts along the first axis.
      layer: which of a scanned member.
      turn: axes of a member's part, as a matrix where there are two, in their order; None as it is.
    """

    name: str
    shape: Shape
    members: tuple[tuple[str, Shape], ...]
    layer: int | None = None
    turn: tuple[int, ...] | None = None

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Their tensor."""
        rows = (self.shape[0] // len(parts), *self.shape[1:])
        if self.turn is None:
            return np.concatenate([x.reshape(rows) for x in parts])
        stored = tuple(rows[i] for i in np.argsort(self.turn))
        return np.concatenate([x.reshape(stored).transpose(self.turn) for x in parts])

    def split(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The members' arrays, of this layer."""
        parts = np.split(tensor.reshape(self.shape), len(self.members))
        back = [x if self.turn is None else x.transpose(np.argsort(self.turn)) for x in parts]
        return [x.reshape(shape) for x, (_, shape) in zip(back, self.members)]


_KERNEL, _PATCH = (1, 0), (3, 2, 0, 1)


class BigVision(Weights):
    """The arrays of a file, by the names that `transformers` gives them.

    Attributes:
      theirs: the `config.json` of that library for this model.
      layout: how the file spells its members.
    """

    def __init__(self, path: str):
        self._path, self._members = path, _headers(path)
        prefix = "params/" if any(name.startswith("params/") for name in self._members) else ""
        scanned = prefix + "img/Transformer/encoderblock/LayerNorm_0/scale" in self._members
        self.layout = Layout(scanned, prefix)
        self.theirs = _config(self._members, self.layout, path)
        rows = {row.name: row for row in table(self.theirs, self.layout)}
        layers = Counter(member for row in rows.values() for member, _ in row.members)
        for row in rows.values():
            for member, shape in row.members:
                whole = shape if row.layer is None else (layers[member], *shape)
                if (found := _shape(self._members, member, path)) != whole:
                    raise UserError(f"{path}: {member} is of shape {list(found)}; beside the others, {list(whole)} was expected")
        left = set(self._members) - {member for row in rows.values() for member, _ in row.members}
        if left:
            raise UserError(f"{path}: nothing reads {', '.join(sorted(left)[:3])}; the file holds another model than a SigLIP")
        dtypes = {name: self._members[row.members[0][0]][1] for name, row in rows.items()}
        super().__init__(path, {name: (path, Entry(row.shape, dtypes[name], 0, math.prod(row.shape) * dtypes[name].itemsize))
                                for name, row in rows.items()})
        self._rows = rows
        self._member = functools.lru_cache(4)(self._unpack)  # a scanned array is asked for layer after layer

    def read(self, name: str) -> np.ndarray:
        self._find(name)
        row = self._rows[name]
        parts = [self._member(member) for member, _ in row.members]
        return row.join(parts if row.layer is None else [x[row.layer] for x in parts])

    def _unpack(self, member: str) -> np.ndarray:
        try:
            with zipfile.ZipFile(self._path) as file, file.open(self._members[member][2]) as f:
                return parse_npy(f.read())
        except _DAMAGED as error:
            raise UserError(f"{self._path}: {member} cannot be read ({reason(error)}); fetch the file again") from None


def save(path: str, theirs: Mapping[str, Any], tensors: Iterable[tuple[str, np.ndarray]], layout: Layout = Layout()) -> None:
    """Writes a model, tensor by tensor; a scanned member is held until its last layer has come.

    Args:
      theirs: its `config.json`. tensors: (name, array) as `transformers` has them, in any order.

    Raises:
      UserError: a dtype that such a file cannot hold.
    """
    rows = {row.name: row for row in table(theirs, layout)}
    left = Counter(member for row in rows.values() for member, _ in row.members)
    layers, begun = dict(left), {}
    with zipfile.ZipFile(path, "w") as file:
        for name, tensor in tensors:
            if tensor.dtype.name not in _FLOATS:
                raise UserError(f"{path}: {name} is {tensor.dtype.name}, and a .npz holds {', '.join(_FLOATS)}; give --dtype f32")
            row = rows[name]
            for (member, shape), part in zip(row.members, row.split(tensor)):
                if row.layer is not None:
                    whole = begun.setdefault(member, np.empty((layers[member], *shape), part.dtype))
                    whole[row.layer], part = part, whole
                left[member] -= 1
                if not left[member]:
                    begun.pop(member, None)
                    with file.open(f"{member}.npy", "w", force_zip64=True) as f:
                        np.lib.format.write_array(f, np.ascontiguousarray(part), allow_pickle=False)


def _headers(path: str) -> dict[str, Header]:
    """(shape, dtype, zip entry) of every parameter, by its name.

    Raises:
      UserError: no zip file, an entry that is no array of floats, or one whose size is not what its header says.
    """
    size, found = storage.size(path), {}
    try:
        with zipfile.ZipFile(path) as file:
            if sum(info.file_size for info in file.infolist()) > _UNPACKED * size:
                raise UserError(f"{path}: unpacks to more than {_UNPACKED} times its size; no model does")
            for info in file.infolist():
                name = info.filename.removesuffix(".npy")
                if name.startswith(_ASIDE):
                    continue
                with file.open(info) as f:
                    try:
                        shape, _, dtype = read_header(f)
                    except Malformed as error:
                        raise UserError(f"{path}: {name} {error}") from None
                    size_of_it = math.prod(shape) * dtype.itemsize
                    if dtype.name not in _FLOATS or not size_of_it or info.file_size - f.tell() != size_of_it:
                        raise UserError(f"{path}: {name} holds {dtype}{list(shape)} in {info.file_size:,} bytes; floats are "
                                        "read, in as many bytes as they take")
                found[name] = shape, dtype, info.filename
    except _DAMAGED as error:
        raise UserError(f"{path}: not a .npz file, or damaged ({reason(error)})") from None
    return found


def _shape(members: Mapping[str, Header], name: str, path: str) -> Shape:
    if name not in members:
        raise UserError(f"{path}: has no {name}; of big_vision's models, SigLIP's two towers are read")
    return members[name][0]


def table(theirs: Mapping[str, Any], layout: Layout = Layout()) -> Iterator[Row]:
    """Every tensor of a model with this `config.json`, and where it lies."""
    vision, text, prefix = theirs["vision_config"], theirs["text_config"], layout.prefix

    def one(name: str, shape: Shape, member: str, stored: Shape, layer: int | None = None, turn: tuple[int, ...] | None = None):
        yield Row(name, shape, ((prefix + member, stored),), layer, turn)

    def linear(name: str, member: str, inputs: Shape, outputs: Shape, layer: int | None = None):
        rows, columns = math.prod(outputs), math.prod(inputs)
        yield from one(f"{name}.weight", (rows, columns), f"{member}/kernel", (*inputs, *outputs), layer, _KERNEL)
        yield from one(f"{name}.bias", (rows,), f"{member}/bias", outputs, layer)

    def norm(name: str, member: str, width: int, layer: int | None = None):
        yield from one(f"{name}.weight", (width,), f"{member}/scale", (width,), layer)
        yield from one(f"{name}.bias", (width,), f"{member}/bias", (width,), layer)

    def mlp(name: str, member: str, tower: Mapping[str, Any], layer: int | None = None):
        width, hidden = tower["hidden_size"], tower["intermediate_size"]
        yield from linear(f"{name}.fc1", f"{member}/MlpBlock_0/Dense_0", (width,), (hidden,), layer)
        yield from linear(f"{name}.fc2", f"{member}/MlpBlock_0/Dense_1", (hidden,), (width,), layer)

    def heads(tower: Mapping[str, Any]) -> tuple[int, Shape]:
        return tower["hidden_size"], (tower["num_attention_heads"], tower["hidden_size"] // tower["num_attention_heads"])

    def blocks(name: str, encoder: str, tower: Mapping[str, Any]):
        width, split = heads(tower)
        for i in range(tower["num_hidden_layers"]):
            here, block = f"{name}.encoder.layers.{i}", f"{encoder}/encoderblock" + ("" if layout.scanned else f"_{i}")
            layer, attention = i if layout.scanned else None, f"{block}/MultiHeadDotProductAttention_0"
            for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
                yield from linear(f"{here}.self_attn.{letter}_proj", f"{attention}/{word}", (width,), split, layer)
            yield from linear(f"{here}.self_attn.out_proj", f"{attention}/out", split, (width,), layer)
            yield from norm(f"{here}.layer_norm1", f"{block}/LayerNorm_0", width, layer)
            yield from norm(f"{here}.layer_norm2", f"{block}/LayerNorm_1", width, layer)
            yield from mlp(f"{here}.mlp", block, tower, layer)

    def pool(name: str, member: str, tower: Mapping[str, Any]):
        width, split = heads(tower)
        attention = f"{member}/MultiHeadDotProductAttention_0"
        three = lambda leaf, stored: tuple((f"{prefix}{attention}/{word}/{leaf}", stored) for word in ("query", "key", "value"))
        yield from one(f"{name}.probe", (1, 1, width), f"{member}/probe", (1, 1, width))
        yield Row(f"{name}.attention.in_proj_weight", (3 * width, width), three("kernel", (width, *split)), None, _KERNEL)
        yield Row(f"{name}.attention.in_proj_bias", (3 * width,), three("bias", split))
        yield from linear(f"{name}.attention.out_proj", f"{attention}/out", split, (width,))
        yield from norm(f"{name}.layernorm", f"{member}/LayerNorm_0", width)
        yield from mlp(f"{name}.mlp", member, tower)

    width, patch = vision["hidden_size"], vision["patch_size"]
    positions, words, context = (vision["image_size"] // patch) ** 2, text["hidden_size"], text["max_position_embeddings"]
    embeddings = "vision_model.embeddings"
    yield from one(f"{embeddings}.patch_embedding.weight", (width, 3, patch, patch), "img/embedding/kernel",
                   (patch, patch, 3, width), turn=_PATCH)
    yield from one(f"{embeddings}.patch_embedding.bias", (width,), "img/embedding/bias", (width,))
    yield from one(f"{embeddings}.position_embedding.weight", (positions, width), "img/pos_embedding", (1, positions, width))
    yield from blocks("vision_model", "img/Transformer", vision)
    yield from norm("vision_model.post_layernorm", "img/Transformer/encoder_norm", width)
    yield from pool("vision_model.head", "img/MAPHead_0", vision)
    embeddings, vocabulary = "text_model.embeddings", text["vocab_size"]
    yield from one(f"{embeddings}.token_embedding.weight", (vocabulary, words), "txt/Embed_0/embedding", (vocabulary, words))
    yield from one(f"{embeddings}.position_embedding.weight", (context, words), "txt/pos_embedding", (1, context, words))
    yield from blocks("text_model", "txt/Encoder_0", text)
    yield from norm("text_model.final_layer_norm", "txt/Encoder_0/encoder_norm", words)
    yield from linear("text_model.head", "txt/head", (words,), (text["projection_size"],))
    yield from one("logit_scale", (1,), "t", (1,))  # both libraries store the logarithm
    yield from one("logit_bias", (1,), "b", (1,))


def _config(members: Mapping[str, Header], layout: Layout, path: str) -> dict[str, Any]:
    """The config of `transformers`, from the shapes of the arrays."""
    shape = lambda name: _shape(members, layout.prefix + name, path)

    def tower(encoder: str) -> dict[str, Any]:
        if layout.scanned:
            block, (layers, *_) = f"{encoder}/encoderblock", shape(f"{encoder}/encoderblock/LayerNorm_0/scale")
        else:
            block = f"{encoder}/encoderblock_0"
            pattern = re.compile(rf"{layout.prefix}{encoder}/encoderblock_(\d+)/")
            layers = len({found[1] for name in members if (found := pattern.match(name))})
        of = lambda leaf: shape(f"{block}/{leaf}")[1 if layout.scanned else 0:]
        width, heads, _ = of("MultiHeadDotProductAttention_0/query/kernel")
        return dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                    intermediate_size=of("MlpBlock_0/Dense_0/kernel")[1])

    try:
        patch, positions = shape("img/embedding/kernel")[0], shape("img/pos_embedding")[1]
        return dict(
            model_type="siglip", vision_config=tower("img/Transformer") | dict(
                model_type="siglip_vision_model", patch_size=patch, image_size=patch * math.isqrt(positions)),
            text_config=tower("txt/Encoder_0") | dict(
                model_type="siglip_text_model", vocab_size=shape("txt/Embed_0/embedding")[0],
                max_position_embeddings=shape("txt/pos_embedding")[1], projection_size=shape("txt/head/kernel")[1]))
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: the arrays of its towers are not those of a SigLIP ({error})") from None
