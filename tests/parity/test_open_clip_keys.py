"""Every key of OpenCLIP's and timm's configs with other values, and every config that OpenCLIP publishes: read as the library
reads it, free, or refused by name."""

from __future__ import annotations

import json

from config_keys import FULL, changed, others, read, refused, walk
import numpy as np
import open_clip
from open_clip.model import CLIP, CustomTextCLIP
from parity_cases import BATCH, CONTEXT, IMAGE, VOCAB, inputs
from parity_ours import ours
from parity_torch import pixels, randomise, tokens
import pytest
from safetensors.torch import save_file
import timm
import torch

from mof_jax.interop.families import FAMILIES
from mof_jax.interop.transfer import announce
from mof_jax.nn.module import Skeleton

pytestmark = pytest.mark.open_clip
EPS = 1e-4


def clip(theirs: dict) -> torch.nn.Module:
    """The library's model of an `open_clip_config.json`."""
    cfg = json.loads(json.dumps(theirs["model_cfg"]))
    custom = cfg.pop("custom_text", False)
    return (CustomTextCLIP if custom else CLIP)(**cfg).eval()


def tower(theirs: dict) -> torch.nn.Module:
    """The library's model of a timm `config.json`, as it makes one of a folder."""
    theirs = json.loads(json.dumps(theirs))
    cfg, args = dict(theirs["pretrained_cfg"]), dict(theirs["model_args"])
    for key in ("img_size", "patch_size"):
        args[key] = tuple(args[key]) if isinstance(args.get(key), list) else args[key]
    cfg["num_classes"] = theirs["num_classes"]
    overlay = {k: v for k, v in cfg.items() if k in timm.models.PretrainedCfg.__dataclass_fields__}
    return timm.create_model(theirs["architecture"], pretrained_cfg=timm.models.PretrainedCfg(**overlay), **args).eval()


def given_of(theirs: dict) -> dict[str, np.ndarray]:
    """Inputs of the sizes of a config; texts hold their largest id, id 2 and id 4 in places of their own."""
    text, rng = theirs["model_cfg"]["text_cfg"], np.random.default_rng(0)
    length, most, size = text["context_length"], text["vocab_size"], theirs["model_cfg"]["vision_cfg"]["image_size"]
    words = rng.integers(8, most - 4, (BATCH, length)).astype(np.int32)
    for row in range(BATCH):
        places = rng.permutation(length)
        for place, token in zip(places, (most - 3, 2, 4, 1)):
            words[row, place] = token
    return {"tokens": words, "images": rng.standard_normal((BATCH, size, size, 3)).astype(np.float32)}


def clip_outputs(model: torch.nn.Module, given: dict) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {"image": model.encode_image(pixels(given["images"]), normalize=True).numpy(),
                "text": model.encode_text(tokens(given["tokens"]), normalize=True).numpy()}


def tower_outputs(model: torch.nn.Module, given: dict) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {"pooled": model.forward_head(model.forward_features(pixels(given["images"])), pre_logits=True).numpy()}


def close(got: dict, want: dict, what, tolerance: float = EPS) -> None:
    for name, expected in want.items():
        worst, most = np.abs(got[name] - expected).max(), np.abs(expected).max()
        assert got[name].shape == expected.shape and worst <= tolerance * most, f"{what}: {name} is off by {worst} of {most}"


def save(model: torch.nn.Module, kind: str, theirs: dict, folder) -> None:
    folder.mkdir(exist_ok=True)
    prefix = "open_clip_" if kind == "open_clip" else ""
    names = f"{prefix}model.safetensors", f"{prefix}config.json"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / names[0])
    (folder / names[1]).write_text(json.dumps(theirs))


# How words are read, which `interop.words` does, and what becomes of pictures: tests below, and test_pictures.
ELSEWHERE = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")


@pytest.mark.parametrize("kind", ["open_clip", "timm_gap"])
def test_each_key_changes_ours_as_it_changes_the_library(kind, tmp_path):
    base, figures = FULL[kind], {"free": 0, "read": 0, "refused": 0, "no model there": 0}
    build, out = (clip, clip_outputs) if kind == "open_clip" else (tower, tower_outputs)
    fit = given_of if kind == "open_clip" else lambda theirs: inputs(4, kind)
    model = randomise(build(base), seed=4)
    state, want, config = model.state_dict(), out(model, fit(base)), read(kind, base)[0]
    for number, (path, value) in enumerate(walk(base)):
        if path[0] == "preprocess_cfg" or path[-1] in ELSEWHERE:
            continue
        for other in others(path, value):
            theirs = changed(base, path, other)
            if refused(kind, theirs) is not None:
                figures["refused"] += 1
                continue
            try:
                there = build(theirs)
            except Exception:  # noqa: BLE001  whatever the library says of a value that it has no model for
                figures["no model there"] += 1
                continue
            if read(kind, theirs)[0] == config and path[-1] != "custom_text":
                found = there.load_state_dict(state, strict=False)
                assert not found.missing_keys or set(found.missing_keys) <= {"head.weight", "head.bias"}, (path, other)
                close(out(there, fit(base)), want, (path, other), 1e-6)
                figures["free"] += 1
                continue
            save(randomise(there, seed=5), kind, theirs, tmp_path / str(number))
            size = theirs.get("model_args", {}).get("img_size", IMAGE)
            given = fit(theirs) if size == IMAGE else {"images": np.ones((2, size, size, 3), np.float32)}
            close(ours(tmp_path / str(number), given), out(there, given), (path, other))
            figures["read"] += 1
    print(kind, figures)
    assert figures["free"] > 10 and figures["read"] >= 8


# The handed switches and their combinations; each changes the library's output.
SWITCHES: dict[str, tuple[dict, dict]] = {
    "text eos": ({}, dict(pool_type="eos", eos_id=2)), "text eos by another id": ({}, dict(pool_type="eos", eos_id=4)),
    "text last": ({}, dict(pool_type="last")), "text first": ({}, dict(pool_type="first")),
    "no causal mask": ({}, dict(no_causal_mask=True)), "text eps": ({}, dict(norm_kwargs={"eps": 1e-2})),
    "text tanh": ({}, dict(act_kwargs={"approximate": "tanh"})), "vision avg": (dict(pool_type="avg"), {}),
    "vision eps": (dict(norm_kwargs={"eps": 1e-2}), {}), "vision tanh": (dict(act_kwargs={"approximate": "tanh"}), {}),
    "norm after the mean": (dict(pool_type="avg", final_ln_after_pool=True), {}),
    "no first norm": (dict(no_ln_pre=True), {}),
    "CLIPA": (dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True), dict(pool_type="last", no_causal_mask=True)),
    "worldwide": ({}, dict(pool_type="eos", eos_id=2, hf_tokenizer_name="x")),
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("custom", [False, True])
def test_switches(name, custom, tmp_path):
    vision, text = SWITCHES[name]
    base = json.loads(json.dumps(FULL["open_clip"]))
    base["model_cfg"] |= dict(quick_gelu=False, custom_text=custom)
    theirs = json.loads(json.dumps(base))
    theirs["model_cfg"]["vision_cfg"] |= vision
    theirs["model_cfg"]["text_cfg"] |= text
    model, given = randomise(clip(theirs), seed=4), given_of(theirs)
    plain = clip(base)
    plain.load_state_dict(model.state_dict(), strict=False)
    want, before = clip_outputs(model, given), clip_outputs(plain, given)
    assert any(np.abs(want[x] - before[x]).max() > 1e-5 for x in want), "the switch is no switch"
    save(model, "open_clip", theirs, tmp_path)
    close(ours(tmp_path, given), want, name)
    family = FAMILIES["open_clip"]
    config = family.read(theirs)
    assert family.read(family.write(config)) == config, "and the way back says it"
    if not custom:
        again = clip(family.write(config))
        again.load_state_dict(model.state_dict())
        close(clip_outputs(again, given), want, name, 1e-6)


def test_vocabularies_with_rows_behind_the_end_of_text(tmp_path):
    theirs = json.loads(json.dumps(FULL["open_clip"]))
    model, given = randomise(clip(theirs), seed=4), given_of(theirs)
    assert given["tokens"].max() < VOCAB - 1 and given["tokens"].shape[1] == CONTEXT
    save(model, "open_clip", theirs, tmp_path)
    close(ours(tmp_path, given), clip_outputs(model, given), "padded")


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_published_config_is_read_with_all_its_tensors_or_refused_by_name(name):
    theirs = {"model_cfg": open_clip.get_model_config(name)}
    line = refused("open_clip", theirs)
    if line is not None:
        assert any(f"{key} " in line for key in (
            "timm_model_name", "attentional_pool", "hf_model_name", "multimodal_cfg", "layers", "ls_init_value", "embed_cls",
            "image_size", "init_logit_bias")), line
        return
    config = FAMILIES["open_clip"].read(theirs)
    shapes = Skeleton.of(lambda rngs: FAMILIES["open_clip"].build(config, rngs)).shapes
    custom = theirs["model_cfg"].get("custom_text", False)
    spelling = {path: link.theirs[0] for link in FAMILIES["open_clip"].table(config) for path in link.ours
                if link.theirs[0].startswith("text.")} if custom else {}
    with torch.device("meta"):
        model = clip(theirs)
    assert announce(FAMILIES["open_clip"].table(config), shapes, spelling) == {
        key: tuple(x.shape) for key, x in model.state_dict().items()}


def test_the_published_clips_that_are_read():
    """The plain ones, and those with the switches that are built: worldwide and CLIPA too."""
    found = {name for name in open_clip.list_models()
             if refused("open_clip", {"model_cfg": open_clip.get_model_config(name)}) is None}
    assert {"ViT-B-32", "ViT-L-14-quickgelu", "ViT-H-14-378-quickgelu", "ViT-bigG-14", "ViT-H-14-worldwide", "ViT-L-14-CLIPA",
            "ViT-bigG-14-CLIPA-336"} <= found and len(found) > 40
