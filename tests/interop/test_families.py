"""Each family on recorded weights: every tensor used, every parameter filled, and the way back bit for bit."""

from __future__ import annotations

import dataclasses
import math

import foreign
import numpy as np
from parity_cases import CASES, FIXTURES, Sample
import pytest

from mof_jax.errors import UserError
from mof_jax.interop.families import FAMILIES, family_of, timm
from mof_jax.interop.family import differences
from mof_jax.interop.preprocess import Processing
from mof_jax.interop.transfer import Reading, export
from mof_jax.interop.weights import Arrays
from mof_jax.nn.module import Skeleton

KINDS = [kind for kind in foreign.CONFIGS if not kind.startswith("llava")]  # whose parts are recorded each on its own


def family(kind):
    return FAMILIES["open_clip"] if kind == "open_clip" else family_of(foreign.CONFIGS[kind], "config.json")


def size(kind, theirs) -> int:
    found = FAMILIES[kind] if kind == "open_clip" else family_of(theirs, "config.json")
    config = found.read(theirs)
    return sum(math.prod(x.shape) for x in Skeleton.of(lambda rngs: found.build(config, rngs)).shapes.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_read_is_the_one_with_which_parity_was_recorded(kind):
    """tests/parity runs this config on these weights and gets the other library's numbers."""
    found = family(kind)
    assert not list(differences(found.normal(found.read(foreign.CONFIGS[kind])), found.normal(CASES[kind].config)))


@pytest.mark.parametrize("kind", KINDS)
def test_configs_go_there_and_back(kind):
    config = family(kind).read(foreign.CONFIGS[kind])
    family(kind).check(config)
    assert not list(differences(family(kind).read(family(kind).write(config)), config))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_go_there_and_back_bit_for_bit(kind):
    sample, found = Sample.load(FIXTURES / f"{kind}.npz"), family(kind)
    config = found.read(foreign.CONFIGS[kind])
    shapes = Skeleton.of(lambda rngs: found.build(config, rngs)).shapes
    reading = Reading(found.table(config), shapes, Arrays(sample.weights), found.ignored(config))
    back = dict(export(found.table(config), shapes, reading.read, reading.spelling()))
    again = Reading(found.table(config), shapes, Arrays(back))
    for path in shapes:
        np.testing.assert_array_equal(again.read(path), reading.read(path))
    assert set(back) == set(sample.weights)
    assert all(back[name].shape == x.shape and np.array_equal(back[name], x) for name, x in sample.weights.items())


def test_the_names_of_dinov2s_files():
    config = FAMILIES["dinov2"].read(foreign.CONFIGS["dinov2_swiglu"])
    shapes = Skeleton.of(lambda rngs: FAMILIES["dinov2"].build(config, rngs)).shapes
    names = dict(export(FAMILIES["dinov2"].table(config), shapes, lambda path: np.zeros(shapes[path].shape, np.float32)))
    assert {"encoder.layer.1.attention.attention.query.weight", "encoder.layer.0.attention.output.dense.bias",
            "encoder.layer.0.mlp.weights_in.weight", "encoder.layer.0.mlp.weights_out.bias"} <= set(names)
    assert names["encoder.layer.0.mlp.weights_in.weight"].shape == (48, 16)


# Published sizes; the configs are those of the hub, shortened to what is not the library's default.
@pytest.mark.parametrize("kind, theirs, parameters", [
    ("clip", dict(model_type="clip", projection_dim=768, vision_config=dict(
        hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14), text_config=dict(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, eos_token_id=2)), 427_616_513),
    ("siglip", dict(model_type="siglip", vision_config=dict(model_type="siglip_vision_model"), text_config={}), 203_155_970),
    ("llama", dict(model_type="llama", rms_norm_eps=1e-5), 6_738_415_616),
    ("qwen2", dict(model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                   num_key_value_heads=2, tie_word_embeddings=True, rope_theta=1e6), 494_032_768),
    ("open_clip", dict(model_cfg=dict(embed_dim=1024, quick_gelu=True, vision_cfg=dict(
        layers=32, width=1280, head_width=80, patch_size=14), text_cfg=dict(width=1024, heads=16, layers=24))),
     986_109_441),
])
def test_published_models_have_their_published_size(kind, theirs, parameters):
    assert size(kind, theirs) == parameters


def test_the_wrong_eos_of_old_clip_configs_means_the_largest_id():
    theirs = foreign.CONFIGS["clip"]
    old = theirs | {"text_config": theirs["text_config"] | {"eos_token_id": 2}}
    assert FAMILIES["clip"].read(old).text.pool == "argmax"
    FAMILIES["clip"].check(FAMILIES["clip"].read(old))
    other = theirs | {"text_config": theirs["text_config"] | {"eos_token_id": 7}}
    text = FAMILIES["clip"].read(other).text
    assert (text.pool, text.eos_id) == ("eos", 7)
    with pytest.raises(UserError, match="text.pool: eos here, argmax there"):  # the library would not look for this one
        FAMILIES["clip"].check(dataclasses.replace(FAMILIES["clip"].read(other), text=dataclasses.replace(text, eos_id=2)))


def test_both_places_of_the_rotary_base():
    read = lambda **more: FAMILIES["llama"].read(dict(model_type="llama") | more).rope_theta
    assert read(rope_theta=5e5) == read(rope_parameters={"rope_type": "default", "rope_theta": 5e5}) == 5e5
    assert read() == 10000.0


@pytest.mark.parametrize("theirs, message", [
    (dict(model_type="llama", rope_scaling={"rope_type": "llama3", "factor": 8.0}),
     "rope_scaling.rope_type 'llama3' is not built here, 'default' is"),
    (dict(model_type="llama", attention_bias=True), "attention_bias"),
    (dict(model_type="llama", hidden_act="gelu"), "hidden_act 'gelu'"),
    (dict(model_type="llama", hidden_size="4096"), "hidden_size '4096' is no whole number from 1"),
    (dict(model_type="dinov2", hidden_size="768"), "hidden_size '768' is no whole number"),
    (dict(model_type="dinov2", mlp_ratio=[4]), "mlp_ratio .4. is no number"),
    (dict(model_type="clip", vision_config=dict(hidden_act="mish")),
     "vision_config.hidden_act 'mish' is not built here; of activations, 'gelu'"),
    (dict(model_type="clip", vision_config=dict(num_attention_heads=7)), "768 is not divisible by 7 heads"),
    (dict(model_type="clip", vision_config=[1]), "vision_config is no section"),
    (dict(architecture="resnet50"), "architecture 'resnet50' is not read here"),
    (dict(architecture="vit_base_patch16_224", model_args=dict(reg_tokens=4)), "model_args.reg_tokens 4 is not built here, 0 is"),
    (dict(architecture="vit_base_patch16_224", model_args=dict(rope=True)), "model_args.rope .True. is not known here"),
    (dict(architecture="vit_base_patch16_224", model_args=dict(global_pool="avg")),
     "behind the mean of the patches"),
    (dict(architecture="vit_base_patch16_224", global_pool="avg"),
     "global_pool 'avg' is not what architecture and model_args say"),
    (dict(architecture="vit_base_patch16_224", pretrained_cfg=dict(input_size=[3, 224, 320])),
     "input_size .3, 224, 320. has 224×320 pixels; towers here take sq"),
    (dict(model_type="dinov3"), "model_type 'dinov3' is not read here; bert, clip, dinov2, .* are$"),
    (dict(), "model_type None is not read here"),
    (dict(model_type=["clip"]), "is not read here"),
    (dict(model_type="siglip", vision_config=dict(vision_use_head=False)), "vision_use_head False is not built here, True is"),
])
def test_what_is_not_built_is_said(theirs, message):
    with pytest.raises(UserError, match=message):
        family_of(theirs, "config.json").parse(theirs, "config.json")


def test_a_model_that_a_format_cannot_hold():
    config = CASES["clip"].config
    changed = dataclasses.replace(config, image=dataclasses.replace(config.image, registers=2, activation="gelu"))
    FAMILIES["clip"].check(config)
    with pytest.raises(UserError, match="format 'clip' cannot hold this model .image.registers: 2 here, 0 there"):
        FAMILIES["clip"].check(changed)
    with pytest.raises(UserError, match="activation"):  # one flag for both towers
        FAMILIES["open_clip"].check(dataclasses.replace(config, text=dataclasses.replace(config.text, activation="gelu")))


def test_timms_preprocessing_goes_there_and_back():
    cfg = foreign.CONFIGS["timm_gap"]["pretrained_cfg"]
    read = lambda **more: timm.read_processing({"pretrained_cfg": cfg | more}, 24)
    assert read() == Processing(24, "crop", "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), resize_side=26, pixels="open_clip")
    assert read(crop_pct=1.0).resize_side is None
    for changes in ({}, dict(crop_mode="squash"), dict(crop_pct=1.0), dict(crop_pct=0.875), dict(crop_pct=0.95)):
        assert read(**timm.write_processing(read(**changes))) == read(**changes)
    with pytest.raises(UserError, match="crop_mode 'border'"):
        read(crop_mode="border")


@pytest.mark.parametrize("theirs, window", [
    (dict(model_type="mistral"), 4096), (dict(model_type="mistral", sliding_window=None), 0),
    (dict(model_type="mistral", sliding_window=7), 7), (dict(model_type="llama", sliding_window=7), 0),
    (dict(model_type="qwen2", sliding_window=9, use_sliding_window=False), 0), (dict(model_type="qwen3", sliding_window=9), 0),
    (dict(model_type="qwen2", sliding_window=9, use_sliding_window=True, max_window_layers=0), 9),
    (dict(model_type="qwen2", sliding_window=9, use_sliding_window=True, max_window_layers=2, num_hidden_layers=2), 0),
    (dict(model_type="qwen3", num_hidden_layers=2, sliding_window=9, use_sliding_window=True,
          layer_types=["sliding_attention"] * 2), 9),
    (dict(model_type="qwen3", num_hidden_layers=2, sliding_window=9, use_sliding_window=True,
          layer_types=["full_attention"] * 2), 0),
])
def test_how_far_back_attention_looks(theirs, window):
    family = FAMILIES["llama"]
    config = family.read(theirs)
    assert config.window == window
    family.check(config)
    assert family.read(family.write(config)).window == window


@pytest.mark.parametrize("theirs, message", [
    (dict(model_type="qwen2", sliding_window=9, use_sliding_window=True), "max_window_layers None gives some layers a window"),
    (dict(layer_types=["full_attention", "sliding_attention"], use_sliding_window=True, num_hidden_layers=2),
     "layer_types .* gives some layers a window and others none"),
    (dict(layer_types=["sliding_attention"] * 2, num_hidden_layers=2), "layer_types .* no sliding_window that is used"),
    (dict(layer_types=["chunked_attention"] * 2, num_hidden_layers=2), "layer_types .* is no list of 'full_attention'"),
    (dict(layer_types=["full_attention"], num_hidden_layers=2), "for each of 2 layers"),
    (dict(sliding_window=-1, use_sliding_window=True, max_window_layers=0), "sliding_window -1 is no whole number from 1"),
    (dict(use_sliding_window="yes"), "use_sliding_window 'yes' is neither true nor false"),
])
def test_windows_that_are_not_built(theirs, message):
    with pytest.raises(UserError, match=message):
        FAMILIES["llama"].read(dict(model_type="qwen2") | theirs)
