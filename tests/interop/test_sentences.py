"""A BERT's folder as sentence-transformers writes it: how a sentence is pooled, cut and padded, and what is not built."""

from __future__ import annotations

import json
import pathlib
import types

import foreign
import jax.numpy as jnp
import numpy as np
from parity_cases import CONTEXT, VOCAB
import pytest

from mof_jax import convert
from mof_jax.errors import UserError
from mof_jax.interop import sentences
from mof_jax.interop.families import FAMILIES
from mof_jax.interop.source import Source
from mof_jax.interop.words import read_tokenizer
from mof_jax.models.text import TextTower

CONFIG = FAMILIES["bert"].read(foreign.CONFIGS["bert"])
WAYS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def pooling(way: str) -> dict:
    return {"word_embedding_dimension": 16} | {f"pooling_mode_{x}": x == way for x in WAYS}


def write(folder: pathlib.Path, pooled: dict | None, kinds=("Transformer", "Pooling", "Normalize"),
          prefix="sentence_transformers.models.", **files) -> str:
    """The folder, with `modules.json` unless `pooled` is None."""
    foreign.write(folder, "bert")
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    if pooled is not None:
        (folder / "modules.json").write_text(json.dumps(
            [dict(idx=i, name=str(i), path=paths[kind], type=prefix + kind) for i, kind in enumerate(kinds)]))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return f"hf:{folder}"


@pytest.mark.parametrize("pooled, wanted", [
    (None, "gap"), (pooling("mean_tokens"), "gap"), (pooling("cls_token"), "first"), (pooling("max_tokens"), "max"),
    (pooling("mean_sqrt_len_tokens"), "gap"),
    ({"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}, "first"),
    ({"pooling_mode": ["max"]}, "max"), ({}, "gap")])
def test_how_a_sentence_is_pooled(pooled, wanted, tmp_path):
    write(tmp_path, pooled)
    assert sentences.pool_of(str(tmp_path)) == wanted
    write(tmp_path, pooled, ("Transformer", "Pooling"), "sentence_transformers.base.modules.")
    assert sentences.pool_of(str(tmp_path)) == wanted


def test_what_each_way_of_pooling_computes():
    """Of hidden states of which the last two are padding; tests/parity has the library's."""
    rng, ids = np.random.default_rng(0), np.array([[3, 5, 7, 0, 0]])
    x = rng.standard_normal((1, 5, 4)).astype(np.float32)
    for pool, wanted in (("first", x[:, 0]), ("gap", x[:, :3].mean(1)), ("max", x[:, :3].max(1))):
        tower = types.SimpleNamespace(config=types.SimpleNamespace(pool=pool))
        np.testing.assert_allclose(TextTower._pooled(tower, jnp.asarray(x), ids, ids != 0), wanted, rtol=1e-6)


@pytest.mark.parametrize("pooled, kinds, files, message", [
    (pooling("weightedmean_tokens"), None, {}, "1_Pooling/config.json: a pooling of .'weightedmean'.; one of mean"),
    (pooling("lasttoken"), None, {}, "a pooling of .'lasttoken'."),
    (pooling("cls_token") | {"pooling_mode_max_tokens": True}, None, {}, "a pooling of .'cls', 'max'."),
    (pooling("cls_token") | {"pooling_mode_new": True}, None, {}, "pooling_mode_new .True. is not known here"),
    ({"pooling_mode": 3}, None, {}, "a pooling of .3."),
    ({"pooling_mode_cls_token": "yes"}, None, {}, "is neither true nor false"),
    (pooling("cls_token"), ("Transformer", "Pooling", "Dense"), {}, "modules .*Dense .2_Dense..; a Transformer, a Pool"),
    (pooling("cls_token"), ("Transformer", "Dense", "Pooling"), {}, "Dense .2_Dense."),
    (pooling("cls_token"), ("Pooling",), {}, "a Transformer, a Pooling and a Normalize"),
    (pooling("cls_token"), ("Transformer",), {}, "names no Pooling"),
    (pooling("cls_token"), None, {"modules": {"a": 1}}, "modules.json: None is no module"),
    (pooling("cls_token"), None, {"modules": [{"type": "a.Transformer", "path": "../up"}]}, "is no module with a type"),
    (pooling("cls_token"), None, {"modules": [{"type": ["a"], "path": ""}]}, "is no module"),
    (pooling("cls_token"), None, {"sentence_bert_config": {"max_seq_length": 5, "stranger": 1}}, "stranger .1. is not known"),
    (pooling("cls_token"), None, {"sentence_bert_config": {"max_seq_length": True}}, "max_seq_length True is no whole"),
    (pooling("cls_token"), None, {"sentence_bert_config": {"do_lower_case": True}}, "do_lower_case True, and tokenizer"),
    (pooling("cls_token"), None, {"sentence_bert_config": {"transformer_task": "fill-mask"}}, "transformer_task 'fill-mask'"),
    (pooling("cls_token"), None, {"config_sentence_transformers": {"prompts": {"query": "q: "}, "default_prompt_name": "query"}},
     "default_prompt_name 'query' puts 'q: ' before every text"),
    (pooling("cls_token"), None, {"tokenizer_config": {"pad_token": "</s>"}}, "no padding but the id that ends texts, 39"),
])
def test_what_is_not_built_is_said(pooled, kinds, files, message, tmp_path):
    given = {} if kinds is None else {"kinds": kinds}
    with pytest.raises(UserError, match=message) as caught:
        Source.open(write(tmp_path, pooled, **given, **files))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_prompts_that_are_not_used_and_empty_ones_are_free(tmp_path):
    empty = {"prompts": {"a": ""}, "default_prompt_name": "a"}
    for prompts in ({"prompts": {"query": "q: "}, "default_prompt_name": None}, empty, {}):
        write(tmp_path, {}, config_sentence_transformers=prompts)
        assert sentences.pool_of(str(tmp_path)) == "gap"


def test_a_transformer_in_a_folder_of_its_own(tmp_path):
    """The modules lie above it."""
    write(tmp_path / "0_Transformer", None)
    modules = [dict(type="x.Transformer", path="0_Transformer"), dict(type="x.Pooling", path="1_Pooling")]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling("cls_token")))
    assert Source.open(f"hf:{tmp_path}/0_Transformer").config.text.pool == "first"
    assert sentences.pool_of(str(tmp_path / "1_Pooling")) == "gap", "a folder that is none of its transformers"


@pytest.mark.parametrize("files, length", [
    ({}, CONTEXT), ({"sentence_bert_config": {"max_seq_length": 5}}, 5),
    ({"sentence_bert_config": {"max_seq_length": 999}}, CONTEXT),
    ({"sentence_bert_config": {"max_seq_length": None}}, CONTEXT), ({"tokenizer_config": {"model_max_length": 6}}, 6),
    ({"tokenizer_config": {"model_max_length": 10**30}}, CONTEXT),
    ({"tokenizer_config": {"model_max_length": 6}, "sentence_bert_config": {"max_seq_length": 4}}, 4)])
def test_where_a_text_is_cut(files, length, tmp_path):
    write(tmp_path, {}, **files)
    assert read_tokenizer(str(tmp_path), "bert", CONFIG).context_length == length


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
def test_padding_is_the_tokenizers_not_the_configs(name, tmp_path):
    """The mask is made of what the tokenizer pads with."""
    source = Source.open(write(tmp_path, None, **{name: {"pad_token": "w7"}}))
    assert source.theirs["pad_token_id"] == VOCAB - 1 and source.config.text.pad_id == source.tokenizer.pad_id == 7
    config = write(tmp_path, None)
    (tmp_path / f"{name}.json").unlink()
    (tmp_path / "tokenizer.json").unlink()
    assert Source.open(config).config.text.pad_id == VOCAB - 1, "without a tokenizer there is the config's alone"


def test_a_normaliser_that_the_library_would_make_anew(tmp_path):
    path = write(tmp_path, None, tokenizer_config={"do_lower_case": False})
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    made["normalizer"] = dict(
        type="BertNormalizer", clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match="do_lower_case False goes against the normalizer of tokenizer.json .lowercase True"):
        Source.open(path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": None}))
    lower = {"max_seq_length": 8, "do_lower_case": True}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(lower))
    tokenizer = read_tokenizer(str(tmp_path), "bert", CONFIG)
    assert tokenizer(["W1 w2"]).tolist() == tokenizer(["w1 W2"]).tolist()


@pytest.mark.parametrize("way, pool", [("cls_token", "first"), ("max_tokens", "max")])
def test_there_and_back(way, pool, tmp_path):
    """The export says how a sentence is pooled and where it is cut: the library alone would take the mean, and all positions."""
    source = write(tmp_path / "hf", pooling(way), sentence_bert_config={"max_seq_length": 6, "do_lower_case": False})
    convert.convert(source, str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    back = Source.open(f"hf:{tmp_path}/back")
    assert (back.config.text.pool, back.tokenizer.context_length) == (pool, 6)
    assert json.loads((tmp_path / "back" / "1_Pooling" / "config.json").read_text())[f"pooling_mode_{way}"] is True
    texts = ["w1 w2 w3 w4 w5 w6 w7", "w9"]
    assert np.array_equal(back.tokenizer(texts), Source.open(source).tokenizer(texts))
