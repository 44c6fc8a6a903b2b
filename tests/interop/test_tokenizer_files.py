"""Tokenizer files: every export carries what its library reads with, and that reads as we do; what cannot be said is refused."""

from __future__ import annotations

import json

import awkward
import foreign
import numpy as np
import pytest
import tokenizers

from mof_jax import convert
from mof_jax.data.text.tokenizers import TokenizerConfig, make, train
from mof_jax.errors import UserError
from mof_jax.interop.families import FAMILIES
from mof_jax.interop.source import Source
from mof_jax.interop.words import read_tokenizer, tokenizer_files

STRINGS = awkward.strings()
# Without what CLIP's cleaning repairs and the library's class leaves: entities, ligatures, curly quotes, control characters.
PLAIN = [text for text in STRINGS if text.isascii() and "&" not in text and text.isprintable()]
CLIP_FILES = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}


def same(ours, data: bytes, texts) -> None:
    """A `tokenizer.json` gives our ids, padding aside."""
    theirs = tokenizers.Tokenizer.from_str(data.decode())
    for text, row in zip(texts, ours(texts).tolist(), strict=True):
        ids = theirs.encode(text).ids
        if len(ids) <= len(row):
            assert ids == row[: len(ids)] and set(row[len(ids):]) <= {ours.pad_id}, text


def test_clips_own_vocabulary_is_written_in_full():
    clip = make(TokenizerConfig(kind="clip"))
    files = tokenizer_files(clip, "clip", {})
    assert set(files) == CLIP_FILES
    assert len(PLAIN) > 40
    same(clip, files["tokenizer.json"], [*PLAIN, "it's <b>2</b> they'll", "é ñ Ünï", "日本"])
    vocabulary, merges = json.loads(files["vocab.json"]), files["merges.txt"].decode().split("\n")
    assert len(vocabulary) == 49408 and vocabulary["<|endoftext|>"] == 49407 and vocabulary["cat</w>"] == 2368
    assert merges[0] == "#version: 0.2" and merges[1] == "i n" and len(merges) == 48894 + 2 and merges[-1] == ""
    said = json.loads(files["tokenizer_config.json"])
    assert said["tokenizer_class"] == "CLIPTokenizer" and said["model_max_length"] == 77 and said["pad_token"] == "<|endoftext|>"
    kept = {"tokenizer_config.json": {"a": 1}}
    assert json.loads(tokenizer_files(clip, "clip", kept)["tokenizer_config.json"]) == {"a": 1}, "what came with it stays"
    assert tokenizer_files(clip, "open_clip", {}) == {}, "that library ships it"


def test_a_clip_that_came_without_a_tokenizer_goes_back_with_one(tmp_path):
    """The library would make one of two words."""
    text = foreign.CONFIGS["clip"]["text_config"] | {"vocab_size": 49408, "eos_token_id": 49407}
    table = np.random.default_rng(0).standard_normal((49408, foreign.WIDTH)).astype(np.float32)
    foreign.write(tmp_path / "hf", "clip", {"text_model.embeddings.token_embedding.weight": table}, text_config=text)
    (tmp_path / "hf" / "tokenizer.json").unlink()
    convert.convert(f"hf:{tmp_path}/hf", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    assert CLIP_FILES <= {path.name for path in (tmp_path / "back").iterdir()}
    first, back = (Source.open(f"hf:{tmp_path}/{name}").tokenizer for name in ("hf", "back"))
    assert first.config.kind == "clip" and back.config.kind == "hf" and back.vocab_size == 49408
    for one, other in zip(first(PLAIN).tolist(), back(PLAIN).tolist()):
        end = one.index(49407) + 1
        assert one[:end] == other[:end]
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps({"a": 0}))
    config = FAMILIES["clip"].read(foreign.CONFIGS["clip"] | {"text_config": text})
    with pytest.raises(UserError, match="vocab.json: another vocabulary than CLIP's own; save its tokenizer.json"):
        read_tokenizer(str(tmp_path / "hf"), "clip", config)
    (tmp_path / "hf" / "vocab.json").write_bytes((tmp_path / "back" / "vocab.json").read_bytes())
    assert read_tokenizer(str(tmp_path / "hf"), "clip", config).config.kind == "clip"


@pytest.mark.parametrize("options", [dict(kind="bpe"), dict(kind="wordlevel"), dict(kind="bpe", bos=True, lowercase=False),
                                     dict(kind="wordlevel", strip_punctuation=True), dict(kind="bpe", eos=False)], ids=str)
def test_a_vocabulary_that_was_trained_here_keeps_its_canonical_form_and_its_ends(options):
    trained = train(PLAIN, config=TokenizerConfig(vocab_size=400, context_length=40, **options))
    files = tokenizer_files(trained, "clip", {})
    same(trained, files["tokenizer.json"], [*PLAIN, "  Two  Words\t", "A_b, C!"])
    said = json.loads(files["tokenizer_config.json"])
    assert (said["pad_token"], said["eos_token"], said["model_max_length"]) == ("<pad>", "</s>", 40)


@pytest.mark.parametrize("options", [dict(lowercase=True), dict(bos=False, eos=True), dict(bos=False, eos=False),
                                     dict(strip_punctuation=True, lowercase=True), {}], ids=str)
def test_a_file_that_is_read_in_a_way_of_its_own_is_written_with_it(options, tmp_path):
    foreign.vocabulary().save(str(tmp_path / "tokenizer.json"))
    ours = make(TokenizerConfig(kind="hf", path=str(tmp_path / "tokenizer.json"), context_length=12, **options))
    files = tokenizer_files(ours, "clip", {})
    same(ours, files["tokenizer.json"], ["w1 w2", "W3  w4!", "", "w5_w6"])
    as_it_came = make(TokenizerConfig(kind="hf", path=str(tmp_path / "tokenizer.json"), pieces="transformers"))
    assert tokenizer_files(as_it_came, "clip", {})["tokenizer.json"] == (tmp_path / "tokenizer.json").read_bytes()


def test_what_no_file_can_say():
    with pytest.raises(UserError, match="CLIP's pads with the id of '!'"):
        tokenizer_files(make(TokenizerConfig(kind="clip")), "siglip", {})


def open_clip(folder, **text):
    cfg = json.loads(json.dumps(foreign.CONFIGS["open_clip"]))
    cfg["model_cfg"]["text_cfg"] |= text
    folder.mkdir(exist_ok=True)
    foreign.vocabulary().save(str(folder / "tokenizer.json"))
    return cfg, FAMILIES["open_clip"].read(cfg)


def test_open_clips_words_are_read_with_the_tokenizer_that_it_names(tmp_path):
    """A name, whatever it is, means the files in the folder, cleaned as the library cleans; none means CLIP's own."""
    for size in (foreign.VOCAB, 49408):
        cfg, config = open_clip(tmp_path, vocab_size=size, hf_tokenizer_name="facebook/xlm-v-base")
        found = read_tokenizer(str(tmp_path), "open_clip", config, cfg)
        assert (found.config.kind, found.config.pieces) == ("hf", "open_clip")
        np.testing.assert_array_equal(found(["w3   w4\n&quot;"]), found(['w3 w4 "']))
    cfg, config = open_clip(tmp_path, vocab_size=49408)
    assert read_tokenizer(str(tmp_path), "open_clip", config, cfg).config.kind == "clip"
    cfg, config = open_clip(tmp_path, hf_tokenizer_name="x")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="its words are those of 'x' .hf_tokenizer_name., and there is no tokenizer.json"):
        read_tokenizer(str(tmp_path), "open_clip", config, cfg)


@pytest.mark.parametrize("text, message", [
    (dict(hf_tokenizer_name="x", tokenizer_kwargs={"strip_sep_token": True}), "tokenizer_kwargs.strip_sep_token True is not"),
    (dict(hf_tokenizer_name="x", tokenizer_kwargs={"clean": "canonicalize"}), "tokenizer_kwargs.clean 'canonicalize' is not"),
    (dict(tokenizer_kwargs={"clean": "whitespace"}), "tokenizer_kwargs.clean 'whitespace'"),
    (dict(tokenizer_mode="clips"), "tokenizer_mode 'clips' is not built"),
    (dict(hf_tokenizer_name=3), "hf_tokenizer_name 3 is no name"),
    (dict(tokenizer_kwargs={"language": "en"}), "tokenizer_kwargs.language 'en'"),
    (dict(tokenizer_kwargs={"x": 1}), "tokenizer_kwargs.x .1. is not known here"), (dict(tokenizer_kwargs=[1]), "is no section"),
])
def test_ways_of_reading_that_are_not_built(text, message, tmp_path):
    cfg, config = open_clip(tmp_path, **text)
    with pytest.raises(UserError, match=message):
        read_tokenizer(str(tmp_path), "open_clip", config, cfg)


def test_an_open_clip_export_names_the_tokenizer_beside_it(tmp_path):
    """Without the name, the library would read words of another vocabulary with CLIP's."""
    foreign.write(tmp_path / "hf", "open_clip")
    convert.convert(f"hf:{tmp_path}/hf", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    cfg = json.loads((tmp_path / "back" / "open_clip_config.json").read_text())
    assert cfg["model_cfg"]["text_cfg"]["hf_tokenizer_name"] and (tmp_path / "back" / "tokenizer.json").exists()
    own = {"model_cfg": {"text_cfg": {"hf_tokenizer_name": "x"}}}
    convert._name_words(own["model_cfg"]["text_cfg"], False)
    assert own["model_cfg"]["text_cfg"]["hf_tokenizer_name"] is None


@pytest.mark.parametrize("kind", ["clip", "siglip", "bert"])
@pytest.mark.parametrize("said, message", [
    ({"padding_side": "left"}, "tokenizer_config.json: padding_side 'left' is not built here"),
    ({"truncation_side": "left"}, "truncation_side 'left' is not built here"),
    ({"tokenizer_class": "GemmaTokenizerFast"}, "leaves padding_side to GemmaTokenizerFast, which pads in front"),
])
def test_texts_are_padded_and_cut_behind(kind, said, message, tmp_path):
    foreign.vocabulary().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=message):
        read_tokenizer(str(tmp_path), kind, FAMILIES[kind].read(foreign.CONFIGS[kind]))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("limit, length", [(5, 5), (500, foreign.CONTEXT), (10**30, foreign.CONTEXT), (None, foreign.CONTEXT)])
def test_where_texts_are_cut_and_padded_to(kind, limit, length, tmp_path):
    """SigLIP's feature is that of the last place, so the length decides it."""
    foreign.vocabulary().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit, "padding_side": "right"}))
    assert read_tokenizer(str(tmp_path), kind, FAMILIES[kind].read(foreign.CONFIGS[kind])).context_length == length


def test_a_siglip_that_does_not_lower_case(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    with pytest.raises(UserError, match="do_lower_case False is not built here, True or None is"):
        read_tokenizer(str(tmp_path), "siglip", FAMILIES["siglip"].read(foreign.CONFIGS["siglip"]))
