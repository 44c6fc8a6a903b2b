"""Tiny models that exist in two libraries: our config for each, and how to run it on the other library's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mof_jax.interop.families import bert, clip, dinov2, efficientnet, llama, open_clip, siglip, timm, vit
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Reading
from mof_jax.interop.weights import Arrays
from mof_jax.models.efficientnet import EfficientNetConfig
from mof_jax.models.llm import LLMAlone, LLMConfig
from mof_jax.models.text import TextConfig
from mof_jax.models.tower import Tower, TowerConfig, Words, WordsConfig
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig
from mof_jax.models.vit import ViTConfig, resample_pos_embed
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.sigmoid import sigmoid_loss
from mof_jax.objectives.softmax import softmax_loss

FIXTURES = pathlib.Path(__file__).parent / "fixtures"

WIDTH, HEADS, DEPTH, HIDDEN = 16, 2, 2, 32
IMAGE, PATCH, VOCAB, CONTEXT, EMBED, BATCH = 24, 8, 40, 8, 12, 5
EOS = VOCAB - 1

_image = functools.partial(ViTConfig, width=WIDTH, depth=DEPTH, heads=HEADS, mlp_dim=HIDDEN, patch_size=PATCH, image_size=IMAGE)
_text = functools.partial(TextConfig, width=WIDTH, depth=DEPTH, heads=HEADS, mlp_dim=HIDDEN, vocab_size=VOCAB,
                          context_length=CONTEXT, eos_id=EOS, pad_id=EOS)
_clip = dict(activation="quick_gelu", norm_eps=1e-5)

CLIP = TwoTowerConfig(_image(pre_norm=True, patch_bias=False, **_clip), _text(**_clip), embed_dim=EMBED)
SIGLIP = TwoTowerConfig(
    _image(cls_token=False, pool="map", activation="gelu_tanh"),
    _text(causal=False, pool="last", activation="gelu_tanh", embed_dim=WIDTH, embed_bias=True),
    logit_scale_init=10.0, logit_bias_init=-10.0)
DINOV2 = _image(layer_scale=1.0)
# Four query heads share two; heads are wider than width / heads for Mistral.
LLAMA = LLMConfig(vocab_size=VOCAB, width=WIDTH, depth=DEPTH, heads=4, kv_heads=2, mlp_dim=HIDDEN, rope_theta=100.0)
BERT = WordsConfig(_text(causal=False, mask_padding=True, pool="gap", post_norm=True, token_types=2, norm_eps=1e-12, eos_id=-1))
THIN = (0.1, 0.3)  # factors of an EfficientNet whose channels are 8 to 32
EFFICIENTNET = TowerConfig(EfficientNetConfig(width_factor=THIN[0], depth_factor=THIN[1], image_size=IMAGE))


class Case(NamedTuple):
    """Our config, and the table that names its weights in the other library."""

    config: TwoTowerConfig | TowerConfig | WordsConfig | LLMConfig
    table: Table


def _dinov2(**change: Any) -> Case:
    config = TowerConfig(dataclasses.replace(DINOV2, **change))
    return Case(config, dinov2.DINOV2.table(config))


CASES: dict[str, Case] = {
    "clip": Case(CLIP, clip.TABLE),
    "siglip": Case(SIGLIP, siglip.TABLE),
    "dinov2": _dinov2(),
    "dinov2_registers": _dinov2(registers=3),
    "dinov2_swiglu": _dinov2(swiglu=True, activation="silu", mlp_dim=24),
    "vit": Case(TowerConfig(_image(norm_eps=1e-12)), vit.TABLE),
    "vit_mae": Case(TowerConfig(_image(norm_eps=1e-12)), vit.TABLE),
    "bert": Case(BERT, bert.TABLE),
    "efficientnet": Case(EFFICIENTNET, efficientnet.table(EFFICIENTNET)),
    "llama": Case(LLAMA, llama.TABLE),
    "mistral": Case(dataclasses.replace(LLAMA, head_dim=6), llama.TABLE),
    "qwen2": Case(dataclasses.replace(LLAMA, qkv_bias=True, tied=True, norm_eps=1e-6), llama.TABLE),
    "qwen3": Case(dataclasses.replace(LLAMA, qk_norm=True, norm_eps=1e-6), llama.TABLE),
    "open_clip": Case(CLIP, open_clip.TABLE),
    "open_clip_custom_text": Case(CLIP, open_clip.TABLE),
    "timm": Case(TowerConfig(_image()), timm.TABLE),
    "timm_gap": Case(TowerConfig(_image(cls_token=False, pool="gap")), timm.TABLE),
}


class Sample(NamedTuple):
    """One run of the other library: its weights by its own names, what went in, what came out."""

    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def save(self, path: pathlib.Path) -> None:
        flat = {f"{part}/{name}": x for part, arrays in self._asdict().items() for name, x in arrays.items()}
        np.savez_compressed(path, allow_pickle=False, **flat)

    @classmethod
    def load(cls, path: pathlib.Path) -> Sample:
        parts: dict[str, dict[str, np.ndarray]] = {field: {} for field in cls._fields}
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                part, _, name = key.partition("/")
                parts[part][name] = file[key]
        return cls(**parts)


def inputs(seed: int, kind: str) -> dict[str, np.ndarray]:
    """Normalised pictures [batch, height, width, 3] and, for a two-tower model, tokens that end at different places.

    For a language model: tokens, and `segment_ids` and `positions` of documents that are packed into the same rows.
    """
    rng = np.random.default_rng(seed)
    if isinstance(CASES[kind].config, LLMConfig):
        tokens = rng.integers(0, VOCAB, (BATCH, 2 * CONTEXT)).astype(np.int32)
        segments = np.sort(rng.integers(1, 4, tokens.shape), axis=1).astype(np.int32)
        starts = np.stack([np.searchsorted(row, row) for row in segments])
        return {"tokens": tokens, "segment_ids": segments, "positions": (np.arange(2 * CONTEXT) - starts).astype(np.int32)}
    images = rng.standard_normal((BATCH, IMAGE, IMAGE, 3)).astype(np.float32)
    if isinstance(CASES[kind].config, TowerConfig):
        return {"images": images}
    tokens = rng.integers(1, EOS, (BATCH, CONTEXT)).astype(np.int32)
    ends = rng.permutation(CONTEXT - 1)[:BATCH] + 1
    words = {"tokens": np.where(np.arange(CONTEXT) >= ends[:, None], EOS, tokens).astype(np.int32)}
    return words if isinstance(CASES[kind].config, WordsConfig) else {"images": images} | words


def ours(kind: str, sample: Sample, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Our model with the sample's weights on the sample's inputs."""
    skeleton, run = _compiled(kind, dtype)
    reading = Reading(CASES[kind].table, skeleton.shapes, Arrays(sample.weights))
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, run({path: reading.read(path) for path in reading.paths}, sample.inputs))


@functools.cache
def _compiled(kind: str, dtype: str) -> tuple[Skeleton, Callable]:
    config = CASES[kind].config
    forward, build = _FORWARD[type(config)]
    skeleton = Skeleton.of(lambda rngs: build(config, rngs))
    run = lambda params, inputs: forward(skeleton.merge(params), inputs, jnp.dtype(dtype))
    return skeleton, jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})  # quick to compile


def _two_tower(model: TwoTower, inputs: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    model.config = dataclasses.replace(model.config, dtype=dtype.name)
    image, text = model.embed_image(inputs["images"]), model.embed_text(inputs["tokens"])
    logits = model.scale * image @ text.T
    bias = 0.0 if model.logit_bias is None else model.logit_bias[...]
    return {"image": image, "text": text, "logits": logits + bias}


def _tower(model: Tower, inputs: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    out = model.encoder(inputs["images"], dtype=dtype)
    return {"tokens": out.tokens.astype(jnp.float32), "pooled": out.pooled.astype(jnp.float32)}


def _words(model: Words, inputs: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    model.config = dataclasses.replace(model.config, dtype=dtype.name)
    return {"text": model.embed_text(inputs["tokens"])}


def _llm(model: LLMAlone, inputs: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    model = model.llm
    x, rows = model.embed(inputs["tokens"]), jnp.broadcast_to(jnp.arange(2 * CONTEXT), inputs["tokens"].shape)
    logits = model.logits(model(x, rows, dtype=dtype))
    return {"logits": logits, "packed": model.logits(model(x, inputs["positions"], inputs["segment_ids"], dtype=dtype))}


_FORWARD: dict[type, tuple[Callable, Callable]] = {
    TwoTowerConfig: (_two_tower, TwoTower), TowerConfig: (_tower, Tower), WordsConfig: (_words, Words),
    LLMConfig: (_llm, LLMAlone)}

# --- losses and positions -----------------------------------------------------------------------------------------------

LOSSES = {
    "softmax": lambda image, text, scale, bias: softmax_loss(image, text, scale),
    "sigmoid": lambda image, text, scale, bias: sigmoid_loss(image, text, scale, bias),
}


def loss_inputs(seed: int, pairs: int = 12, dim: int = 8) -> dict[str, np.ndarray]:
    """Unit features whose partners are alike, a multiplier and a bias."""
    rng = np.random.default_rng(seed)
    image, noise = rng.standard_normal((2, pairs, dim))
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return {"image": unit(image), "text": unit(image + noise), "scale": np.float32(rng.uniform(5, 50)),
            "bias": np.float32(rng.uniform(-10, 0))}


def our_loss(kind: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean loss and its gradient in every input."""

    def mean(given: Mapping[str, Any]) -> Any:
        loss = LOSSES[kind](given["image"], given["text"], given["scale"], given["bias"])
        return loss.sum / loss.weight

    with jax.default_matmul_precision("highest"):
        value, grads = jax.jit(jax.value_and_grad(mean))(dict(given))
    return {"value": np.asarray(value)} | {f"d_{name}": np.asarray(g) for name, g in grads.items()}


# Finer, coarser and not square, from a 4 x 4 grid with one prefix token.
GRIDS = {"finer": (7, 7), "coarser": (3, 3), "oblong": (3, 6)}


def our_positions(pos: np.ndarray) -> dict[str, np.ndarray]:
    """Position embeddings at each of `GRIDS`."""
    return {name: np.asarray(resample_pos_embed(jnp.asarray(pos), grid, prefix=1)) for name, grid in GRIDS.items()}


def check(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> None:
    """Every wanted array, to `tolerance` of its largest entry."""
    assert set(want) <= set(got) and want
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        worst = np.abs(got[name] - expected).max()
        assert worst <= tolerance * np.abs(expected).max(), f"{name}: {worst} of {np.abs(expected).max()}"
