"""Opening a foreign model: where it lies, what it is, what travels with it."""

from __future__ import annotations

import json

import foreign
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.interop.source import Source, locate


def test_a_folder_a_file_and_shards_are_one_model(tmp_path):
    sample = foreign.write(tmp_path / "one", "clip")
    foreign.write(tmp_path / "many", "clip", limit=4000)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    for path in ("one", "one/", "one/model.safetensors", "many", "many/model.safetensors.index.json"):
        source = Source.open(f"hf:{tmp_path}/{path}")
        assert source.family.name == "clip" and source.tokenizer is not None, path
        np.testing.assert_array_equal(source.reading.read("text/project/kernel"), sample.weights["text_projection.weight"].T)


def test_the_processors_normalisation_is_the_models(tmp_path):
    foreign.write(tmp_path, "clip")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(foreign.PROCESSOR | {"image_mean": [0.1, 0.2, 0.3]}))
    assert Source.open(f"hf:{tmp_path}").config.image.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit"])
def test_pictures_of_another_size_than_the_models_are_refused_where_the_library_does(kind, tmp_path):
    foreign.write(tmp_path, kind)
    square = {"height": 2 * foreign.IMAGE, "width": 2 * foreign.IMAGE}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(
        foreign.PROCESSOR | {"size": {"shortest_edge": 2 * foreign.IMAGE}, "crop_size": square}))
    with pytest.raises(UserError, match="its processor makes pictures of 48 pixels, and its model takes 24"):
        Source.open(f"hf:{tmp_path}")


@pytest.mark.parametrize("kind, mean, resize", [
    ("siglip", 0.5, "squash"), ("dinov2", 0.485, "crop"), ("clip", 0.48145466, "crop")])
def test_without_a_processor_file_the_familys_own_way_is_taken_and_said(kind, mean, resize, tmp_path):
    foreign.write(tmp_path, kind)
    (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    source = Source.open(f"hf:{tmp_path}")
    assert (source.processing.mean[0], source.processing.resize) == (mean, resize)
    assert "no preprocessor_config.json" in source.notes[-1]


def test_a_folder_with_both_formats_is_read_as_the_one_whose_weights_are_there(tmp_path):
    foreign.write(tmp_path, "open_clip")
    (tmp_path / "config.json").write_text(json.dumps(foreign.CONFIGS["clip"]))
    assert Source.open(f"hf:{tmp_path}").family.name == "open_clip"
    foreign.write(tmp_path, "clip")
    assert Source.open(f"hf:{tmp_path}").family.name == "clip"
    assert Source.open(f"hf:{tmp_path}/open_clip_model.safetensors").family.name == "open_clip"


def test_a_padding_token_is_the_one_the_tokenizer_names(tmp_path):
    foreign.write(tmp_path, "clip")
    assert Source.open(f"hf:{tmp_path}").tokenizer.pad_id == foreign.EOS
    for pad in ("w7", {"content": "w7"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
        assert Source.open(f"hf:{tmp_path}").tokenizer.pad_id == 7


def test_what_travels_is_json_and_comes_back(tmp_path):
    mask = np.arange(foreign.WIDTH, dtype=np.float32)[None]
    foreign.write(tmp_path, "dinov2", {"embeddings.mask_token": mask})
    source = Source.open(f"hf:{tmp_path}")
    travel = json.loads(json.dumps(source.travel()))
    assert travel["family"] == "dinov2" and travel["dtype"] == "float32" and not travel["dtypes"]
    assert source.reading.kept == ["embeddings.mask_token"]
    assert dict(source.reading.ignored)["embeddings.mask_token"].startswith("of its own training")


def test_a_config_of_another_model_is_refused_before_a_tensor_is_read(tmp_path, monkeypatch):
    foreign.write(tmp_path, "clip", vision_config=foreign.CONFIGS["clip"]["vision_config"] | {"num_hidden_layers": 3})
    monkeypatch.setattr("mof_jax.interop.safetensors.read_tensor", lambda *args: pytest.fail("a tensor was read"))
    with pytest.raises(UserError, match=r"vision_model.encoder.layers.2.*which is not there"):
        Source.open(f"hf:{tmp_path}")
    foreign.write(tmp_path, "clip", vision_config=foreign.CONFIGS["clip"]["vision_config"] | {"num_hidden_layers": 1})
    with pytest.raises(UserError, match="nothing reads vision_model.encoder.layers.1"):
        Source.open(f"hf:{tmp_path}")


@pytest.mark.parametrize("name, value, message", [
    ("preprocessor_config.json", {"size": 24, "crop_size": 24, "image_mean": "grey"},
     "image_mean .grey.: three numbers are read here"),
    ("preprocessor_config.json", {"size": "big"}, "is not a square"),
    ("config.json", {"model_type": "clip", "vision_config": {"num_hidden_layers": 10**9}},
     "num_hidden_layers 1000000000 is no whole number"),
    ("config.json", {"model_type": "clip", "vision_config": {"num_hidden_layers": 10**6}}, "which is not there"),
    ("config.json", {"model_type": "clip", "text_config": {"hidden_size": 1e3}}, "hidden_size 1000.0 is no whole number"),
    ("config.json", {"model_type": {"a": 1}}, "is not read here"),
])
def test_hostile_config_files_are_one_line(name, value, message, tmp_path):
    foreign.write(tmp_path, "clip")
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(UserError, match=message) as caught:
        Source.open(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_places_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file or folder"):
        locate(f"hf:{tmp_path}/none")
    with pytest.raises(UserError, match="no config.json there"):
        Source.open(f"hf:{tmp_path}")
    import huggingface_hub

    def offline(*args, **kwargs):
        raise OSError("the network is unreachable\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"hf:openai/clip@main: .* the hub did not give it \(the network is unreachable\)"):
        locate("hf:openai/clip@main")


def test_a_hubs_model_is_a_folder(tmp_path, monkeypatch):
    foreign.write(tmp_path, "clip")
    asked = []
    fetch = lambda *args, **kwargs: asked.append((args, kwargs)) or str(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert Source.open("hf:openai/clip-vit@abc").family.name == "clip"
    assert asked[0][0] == ("openai/clip-vit",) and asked[0][1]["revision"] == "abc"
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked[0][1]["allow_patterns"])


def test_a_file_with_fewer_blocks_than_its_config_is_not_laid_out(tmp_path, monkeypatch):
    foreign.write(tmp_path, "efficientnet", depth_coefficient=6.0)
    monkeypatch.setattr("mof_jax.interop.source.Skeleton.of", lambda build: pytest.fail("a model was laid out"))
    with pytest.raises(UserError, match=r"has no _blocks.\d+; its config.json .depth_coefficient. speaks of \d+ blocks"):
        Source.open(f"hf:{tmp_path}")
