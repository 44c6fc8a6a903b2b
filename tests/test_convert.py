"""`mof convert`: a foreign model becomes a checkpoint that computes what it computed, and goes back bit for bit."""

from __future__ import annotations

import json
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from run_samples import ROOT
from small_models import quick_jit

sys.path[:0] = [str(ROOT / "parity"), str(ROOT / "interop")]

import foreign  # noqa: E402
from parity_cases import check  # noqa: E402

from mof_jax import cli, convert, run  # noqa: E402
from mof_jax.interop.weights import Weights  # noqa: E402

KINDS = ["clip", "siglip", "open_clip", "dinov2_registers", "timm_gap", "mistral", "qwen2", "llava"]
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
    restored = run.restore(str(root / kind))
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
    clip, other = run.restore(str(root / "clip")), run.restore(str(root / "open_clip").rstrip("/"))
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


def test_as_bf16_and_back(world, tmp_path):
    root, samples = world
    convert.convert(f"hf:{root}/clip.hf", str(tmp_path / "c"), "bf16")
    assert {dtype for _, dtype in run.open_checkpoint(str(tmp_path / "c"))[1]["leaves"].values()} == {"bfloat16"}
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
