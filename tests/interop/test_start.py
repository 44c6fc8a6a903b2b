"""`init_from.path = "hf:…"`: any tower alone, several sources at once, and a refusal where the numbers would be others."""

from __future__ import annotations

import dataclasses
import pathlib

import foreign
import numpy as np
import pytest

from mof_jax import config as configs
from mof_jax import run, trainer
from mof_jax.errors import UserError
from mof_jax.interop.source import Source
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings
from mof_jax.models.connectors.projector import MlpConnector
from mof_jax.models.fusion.interleaved import Interleaved
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import resample_pos_embed
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.next_token import NextToken
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask
from mof_jax.tasks.mllm import MllmTask
from mof_jax.train.start import InitConfig, take_params

LIT = pathlib.Path(__file__).parents[2] / "configs" / "clip" / "lit.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("foreign")
    for kind in ("clip", "dinov2", "llama"):
        foreign.write(root / kind, kind)
    return root


def source(folders, kind):
    return Source.open(f"hf:{folders}/{kind}")


def take(task, *sources, mesh=MeshConfig()):
    grid, skeleton = make_mesh(mesh), Skeleton.of(task.build)

    def adapt(path, value):
        return task.adapt(path, skeleton.resample[path](value) if path in skeleton.resample else value)

    return take_params(sources, skeleton, param_shardings(grid, skeleton, mesh.rules), adapt), skeleton


def two_tower(folders, **image) -> ContrastiveTask:
    config = source(folders, "clip").config
    return ContrastiveTask(dataclasses.replace(config, image=dataclasses.replace(config.image, **image)), Softmax())


def mllm(folders, **llm) -> MllmTask:
    """CLIP and DINOv2 interleaved, in front of a Llama."""
    clip, dinov2, words = (source(folders, kind).config for kind in ("clip", "dinov2", "llama"))
    config = MllmConfig(
        (EncoderConfig("clip", clip.image, layer=-2), EncoderConfig("dino", dinov2.encoder)), dataclasses.replace(words, **llm),
        Interleaved(), MlpConnector())
    return MllmTask(config, NextToken(), context=64, rows=1, images=1)


def test_one_tower_alone(folders, capsys):
    path = f"hf:{folders}/clip"
    params, skeleton = take(two_tower(folders), InitConfig(path, take=(("image/.*", True), (".*", False))))
    assert set(params) == {name for name in skeleton.shapes if name.startswith("image/")}
    np.testing.assert_array_equal(params["image/project/kernel"], source(folders, "clip").reading.read("image/project/kernel"))
    shown = capsys.readouterr().out
    assert "loaded" in shown and "missing" in shown and "reshaped" in shown and "parameters start fresh" in shown


def test_several_sources_and_a_sharded_mesh(folders):
    """A Mixture of Features from three models; the second last layer of CLIP leaves the last one out."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    params, skeleton = take(
        mllm(folders), InitConfig(f"hf:{folders}/clip", rename=(("encoders/clip/(.*)", r"image/\1"),)),
        InitConfig(f"hf:{folders}/dinov2", rename=(("encoders/dino/(.*)", r"encoder/\1"),)),
        InitConfig(f"hf:{folders}/llama", rename=(("llm/.*", r"\g<0>"),)), mesh=mesh)
    assert {name.split("/")[0] for name in set(skeleton.shapes) - set(params)} == {"adapters"}
    clip, llama = source(folders, "clip").reading, source(folders, "llama").reading
    np.testing.assert_array_equal(params["encoders/clip/blocks/layers/attn/qkv"], clip.read("image/blocks/layers/attn/qkv")[:1])
    np.testing.assert_array_equal(params["llm/embedding"], llama.read("llm/embedding"))
    assert not params["llm/blocks/layers/gate/kernel"].sharding.is_fully_replicated


def test_both_projectors_of_the_released_mixture_are_kept_apart(folders, tmp_path):
    """Names that contain `mm_projector` are two: the first code of I-MoF gave CLIP's adapter the weights of DINOv2's."""
    sample = foreign.write(tmp_path, "llava_parts")
    params, skeleton = take(mllm(folders), InitConfig(f"hf:{tmp_path}", take=(("(adapters|llm)/.*", True), (".*", False))))
    assert set(params) == {name for name in skeleton.shapes if not name.startswith("encoders/")}
    for ours, theirs in (("clip", "mm_projector"), ("dino", "dino_mm_projector")):
        np.testing.assert_array_equal(params[f"adapters/{ours}/fc2/kernel"], sample.weights[f"model.{theirs}.2.weight"].T)
    found = source(tmp_path.parent, tmp_path.name)
    assert found.reading.ignored == [("model.dino_tower.dino.norm.weight", "a tower: take it from its own model")]


def test_another_resolution_resamples_the_positions(folders, capsys):
    params, _ = take(two_tower(folders, image_size=40), InitConfig(f"hf:{folders}/clip"))
    want = resample_pos_embed(source(folders, "clip").reading.read("image/pos_embed"), (5, 5), prefix=1)
    np.testing.assert_allclose(params["image/pos_embed"], want, atol=1e-6)
    shown = "".join(capsys.readouterr().out.split())
    assert "(10,16)→(26,16)" in shown


def test_a_vocabulary_is_filled_up(folders):
    """To a size that a mesh divides: new rows are the mean of the old ones, in the head too."""
    params, _ = take(mllm(folders, vocab_size=48), InitConfig(f"hf:{folders}/llama", rename=(("llm/.*", r"\g<0>"),)))
    old = source(folders, "llama").reading.read("llm/embedding")
    np.testing.assert_array_equal(params["llm/embedding"][:40], old)
    np.testing.assert_allclose(params["llm/embedding"][40:], np.tile(old.mean(0), (8, 1)), atol=1e-6)
    assert params["llm/output"].shape == (16, 48)
    with pytest.raises(UserError, match=r"llm/embedding is of shape \(40, 16\).*\(32, 16\) here"):
        take(mllm(folders, vocab_size=32), InitConfig(f"hf:{folders}/llama", rename=(("llm/.*", r"\g<0>"),)))


@pytest.mark.parametrize("change, message", [
    (dict(activation="gelu"), r"image.* has activation 'gelu', the weights of .*clip were made with 'quick_gelu'"),
    (dict(norm_eps=1e-6), "has norm_eps 1e-06, .* 1e-05"),
    (dict(heads=4), "has heads 4, .* 2"),
    (dict(mean=(0.5, 0.5, 0.5)), r"image has mean \(0.5, 0.5, 0.5\)"),
])
def test_weights_that_would_compute_something_else_are_refused(change, message, folders):
    with pytest.raises(UserError, match=message):
        take(two_tower(folders, **change), InitConfig(f"hf:{folders}/clip"))
    if "heads" not in change:  # which changes shapes, too
        params, _ = take(two_tower(folders, **change), InitConfig(f"hf:{folders}/clip", check=False))
        assert params


def test_the_language_model_is_compared_too(folders):
    with pytest.raises(UserError, match="llm has rope_theta 10000.0, .* 100.0"):
        take(mllm(folders, rope_theta=1e4), InitConfig(f"hf:{folders}/llama", rename=(("llm/.*", r"\g<0>"),)))


def test_lit_on_a_foreign_tower(folders):
    """configs/clip/lit.py takes the tower's config from the source too, so that nothing has to be repeated."""
    for kind in ("clip", "dinov2"):
        c = configs.load(f"{LIT}:hf:{folders}/{kind}")
        c.tokenizer = dict(kind="run", path=f"hf:{folders}/clip")
        resolved = run.resolve(c)
        assert resolved.data.image_size == foreign.IMAGE and trainer.first_tokenizer(resolved).vocab_size == foreign.VOCAB
        task = ContrastiveTask(resolved.model.with_tokenizer(trainer.first_tokenizer(resolved)), Softmax())
        params, skeleton = take(task, *resolved.init_from)
        assert set(params) == {name for name in skeleton.shapes if name.startswith("image/")}


def test_a_tokenizer_that_is_not_there(folders):
    c = configs.load(f"{LIT}:hf:{folders}/dinov2")
    c.tokenizer = dict(kind="run", path=f"hf:{folders}/dinov2")
    with pytest.raises(UserError, match="has no tokenizer beside its weights"):
        trainer.first_tokenizer(run.resolve(c))


def test_mistakes_name_the_config_key(folders, tmp_path):
    with pytest.raises(UserError, match="config.init_from: hf:.*no such file or folder"):
        take(two_tower(folders), InitConfig(f"hf:{tmp_path}/none"))
    with pytest.raises(UserError, match="config.init_from: image/.* is to come from .*, which hf:.*llama lacks"):
        take(two_tower(folders), InitConfig(f"hf:{folders}/llama"))


def test_a_mesh_gets_the_values_of_one_device(folders):
    """Four ways of fsdp and two of tensor: every parameter bit for bit, and no device holds all of a large one."""
    path = InitConfig(f"hf:{folders}/clip")
    apart, skeleton = take(two_tower(folders), path, mesh=MeshConfig(fsdp=4, tensor=2))
    alone, _ = take(two_tower(folders), path, mesh=MeshConfig(data=8))
    assert set(apart) == set(alone) == set(skeleton.shapes)
    for name, x in alone.items():
        assert x.sharding.is_fully_replicated and np.array_equal(apart[name], x), name
    split = {name: x.size // x.addressable_shards[0].data.size for name, x in apart.items()}
    assert split["image/blocks/layers/attn/qkv"] == 8 and split["text/blocks/layers/mlp/up/kernel"] == 8
