"""`mof convert` on folders that `open_clip` and `timm` write and read: same numbers, and the same bits back."""

from __future__ import annotations

import dataclasses
import json

import foreign
import jax
import numpy as np
import open_clip
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from parity_torch import pixels, randomise, tokens
import pytest
from safetensors.torch import load_file, save_file
import timm
from timm.models import save_for_hf
import torch

from mof_jax import convert
from mof_jax.interop.families import timm as ours_timm
from mof_jax.interop.source import Source
from mof_jax.interop.transfer import announce
from mof_jax.nn.module import Skeleton

pytestmark = pytest.mark.open_clip

_VISION = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=24, mlp_ratio=2.0)
_TEXT = CLIPTextCfg(context_length=8, vocab_size=40, width=32, heads=2, layers=2, mlp_ratio=2.0)
_other = dataclasses.replace

# Class, vision_cfg, text_cfg, quick_gelu; DFN's H/14 has heads of 80 and an MLP four times as wide.
CLIPS = {
    "gelu": (CLIP, _VISION, _TEXT, False),
    "quick_gelu": (CLIP, _VISION, _TEXT, True),
    "custom_text": (CustomTextCLIP, _VISION, _TEXT, False),
    "dfn_h14": (CLIP, _other(_VISION, width=160, head_width=80, mlp_ratio=4.0, patch_size=14, image_size=28),
                _other(_TEXT, width=64, heads=1, mlp_ratio=4.0), True),
    "odd_size": (CLIP, _other(_VISION, patch_size=7, image_size=35), _other(_TEXT, context_length=5), False),
}

_SMALL = dict(embed_dim=32, depth=2, num_heads=2)
TOWERS = {
    "plain": ("vit_base_patch16_224", dict(img_size=32, num_classes=7, **_SMALL)),
    "scaled": ("vit_base_patch16_224", dict(img_size=48, num_classes=0, init_values=0.3, mlp_ratio=3.0, **_SMALL)),
    "clip": ("vit_base_patch16_clip_224", dict(img_size=32, num_classes=5, **_SMALL)),
    "quick_gelu": ("vit_base_patch32_clip_quickgelu_224", dict(img_size=96, num_classes=0, **_SMALL)),
    "siglip": ("vit_base_patch16_siglip_224", dict(img_size=32, num_classes=0, **_SMALL)),
    "siglip2": ("vit_so400m_patch16_siglip_256", dict(img_size=32, num_classes=0, **_SMALL)),
    "gap": ("vit_base_patch16_siglip_gap_224", dict(img_size=32, num_classes=0, **_SMALL)),
}


def theirs(kind, folder):
    """A random model, in a folder as the library's own hub code lays it out."""
    make, vision, text, quick = CLIPS[kind]
    model = randomise(make(12, vision, text, quick_gelu=quick), seed=4)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    fields = lambda cfg, *names: {name: getattr(cfg, name) for name in names}
    config = dict(embed_dim=12, quick_gelu=quick, custom_text=make is CustomTextCLIP,
                  vision_cfg=fields(vision, "layers", "width", "head_width", "patch_size", "image_size", "mlp_ratio"),
                  text_cfg=fields(text, "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic", "resize_mode": "shortest"}}))
    foreign.vocabulary().save(str(folder / "tokenizer.json"))
    return model


def opened(folder):
    """Our model with the weights of `hf:folder`."""
    source = Source.open(f"hf:{folder}")
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    return skeleton.merge({path: source.reading.read(path) for path in source.reading.paths}), source


def same_bits(first, second):
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", CLIPS)
def test_clip_there_and_back(kind, tmp_path):
    model = theirs(kind, tmp_path / "hf")
    ours, source = opened(tmp_path / "hf")
    size, context = source.config.image.image_size, source.config.text.context_length
    rng = np.random.default_rng(1)
    images = rng.standard_normal((24, size, size, 3)).astype(np.float32)
    texts = rng.integers(1, 39, (24, context)).astype(np.int32)
    texts = np.where(np.arange(context) >= rng.integers(1, context, (24, 1)), 39, texts)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        image, text, scale = model(pixels(images), tokens(texts))[:3]
        want = (scale * image @ text.T).numpy()
        got = np.asarray(ours.scale * ours.embed_image(images) @ ours.embed_text(texts).T)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert (got.argmax(0) == want.argmax(0)).all() and (got.argmax(1) == want.argmax(1)).all()
    assert len({*want.argmax(0)}) > 1 or len({*want.argmax(1)}) > 1, "a best that is always the same proves nothing"
    convert.convert(f"hf:{tmp_path}/hf", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    same_bits(tmp_path / "hf" / "open_clip_model.safetensors", tmp_path / "back" / "open_clip_model.safetensors")
    # Made of the config that we wrote, by the library's own reader of local folders; it loads strictly.
    again = open_clip.create_model(f"local-dir:{tmp_path}/back").eval()
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(pixels(images), tokens(texts))[0], image)


@pytest.mark.parametrize("kind", TOWERS)
def test_timm_there_and_back(kind, tmp_path):
    name, arguments = TOWERS[kind]
    model = randomise(timm.create_model(name, **arguments), seed=4)
    save_for_hf(model, tmp_path / "hf", model_args=arguments, safe_serialization=True)
    ours, source = opened(tmp_path / "hf")
    size = source.config.encoder.image_size
    images = np.random.default_rng(1).standard_normal((4, size, size, 3)).astype(np.float32)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        features = model.forward_features(pixels(images))
        want = model.forward_head(features, pre_logits=True).numpy()
        out = ours.encoder(images)
    np.testing.assert_allclose(np.asarray(out.tokens), features.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.asarray(out.pooled), want, atol=1e-4)
    convert.convert(f"hf:{tmp_path}/hf", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    same_bits(tmp_path / "hf" / "model.safetensors", tmp_path / "back" / "model.safetensors")
    again = timm.create_model(f"local-dir:{tmp_path}/back", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(pixels(images)), model(pixels(images)))
    config = timm.data.resolve_data_config({}, model=again)
    assert tuple(config["mean"]) == source.config.encoder.mean and tuple(config["input_size"]) == (3, size, size)


@pytest.mark.parametrize("kind", TOWERS)
def test_a_model_of_ours_is_one_of_timms(kind):
    """The config that is written for a model without a past makes the library build the same tensors."""
    name, arguments = TOWERS[kind]
    config = ours_timm.read(dict(architecture=name, model_args={k: x for k, x in arguments.items() if k != "num_classes"}))
    ours_timm.TIMM.check(config)
    written = ours_timm.write(config)
    with torch.device("meta"):
        model = timm.create_model(written["architecture"], num_classes=0, **written["model_args"])
    assert tensors(config) == {name: tuple(x.shape) for name, x in model.state_dict().items()}
    assert type(model.blocks[0].mlp.act).__name__ == _CLASSES[config.encoder.activation]
    assert model.blocks[0].norm1.eps == config.encoder.norm_eps


_CLASSES = {"gelu": "GELU", "gelu_tanh": "GELUTanh", "quick_gelu": "QuickGELU"}


def tensors(config) -> dict:
    return announce(ours_timm.TABLE, Skeleton.of(lambda rngs: ours_timm.TIMM.build(config, rngs)).shapes)


@pytest.mark.parametrize("name", [
    name for name in timm.list_models("vit_*")
    if ours_timm.NAME.fullmatch(name) and name not in ("vit_so400m_patch14_siglip_384", "vit_so400m_patch14_siglip_gap_384")])
def test_every_architecture_that_is_read_is_read_as_the_library_builds_it(name):
    """All but the two whose pictures are no multiple of their patches."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    whole = ours_timm.read(dict(architecture=name))
    config = whole.encoder
    assert tensors(whole) == {k: tuple(x.shape) for k, x in model.state_dict().items()}
    assert (model.blocks[0].attn.num_heads, model.norm.eps, model.num_prefix_tokens) == (
        config.heads, config.norm_eps, int(config.cls_token))
    assert type(model.blocks[0].mlp.act).__name__ == _CLASSES[config.activation]
