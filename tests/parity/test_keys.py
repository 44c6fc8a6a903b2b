"""Every key of the library's configs with other values: our model computes what the library's does, or the key is refused.

A key that we call free leaves the library's output as it is; with one that we read, both change alike.
"""

from __future__ import annotations

import json

from config_keys import FULL, changed, others, read, refused, walk
import numpy as np
from parity_cases import CONTEXT, IMAGE, PATCH, inputs
from parity_ours import ours
from parity_torch import pixels, randomise, tokens
import parity_transformers
from parity_transformers import IMAGE_ID, MODELS, WHOLE, features, sentence
import pytest
import torch
import transformers

from mof_jax.errors import UserError

pytestmark = pytest.mark.parity
KINDS = [kind for kind in FULL if kind in MODELS | WHOLE]
# A masked autoencoder hides patches by this share; our features are of all of them. Which id stands for a picture, and how often,
# a sequence says itself here.
OTHER = {"mask_ratio", "image_token_index", "image_token_id", "image_seq_length"}


def built(kind: str, theirs: dict) -> torch.nn.Module:
    """The library's model of a config file."""
    made = (MODELS | WHOLE)[kind]()
    config = type(made.config).from_dict(json.loads(json.dumps(theirs)))
    options = dict(add_pooling_layer=False) if kind in ("vit", "bert") else {}
    for part in (config, getattr(config, "text_config", config), getattr(config, "vision_config", config)):
        part.return_dict, part._attn_implementation = True, "eager"  # the form of what comes out, and the slow exact kernel
    return type(made)(config, **options).eval()


def outputs(kind: str, model: torch.nn.Module, given: dict, theirs: dict) -> dict[str, np.ndarray]:
    with torch.no_grad():
        if kind == "llava":
            found = {"logits": model(input_ids=tokens(given["tokens"]), pixel_values=pixels(given["images"])).logits}
        elif "segment_ids" in given:
            found = {"logits": model(input_ids=tokens(given["tokens"])).logits}
        elif kind == "bert":
            found = {"text": sentence(model, given["tokens"])}
        elif "tokens" in given:
            out = model(input_ids=tokens(given["tokens"]), pixel_values=pixels(given["images"]))
            found = {"image": out.image_embeds, "text": out.text_embeds}
        else:
            found = {"pooled": features(model, given["images"])["pooled"]}
    return {name: x.numpy() for name, x in found.items()}


def fitting(given: dict, theirs: dict) -> dict:
    """Inputs of the sizes of a changed config."""
    if "vision_config" in theirs and "llm" in given:
        vision = theirs["vision_config"]
        return pictured(vision["image_size"] // vision["patch_size"], vision["image_size"], theirs["text_config"]["vocab_size"])
    flat = {path[-1]: value for path, value in walk(theirs)}
    rng, images, words = np.random.default_rng(0), given.get("images"), given.get("tokens")
    if images is not None and flat["image_size"] != images.shape[1]:
        given = given | {"images": rng.standard_normal((3, flat["image_size"], flat["image_size"], 3)).astype(np.float32)}
    if words is not None and "segment_ids" not in given:
        length, most = flat["max_position_embeddings"], flat["vocab_size"] - 1
        given = given | {"tokens": np.minimum(np.resize(words, (len(words), length)), most)}
    elif words is not None:
        given = given | {"tokens": np.minimum(words, flat["vocab_size"] - 1)}
    return given


def pictured(grid: int, size: int, words: int) -> dict[str, np.ndarray]:
    """Two rows of a LLaVA, a picture in each."""
    rng = np.random.default_rng(0)
    row = lambda: [0, *rng.integers(1, min(words, IMAGE_ID), 3), *[IMAGE_ID] * grid**2, *rng.integers(1, min(words, IMAGE_ID), 4)]
    images = rng.standard_normal((2, size, size, 3)).astype(np.float32)
    return {"tokens": np.array([row(), row()], np.int32), "images": images, "llm": np.ones(1)}


@pytest.mark.parametrize("kind", KINDS)
def test_each_key_changes_ours_as_it_changes_the_library(kind, tmp_path):
    base, given = FULL[kind], pictured(IMAGE // PATCH, IMAGE, IMAGE_ID) if kind == "llava" else inputs(4, kind)
    model = randomise(built(kind, base), seed=4)
    state, want = model.state_dict(), outputs(kind, model, given, base)
    config, figures = read(kind, base)[0], {"free": 0, "read": 0, "refused": 0, "no model there": 0}
    for number, (path, value) in enumerate(walk(base)):
        for other in others(path, value):
            theirs = changed(base, path, other)
            if refused(kind, theirs) is not None:  # tests/interop reads the line
                figures["refused"] += 1
                continue
            try:
                theirs_model = built(kind, theirs)
            except Exception:  # noqa: BLE001  whatever the library says of values that it refuses, and that compute nothing there
                figures["no model there"] += 1
                continue
            if read(kind, theirs)[0] == config:
                if path[-1] in OTHER:
                    figures["free"] += 1
                    continue
                found = theirs_model.load_state_dict(state, strict=False)
                assert not found.missing_keys and set(found.unexpected_keys) <= {"embeddings.mask_token"}
                got = outputs(kind, theirs_model, given, theirs)
                close(got, want, (path, other), 1e-6)  # gelu_new and gelu_pytorch_tanh round differently
                figures["free"] += 1
                continue
            folder = tmp_path / str(number)
            randomise(theirs_model, seed=5).save_pretrained(folder)
            (folder / "config.json").write_text(json.dumps(theirs))
            fit = fitting(given, theirs)
            close(ours(folder, fit, IMAGE_ID), outputs(kind, theirs_model, fit, theirs), (path, other))
            figures["read"] += 1
    print(kind, figures)
    assert figures["free"] > 20 and figures["read"] >= 5


def close(got: dict, want: dict, what, tolerance: float = 1e-4) -> None:
    for name, expected in want.items():
        worst, most = np.abs(got[name] - expected).max(), np.abs(expected).max()
        assert np.isfinite(expected).all() and worst <= tolerance * most, f"{what}: {name} is off by {worst} of {most}"


# Switches that need more than one key, or sections of their own: each must change the library's output, and ours alike.
SECTIONS = {
    "text_config_dict wins": ("clip", lambda c: c | {"text_config_dict": c["text_config"] | {"hidden_act": "gelu"}}),
    "vision_config_dict wins": ("clip", lambda c: c | {"vision_config_dict": c["vision_config"] | {"layer_norm_eps": 0.5}}),
    "the largest id": ("clip", lambda c: c | {"text_config": c["text_config"] | {"eos_token_id": 2}}),
    "another end": ("clip", lambda c: c | {"text_config": c["text_config"] | {"eos_token_id": 7}}),
    "mistral's window": ("mistral", lambda c: c | {"sliding_window": 3}),
    "a window of one": ("mistral", lambda c: c | {"sliding_window": 1}),
    "qwen2's window": ("qwen2", lambda c: c | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0,
                                               "layer_types": None}),
    "qwen3's window": ("qwen3", lambda c: c | {"use_sliding_window": True, "sliding_window": 5,
                                               "layer_types": ["sliding_attention"] * c["num_hidden_layers"]}),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_switches_of_several_keys(name, tmp_path):
    kind, change = SECTIONS[name]
    theirs, given = change(json.loads(json.dumps(FULL[kind]))), inputs(4, kind)
    if "end" in name or "largest" in name:  # texts with both ids, and others behind them
        rng = np.random.default_rng(1)
        words = rng.integers(8, 30, (5, CONTEXT)).astype(np.int32)
        words[np.arange(5), rng.permutation(CONTEXT)[:5]] = 7
        words[np.arange(5), (np.arange(5) + 3) % CONTEXT] = 33
        given = given | {"tokens": words}
    model, before = randomise(built(kind, theirs), seed=4), randomise(built(kind, FULL[kind]), seed=4)
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    want, plain = outputs(kind, model, given, theirs), outputs(kind, before, given, theirs)
    assert any(np.abs(want[x] - plain[x]).max() > 1e-3 for x in want), "the switch is no switch"
    close(ours(tmp_path, given, IMAGE_ID), want, name)


def test_the_full_configs_are_the_installed_librarys():
    """But for its version."""
    drop = lambda value: {k: drop(v) for k, v in value.items() if k != "transformers_version"} if isinstance(
        value, dict) else value
    assert {kind: drop(theirs) for kind, theirs in parity_transformers.configs().items()} == {
        kind: drop(theirs) for kind, theirs in FULL.items() if kind in KINDS}
    assert transformers.__version__


def test_a_default_prompt_is_no_key_of_a_config():
    """What tests/interop says of strangers, with the library's own base class: it takes any."""
    theirs = FULL["bert"] | {"stranger": 1}
    assert transformers.BertConfig.from_dict(theirs).stranger == 1
    with pytest.raises(UserError, match="stranger"):
        read("bert", theirs)
