"""No key of a foreign config is passed over: each is read, free, or refused by a line that names it. tests/parity runs the
libraries on the same walk."""

from __future__ import annotations

import json

from config_keys import BEFORE, FULL, changed, others, read, refused, walk
import pytest

from mof_jax.errors import UserError

HOSTILE = [None, [], {}, [1], {"a": 1}, "", "x", True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**30, 10**400, "\ud800"]
# Lines about two values that do not go together; they name what comes of them.
TOGETHER = ("is not divisible by", "are not a multiple of", "is odd", "text tower in", "eos_token_id", "pad_token_id",
            "vision_feature_layer", "layer_types")
# Asked for without a change: another name of the same (gelu_new), a width that rounds to as many heads, a flag or a length
# that has a meaning only beside another. tests/parity shows that the library's output is the same with each.
SAME = {"hidden_act", "head_width", "rope_theta", "final_ln_after_pool", "max_window_layers", "fixed_input_size",
        "partial_rotary_factor", "use_sliding_window"}


@pytest.mark.parametrize("kind", FULL)
def test_full_configs_are_read(kind):
    """With everything that the library writes, and what its earlier versions wrote."""
    config, known = read(kind, FULL[kind])
    assert {".".join(path) for path, _ in walk(FULL[kind])} <= set(known) | {
        ".".join(path) for path, _ in walk(FULL[kind]) if path[0] == "preprocess_cfg"}
    if kind not in ("open_clip", "timm_gap"):
        assert read(kind, BEFORE | FULL[kind])[0] == config


@pytest.mark.parametrize("kind", FULL)
def test_each_key_is_read_free_or_refused_by_name(kind):
    base, counts = read(kind, FULL[kind])[0], {"read": 0, "free": 0, "refused": 0}
    for path, value in walk(FULL[kind]):
        for other in others(path, value):
            theirs = changed(FULL[kind], path, other)
            line = refused(kind, theirs)
            if line is not None:
                assert path[-1] in line or any(words in line for words in TOGETHER), (path, other, line)
                counts["refused"] += 1
                continue
            config, known = read(kind, theirs)
            what = "free" if config == base else "read"
            counts[what] += 1
            if what == "free" and known[".".join(path)] != "free":
                assert path[-1] in SAME, f"{path} = {other!r} is asked for, and changes nothing"
            if what == "read":
                assert known[".".join(path)] == "read", f"{path} is called free, and changes the config"
    assert counts["read"] >= 3 and counts["free"] >= 2 and counts["refused"] >= 1, counts


@pytest.mark.parametrize("kind", FULL)
def test_strangers_are_refused_in_every_section(kind):
    sections = [()] + [path for path, value in walk(FULL[kind]) if isinstance(value, dict)]
    for path in sections:
        if path and path[-1] in ("id2label", "label2id", "preprocess_cfg"):
            continue
        line = refused(kind, changed(FULL[kind], (*path, "stranger"), 1))
        assert line and f"{'.'.join((*path, 'stranger'))} (1) is not known here" in line, path


@pytest.mark.parametrize("kind", FULL)
def test_hostile_values_are_one_line_or_free(kind):
    """Wrong types, sizes beyond any model, no numbers at all: never another exception, never a config of another type."""
    for path, value in walk(FULL[kind]):
        for hostile in HOSTILE:
            theirs = changed(FULL[kind], path, hostile)
            line = refused(kind, theirs)
            if line is not None:
                assert "\n" not in line and len(line) < 500 and line.isprintable(), (path, hostile)
                continue
            config, known = read(kind, theirs)
            nothing = hostile in (None, {}) and (value is None or isinstance(value, dict))
            number = isinstance(hostile, (int, float)) and isinstance(value, (int, float, type(None)))
            elsewhere = hostile is None or path[0] == "preprocess_cfg"
            assert known[".".join(path)] == "free" or nothing or number or elsewhere, (path, hostile)


@pytest.mark.parametrize("theirs, key", [
    (dict(model_type="bert", hidden_size=10**30), "hidden_size"), (dict(model_type="bert", hidden_size=True), "hidden_size"),
    (dict(model_type="dinov2", mlp_ratio=1e300), "mlp_ratio"), (dict(model_type="dinov2", hidden_size=10**12), "hidden_size"),
    (dict(model_type="dinov2", mlp_ratio=0.0001), "mlp_ratio"),
    (dict(model_type="vit", num_hidden_layers=2.0), "num_hidden_layers"),
    (dict(model_type="llama", rope_theta=float("nan")), "rope_theta"),
    (dict(model_type="llama", num_key_value_heads=[4]), "num_key"),
    (dict(model_type="clip", text_config=[]), "text_config"), (dict(model_type="clip", text_config=0), "text_config"),
    (dict(model_type="clip", vision_config=False), "vision_config"), (dict(model_type="siglip", text_config=""), "text_config"),
    (dict(model_type="llama", rope_scaling=[]), "rope_scaling"), (dict(model_type="llama", attention_bias={}), "attention_bias"),
    (dict(model_type="bert", auto_map={"AutoModel": "x.Y"}), "auto_map"),
    (dict(model_type="vit", pruned_heads={"0": [1]}), "pruned"),
    (dict(model_type="llama", quantization_config={"bits": 4}), "quantization_config"),
    (dict(model_type="efficientnet_lite", width_coefficient=1e9), "width_coefficient"),
])
def test_kinds_of_hostile_numbers_and_sections(theirs, key):
    from mof_jax.interop.families import family_of

    with pytest.raises(UserError, match=f"config.json: {key}"):
        family_of(theirs, "config.json").parse(theirs, "config.json")


def clip(**change):
    return json.loads(json.dumps(FULL["clip"])) | change


def test_clips_doubled_sections_win_with_the_defaults_of_what_they_leave_out():
    """As the library does (tests/parity); `null` is no section."""
    other = FULL["clip"]["text_config"] | {"num_hidden_layers": 1}
    assert read("clip", clip(text_config_dict=None, vision_config_dict=None))[0] == read("clip", FULL["clip"])[0]
    assert read("clip", clip(text_config_dict=other))[0].text.depth == 1
    assert read("clip", clip(text_config_dict={"num_hidden_layers": 1}))[0].text.width == 512
    assert read("clip", clip(vision_config_dict={"hidden_act": "gelu"}))[0].image.activation == "gelu"
    assert "vision_config_dict.stranger" in refused("clip", clip(vision_config_dict={"stranger": 1}))
    assert "text_config_dict is no section, but a list" in refused("clip", clip(text_config_dict=[1]))


@pytest.mark.parametrize("kind", ["siglip2", "metaclip_2", "aimv2", "dinov3_vit", "mixtral", "qwen2_moe", "llava_next",
                                  "clip_vision_model"])
def test_a_type_that_is_not_read_gets_the_list_and_no_guess(kind):
    from mof_jax.interop.families import family_of

    with pytest.raises(UserError) as caught:
        family_of({"model_type": kind}, "config.json")
    assert "did you mean" not in str(caught.value)
    assert str(caught.value) == (f"config.json: model_type '{kind}' is not read here; bert, clip, dinov2, dinov2_with_registers, "
                                 "efficientnet_lite, llama, llava, mistral, qwen2, qwen3, siglip, vit, vit_mae are")
