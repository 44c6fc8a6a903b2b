"""`mof convert`: a foreign model becomes a checkpoint that computes what it computed, and goes back bit for bit."""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from run_samples import ROOT
from small_models import quick_jit
from tokenizers import processors

sys.path[:0] = [str(ROOT / "parity"), str(ROOT / "interop")]

import foreign  # noqa: E402
from parity_cases import check  # noqa: E402

from mof_jax import cli, convert  # noqa: E402
from mof_jax import config as configs  # noqa: E402
from mof_jax.data.image import images  # noqa: E402
from mof_jax.data.image.preprocess import Preprocess  # noqa: E402
from mof_jax.data.record import Record  # noqa: E402
from mof_jax.data.text.tokenizers import train as train_tokenizer  # noqa: E402
from mof_jax.interop.source import Source  # noqa: E402
from mof_jax.interop.weights import Weights  # noqa: E402
from mof_jax.models.two_tower import TwoTowerConfig  # noqa: E402
from mof_jax.restore import restore  # noqa: E402
from mof_jax.train.start import (  # noqa: E402
    InitConfig,
    came_with,
    open_checkpoint,  # noqa: E402
)

KINDS = ["clip", "siglip", "open_clip", "dinov2_registers", "timm_gap", "mistral", "qwen2", "llava", "bert", "efficientnet"]
TOWERS = ["clip", "siglip", "open_clip", "dinov2_registers", "timm_gap"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """For each kind its recording; `KIND.hf` as it came, the checkpoint `KIND` and `KIND.back` lie in the folder."""
    root, samples = tmp_path_factory.mktemp("world"), {}
    for kind in KINDS:
        samples[kind] = foreign.write(root / f"{kind}.hf", kind)
        convert.convert(f"hf:{root}/{kind}.hf", str(root / kind))
        convert.convert(str(root / kind), f"hf:{root}/{kind}.back")
    return root, samples


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_bit_for_bit(kind, world):
    first, back = Weights.open(str(world[0] / f"{kind}.hf")), Weights.open(str(world[0] / f"{kind}.back"))
    for name in first.names:
        assert first.read(name).tobytes() == back.read(name).tobytes() and first.shape(name) == back.shape(name), name
    assert set(back.names) - set(first.names) <= {"embeddings.mask_token"}, "not recorded, and expected by the library"


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_comes_back(kind, world):
    name = "open_clip_config.json" if kind == "open_clip" else "config.json"
    back = json.loads((world[0] / f"{kind}.back" / name).read_text())
    assert convert.merge(back, foreign.CONFIGS[kind]) == back, "every value that came is there, unchanged"


@pytest.mark.parametrize("kind", TOWERS)
def test_the_checkpoint_computes_what_was_recorded(kind, world):
    root, samples = world
    restored = restore(str(root / kind))
    inputs = samples[kind].inputs

    def outputs(params):
        model = restored.run.skeleton.merge(params)
        if kind.startswith(("dinov2", "timm")):
            return {"pooled": model.encoder(inputs["images"]).pooled}
        return {"image": model.embed_image(inputs["images"]), "text": model.embed_text(inputs["tokens"])}

    with jax.default_matmul_precision("highest"):
        got = jax.tree.map(np.asarray, quick_jit(outputs)(restored.params))
    check(got, {name: samples[kind].outputs[name] for name in got})


def test_preprocessing_and_tokenizer_travel(world):
    root, _ = world
    clip, other = restore(str(root / "clip")), restore(str(root / "open_clip").rstrip("/"))
    assert (clip.run.preprocess.resize, clip.run.preprocess.image_size) == ("crop", foreign.IMAGE)
    assert (other.run.preprocess.resize, other.run.config.model.image.mean) == ("squash", (0.5, 0.4, 0.3))
    words = ["w1 w2", "w3"]
    theirs = foreign.vocabulary().encode_batch(words)
    for row, wanted in zip(clip.run.tokenizer(words), theirs):
        assert row[: len(wanted.ids)].tolist() == wanted.ids and set(row[len(wanted.ids):]) <= {foreign.EOS}
    back = root / "clip.back"
    assert json.loads((back / "preprocessor_config.json").read_text()) == foreign.PROCESSOR
    assert (back / "tokenizer.json").read_bytes() == (root / "clip.hf" / "tokenizer.json").read_bytes()
    processing = json.loads((root / "open_clip.back" / "open_clip_config.json").read_text())["preprocess_cfg"]
    assert processing == foreign.CONFIGS["open_clip"]["preprocess_cfg"]


@pytest.fixture(scope="module")
def finetuned(world, tmp_path_factory):
    """Two steps from the folder in f16 with a chat template, two more from that run, and both as folders again."""
    root, folder = world[0], tmp_path_factory.mktemp("finetuned")
    clip, made = Weights.open(str(root / "clip.hf")), foreign.CONFIGS["clip"] | {"initializer_factor": 0.5}
    foreign.write(folder / "hf", "clip", {name: clip.read(name).astype(np.float16) for name in clip.names}, **made)
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": foreign.CONTEXT, "extra": "é"}
    (folder / "hf" / "tokenizer_config.json").write_text(json.dumps(words))
    (folder / "hf" / "chat_template.jinja").write_text("{{ messages }}\n")
    for source, name in ((f"hf:{folder}/hf", "first"), (str(folder / "first"), "second")):
        foreign.finetune(source, folder / name)
        convert.convert(str(folder / name), f"hf:{folder}/{name}.hf")
    return folder


@pytest.mark.parametrize("name", ["first.hf", "second.hf"])
def test_a_finetuned_model_goes_back_with_all_its_files(name, finetuned):
    first, back = Weights.open(str(finetuned / "hf")), Weights.open(str(finetuned / name))
    assert sorted(first.names) == sorted(back.names)
    assert {back.dtype(key).name for key in back.names} == {"float16"}
    moved = [key for key in first.names if first.read(key).tobytes() != back.read(key).tobytes()]
    assert len(moved) > 0.9 * len(first.names), "two steps of AdamW move all but what has no gradient"
    for file in ("preprocessor_config.json", "tokenizer_config.json"):
        assert json.loads((finetuned / name / file).read_text()) == json.loads((finetuned / "hf" / file).read_text())
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (finetuned / name / file).read_bytes() == (finetuned / "hf" / file).read_bytes()
    config = json.loads((finetuned / "hf" / "config.json").read_text())
    after = json.loads((finetuned / name / "config.json").read_text())
    assert convert.merge(after, config) == after and after["initializer_factor"] == 0.5
    assert {path.name for path in (finetuned / name).iterdir()} == {path.name for path in (finetuned / "hf").iterdir()}


def test_what_is_not_the_source_any_more_does_not_travel(finetuned, tmp_path, capsys):
    """Parameters of one tower alone, another shape, other words, other pictures."""
    path = f"hf:{finetuned}/hf"
    model = configs.to_dict(Source.open(path).config)
    tokenizer, preprocess = Source.open(path).tokenizer, restore(str(finetuned / "first")).run.preprocess
    config, init = configs.build(TwoTowerConfig, model, "model"), InitConfig(path)
    carried = lambda init, config=config, tokenizer=tokenizer, preprocess=preprocess: came_with(
        (init,), "contrastive", config, tokenizer, preprocess)
    assert carried(init)["files"].keys() == {"preprocessor_config.json", "tokenizer_config.json", "chat_template.jinja"}
    assert carried(InitConfig(path, take=(("image/.*", True), (".*", False)))) is None
    assert came_with((init, init), "contrastive", config, tokenizer, preprocess) is None
    assert came_with((), "contrastive", config, tokenizer, preprocess) is None
    assert "do not travel" not in capsys.readouterr().out
    assert carried(init, dataclasses.replace(config, image=dataclasses.replace(config.image, pool="gap"))) is None
    assert "do not travel with this run (format 'clip' cannot hold this model (image.pool" in capsys.readouterr().out
    others = train_tokenizer(["w1 w2 w3"], context_length=foreign.CONTEXT, kind="wordlevel")
    text = dataclasses.replace(config.text, vocab_size=others.vocab_size, eos_id=others.eos_id)
    other = dataclasses.replace(config, text=text)
    assert carried(init, other, others)["files"].keys() == {"preprocessor_config.json"}
    assert carried(init, preprocess=dataclasses.replace(preprocess, resize="squash")) is not None
    assert "was made for pictures with resize='crop' in config.data" in capsys.readouterr().out


def test_pixels_of_the_library_travel(world, tmp_path):
    """A crop from a larger picture, and a tower that is shown smaller pictures than its positions were made for (DINOv2)."""
    root, _ = world
    assert restore(str(root / "clip")).run.preprocess == Preprocess(foreign.IMAGE, "crop", pixels="transformers")
    assert restore(str(root / "open_clip")).run.preprocess == Preprocess(foreign.IMAGE, fill=0, pixels="open_clip")
    size = foreign.IMAGE - foreign.PATCH
    theirs = foreign.PROCESSOR | dict(image_processor_type="BitImageProcessor", size={"shortest_edge": size + 5},
                                      crop_size={"height": size, "width": size})
    foreign.write(tmp_path / "d.hf", "dinov2")
    (tmp_path / "d.hf" / "preprocessor_config.json").write_text(json.dumps(theirs))
    convert.convert(f"hf:{tmp_path}/d.hf", str(tmp_path / "d"))
    restored = restore(str(tmp_path / "d"))
    assert restored.run.preprocess == Preprocess(size, "crop", resize_side=size + 5, pixels="transformers")
    source = [Record("a", images.encode(np.zeros((50, 60, 3), np.uint8)), {})]
    assert restored.embedder.embed_images(lambda i: source[i], "s", 1).shape == (1, foreign.WIDTH)
    convert.convert(str(tmp_path / "d"), f"hf:{tmp_path}/back")
    assert json.loads((tmp_path / "back" / "preprocessor_config.json").read_text()) == theirs


def test_as_bf16_and_back(world, tmp_path):
    root, samples = world
    convert.convert(f"hf:{root}/clip.hf", str(tmp_path / "c"), "bf16")
    assert {dtype for _, dtype in open_checkpoint(str(tmp_path / "c"))[1]["leaves"].values()} == {"bfloat16"}
    convert.convert(str(root / "clip"), f"hf:{tmp_path}/half", "bf16")
    half = Weights.open(str(tmp_path / "half"))
    x = samples["clip"].weights["visual_projection.weight"]
    assert half.read("visual_projection.weight").dtype.name == "bfloat16"
    np.testing.assert_allclose(half.read("visual_projection.weight").astype(np.float32), x, rtol=2**-8)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_bf16_files_come_back_as_bf16(world, tmp_path):
    """And what the family keeps of its own comes back too."""
    root, _ = world
    half, mask = Weights.open(str(root / "clip.hf")), np.full((1, foreign.WIDTH), 0.25, np.float32)
    foreign.write(tmp_path / "d.hf", "dinov2", {"embeddings.mask_token": mask})
    convert.convert(f"hf:{tmp_path}/d.hf", str(tmp_path / "d"))
    convert.convert(str(tmp_path / "d"), f"hf:{tmp_path}/d.back")
    np.testing.assert_array_equal(Weights.open(str(tmp_path / "d.back")).read("embeddings.mask_token"), mask)
    foreign.write(tmp_path / "h.hf", "clip", {name: half.read(name).astype(ml_dtypes.bfloat16) for name in half.names[:-1]})
    convert.convert(f"hf:{tmp_path}/h.hf", str(tmp_path / "h"))
    convert.convert(str(tmp_path / "h"), f"hf:{tmp_path}/h.back")
    first, back = Weights.open(str(tmp_path / "h.hf")), Weights.open(str(tmp_path / "h.back"))
    assert all(first.read(name).tobytes() == back.read(name).tobytes() for name in first.names)
    assert {back.dtype(name).name for name in back.names} == {"bfloat16", "float32"}


def error(capsys, *args) -> str:
    assert cli.main(list(map(str, args))) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.strip()


def test_nothing_is_written_when_something_is_wrong(tmp_path, capsys):
    source = tmp_path / "hf"
    ours = lambda: {p.name for p in tmp_path.iterdir()}
    for change, message in [
        ({"text_projection.weight": np.zeros((3, 3), np.float32)}, "text_projection.weight is of shape [3, 3]"),
        ({"extra": np.zeros(3, np.float32)}, "nothing reads extra"),
        ({"logit_scale": np.int32(3).reshape(())}, "logit_scale holds int32"),
    ]:
        foreign.write(source, "clip", change)
        assert message in error(capsys, "convert", "--from", f"hf:{source}", "--to", tmp_path / "out")
        assert ours() == {"hf"}
    foreign.write(source, "clip")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert "lies beyond the end of the file" in error(capsys, "convert", "--from", f"hf:{source}", "--to", tmp_path / "out")
    assert ours() == {"hf"}


def test_a_file_that_breaks_half_way_leaves_nothing(tmp_path, monkeypatch):
    foreign.write(tmp_path / "hf", "clip")
    source, read = convert.Source.open(f"hf:{tmp_path}/hf"), Weights.read
    monkeypatch.setattr(Weights, "read", lambda self, name: 1 / 0 if name == "visual_projection.weight" else read(self, name))
    with pytest.raises(ZeroDivisionError):
        convert.to_checkpoint(source, str(tmp_path / "out"))
    assert {p.name for p in tmp_path.iterdir()} == {"hf"}


def test_mistakes_of_the_command(world, tmp_path, capsys):
    root, _ = world
    say = lambda source, target: error(capsys, "convert", "--from", source, "--to", target)
    assert "one of --from and --to as hf:PATH" in say(root / "clip", tmp_path / "x")
    assert "one of --from and --to as hf:PATH" in say(f"hf:{root}/clip.hf", f"hf:{tmp_path}/x")
    assert "there already" in say(f"hf:{root}/clip.hf", root / "clip")
    assert "there already" in say(root / "clip", f"hf:{root}/clip.back")
    assert "no such file or folder" in say(f"hf:{root}/none", tmp_path / "x")
    assert "no such checkpoint" in say(root, f"hf:{tmp_path}/x")
    assert "local folder" in say(f"hf:{root}/clip.hf", "gs://bucket/x")
    (tmp_path / "empty").mkdir()
    assert "no config.json there" in say(f"hf:{tmp_path}/empty", tmp_path / "x")


def test_a_two_tower_model_needs_its_tokenizer(tmp_path, capsys):
    foreign.write(tmp_path / "hf", "clip")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    assert "no tokenizer beside it" in error(capsys, "convert", "--from", f"hf:{tmp_path}/hf", "--to", tmp_path / "x")


@pytest.mark.parametrize("ends, message", [
    ([], "'eos' needs a tokenizer that ends texts with an end-of-text token"),
    (["w5"], "eos_id: 39 is pooled, and the tokenizer ends texts with 5")])
def test_texts_without_the_end_that_is_pooled_are_said(ends, message, tmp_path, capsys):
    """The library would pool the first token of each, which is the same for all."""
    foreign.write(tmp_path / "hf", "clip")
    words = foreign.vocabulary()
    words.post_processor = processors.TemplateProcessing(
        " ".join(["<s> $A", *ends]), special_tokens=[("<s>", 0), *((name, words.token_to_id(name)) for name in ends)])
    words.save(str(tmp_path / "hf" / "tokenizer.json"))
    line = error(capsys, "convert", "--from", f"hf:{tmp_path}/hf", "--to", tmp_path / "out")
    assert "its tokenizer and its config do not belong together" in line and message in line
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}
