"""Tokenizers: parity with OpenCLIP, what each kind puts around a text, and that a saved one reads the same."""

import base64
import gzip
import io
import json
import pathlib
import pickle
import random
import threading

import numpy as np
import pytest
import sentencepiece
import tokenizers as hf

from mof_jax.data.text import vocabularies
from mof_jax.data.text.canonical import canonical
from mof_jax.data.text.tokenizers import TokenizerConfig, load, make, train
from mof_jax.errors import UserError

FIXTURE = json.loads((pathlib.Path(__file__).parent / "fixtures" / "clip_tokens.json").read_text())
CAPTIONS = ["a red apple", "a green apple", "two red cars", "keycap: #", "keycap: *", "Woman cook"] * 3


@pytest.fixture(scope="module")
def clip():
    return make(TokenizerConfig(kind="clip"))


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """A tiny SentencePiece model laid out as SigLIP's: <pad> 0, </s> 1, <unk> 2, no bos."""
    things = [f"{a} {b}" for a in ("red", "green", "blue") for b in ("apple", "car", "cat")]
    lines = [f"{thing} number {i}" for i in range(40) for thing in things]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("spm") / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def hf_json(tmp_path_factory):
    """A `tokenizer.json` with a template, padding and truncation of its own."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "apple", "</s>"]
    tokenizer = hf.Tokenizer(hf.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = hf.processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=20, pad_id=0)
    tokenizer.enable_truncation(3)
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("row", FIXTURE["rows"], ids=lambda row: row["text"][:20])
def test_clip_equals_open_clip(clip, row):
    ids = clip([row["text"]])
    assert ids.dtype == np.int32 and ids.shape == (1, 77)
    assert ids[0].tolist() == row["ids"] + [0] * (77 - len(row["ids"]))


def test_clip_properties(clip):
    assert (clip.vocab_size, clip.context_length) == (FIXTURE["vocab_size"], FIXTURE["context_length"]) == (49408, 77)
    assert (clip.bos_id, clip.eos_id, clip.pad_id) == (49406, 49407, 0)
    assert clip.decode(clip(["A photo of a cat"])[0]) == "a photo of a cat"
    long = make({"kind": "clip", "context_length": 8})(["word " * 20])[0]
    assert long[0] == 49406 and long[-1] == 49407
    assert np.sum(clip(["<end_of_text> <start_of_text>"]) == clip.eos_id) == 1  # spelled, not meant


def test_canonical_equals_open_clip():
    for text, expected in FIXTURE["canonical"]:
        assert canonical(text, lowercase=True, strip_punctuation=True) == expected
    assert canonical(" A  b_c. ", lowercase=False, strip_punctuation=False) == "A b_c."


def test_wordlevel_ids_are_pinned():
    tokenizer = train(CAPTIONS, vocab_size=100, context_length=8, kind="wordlevel")
    # By count, then by spelling: ":", "a", "apple", "keycap", "red" are seen 6 times each.
    ids = tokenizer(["a red apple", "A RED zebra: apple", ""])
    assert ids.tolist() == [[5, 8, 6, 3, 0, 0, 0, 0], [5, 8, 1, 4, 6, 3, 0, 0], [3] + [0] * 7]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 2, 3)
    assert tokenizer(["keycap: #"]).tolist() != tokenizer(["keycap: *"]).tolist()
    assert train(CAPTIONS, vocab_size=6, context_length=8, kind="wordlevel").vocab_size == 6


@pytest.mark.parametrize("kind", ["wordlevel", "bpe"])
def test_training_is_deterministic(kind):
    captions = [f"{a} {b}" for a in ("red", "green", "blue") for b in ("apple", "car", "cat", "horse", "house")] * 5
    first = train(captions, 300, 16, kind).save()
    for seed in range(3):
        random.Random(seed).shuffle(captions)
        assert train(captions, 300, 16, kind).save() == first


def test_bpe_knows_every_word():
    tokenizer = train(CAPTIONS, vocab_size=300, context_length=16)
    assert tokenizer.config.kind == "bpe" and tokenizer.vocab_size <= 300
    for text in ("a red apple", "zebra", "日本", "</s> <pad>"):
        ids = tokenizer([text])[0]
        assert tokenizer.decode(ids) == text
        assert 1 not in ids and list(ids).count(tokenizer.eos_id) == 1
    with pytest.raises(UserError, match="bpe needs 260"):
        train(CAPTIONS, vocab_size=100)


def test_context_keeps_eos():
    tokenizer = train(CAPTIONS, context_length=4, kind="wordlevel")
    assert tokenizer(["a red apple a red apple"])[0].tolist()[-1] == tokenizer.eos_id
    with pytest.raises(UserError, match="no room"):
        train(CAPTIONS, context_length=1)


def test_sentencepiece_is_siglip_style(spm):
    tokenizer = make({"kind": "sentencepiece", "path": str(spm)})
    plain = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    expected = [*plain.encode("red apple"), 1]
    assert tokenizer(["Red, apple!"])[0].tolist() == expected + [1] * (64 - len(expected))  # padded with eos
    assert tokenizer(["red apple " * 50])[0, -1] == 1
    assert tokenizer.bos_id is None and tokenizer.vocab_size == plain.vocab_size()
    two = make({"kind": "sentencepiece", "path": str(spm), "strip_punctuation": False, "pad_id": 0})
    assert two.pad_id == 0 and two(["red apple"])[0, -1] == 0
    assert two.decode(two(["red apple"])[0]) == "red apple"
    with pytest.raises(UserError, match="no bos token"):
        make({"kind": "sentencepiece", "path": str(spm), "bos": True})


def test_pieces_of_the_library(spm, hf_json):
    """SigLIP's underscores, deleted instead of a space; under `hf` the text as it is, letters lower-cased one by one."""
    ours, theirs = (make({"kind": "sentencepiece", "path": str(spm), "pieces": p}) for p in ("ours", "transformers"))
    assert ours.canonical(" Red_apple, x") == "red apple x" and theirs.canonical(" Red_apple, x") == "redapple x"
    assert theirs.encode(["red_apple"]) == theirs.encode(["redapple"]) != ours.encode(["red_apple"])
    assert theirs.encode(["red apple", ""]) == ours.encode(["red apple", ""])
    assert load(theirs.save()).config.pieces == "transformers"
    hf = make({"kind": "hf", "path": str(hf_json), "pieces": "transformers", "lowercase": True})
    assert hf.canonical(" A\t ΟΔΟΣ ") == " a\t οδοσ "
    assert make({"kind": "hf", "path": str(hf_json), "lowercase": True}).canonical(" A\t ΟΔΟΣ ") == "a οδος"
    assert make({"kind": "clip"}).canonical("ŉ") == "'n"


@pytest.mark.parametrize("rule", ["metaspace", "prefix"])
def test_exact_text_loses_a_space_only_where_the_vocabulary_adds_one(rule, tmp_path):
    """Metaspace adds none to a text that begins with one; the older rule, a prefix, always does."""
    vocabulary = {token: i for i, token in enumerate(["<unk>", "▁", "▁a", "a", "▁x", "x", "▁▁a"])}
    made = hf.Tokenizer(hf.models.BPE(vocabulary, [("▁", "a"), ("▁", "x"), ("▁", "▁a")], unk_token="<unk>"))
    if rule == "metaspace":
        made.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend("▁"), hf.normalizers.Replace(" ", "▁")])
    made.save(str(tmp_path / "tokenizer.json"))
    read = make({"kind": "hf", "path": str(tmp_path / "tokenizer.json")})
    assert read.encode(["a", " a", "  a"], exact=True) == [[2], [2], [6]]


def test_sentencepiece_equals_transformers(spm):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SiglipTokenizer(vocab_file=str(spm), pad_token="</s>")
    ours = make({"kind": "sentencepiece", "path": str(spm)})
    for text in ("red apple", "Red, APPLE!  it's 12", "", "zebra", "blue cat " * 50, "hello-world", "日本"):
        expected = theirs([text], padding="max_length", max_length=64, truncation=True)["input_ids"]
        assert ours([text]).tolist() == expected


def test_hf_file_says_what_goes_around(hf_json):
    tokenizer = make({"kind": "hf", "path": str(hf_json), "context_length": 6})
    assert tokenizer(["red apple", "red apple " * 9]).tolist() == [[2, 4, 5, 3, 0, 0], [2, 4, 5, 4, 5, 3]]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, 0)
    assert tokenizer(["red [SEP] apple"])[0].tolist() == [2, 4, 1, 1, 1, 3]  # spelled, not meant
    bare = make({"kind": "hf", "path": str(hf_json), "context_length": 6, "bos": False, "eos": False})
    assert bare(["red apple"])[0].tolist() == [4, 5, 0, 0, 0, 0]


def _every_kind(spm, hf_json):
    return [
        train(CAPTIONS, kind="wordlevel"),
        train(CAPTIONS, vocab_size=300),
        make({"kind": "clip", "context_length": 16}),
        make({"kind": "sentencepiece", "path": str(spm)}),
        make({"kind": "hf", "path": str(hf_json), "lowercase": True}),
    ]


def test_saved_reads_the_same(spm, hf_json):
    texts = ["A red apple, please!", "", "keycap: #", "“woman’s” 日本 12"]
    for tokenizer in _every_kind(spm, hf_json):
        saved = json.loads(json.dumps(tokenizer.save()))
        for again in (load(saved), pickle.loads(pickle.dumps(tokenizer))):
            assert np.array_equal(again(texts), tokenizer(texts))
            assert again.save() == saved and again.config.kind == tokenizer.config.kind
            assert (again.pad_id, again.bos_id, again.eos_id) == (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
    assert len(json.dumps(make({"kind": "clip"}).save())) < 1000  # its vocabulary ships with the package


def test_threads():
    tokenizer = train(CAPTIONS, vocab_size=300)
    expected, found = tokenizer(CAPTIONS), []
    threads = [threading.Thread(target=lambda: found.append(tokenizer(CAPTIONS))) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 8 and all(np.array_equal(ids, expected) for ids in found)


@pytest.mark.parametrize("kind", ["clip", "sentencepiece", "hf", "wordlevel", "bpe"])
@pytest.mark.parametrize("content", [None, b"", b"\x1f\x8b nonsense", b"{}", b"\x80\x04K\x01."])
def test_bad_vocabulary_is_named(tmp_path, kind, content):
    path = tmp_path / "vocabulary"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        make({"kind": kind, "path": str(path)})


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabularies, "MAX_FILE", 1 << 16)
    path = tmp_path / "merges.gz"
    path.write_bytes(gzip.compress(b"a b\n" * (1 << 18)))
    with pytest.raises(UserError, match="merges.gz"):
        make({"kind": "clip", "path": str(path)})


def test_one_string_is_not_a_list(clip):
    with pytest.raises(TypeError, match="letter by letter"):
        clip("a cat")


def test_bad_configs():
    for values, match in [
        ({"kind": "sentencepiece"}, "needs path"),
        ({"kind": "wordlevel"}, "none were given"),
        ({"kind": "clip", "context_lenght": 9}, "did you mean 'context_length'"),
        ({"kind": "word"}, "not one of"),
        ({"kind": "clip", "context_length": 0}, "at least 1"),
        ({"kind": "clip", "pad_id": 50000}, "pad_id 50000"),
    ]:
        with pytest.raises(UserError, match=match):
            make(values)
    with pytest.raises(UserError, match="no words"):
        train(["", "  "])


def test_damaged_save():
    saved = train(CAPTIONS, kind="wordlevel").save()
    other = base64.b64encode(b"{}").decode()
    for change in ({"schema": 2}, {"vocabulary": other}, {"vocabulary": "?"}, {"sha256": "0"}, {"config": {"kind": 1}}):
        with pytest.raises(UserError):
            load({**saved, **change})
    for key in saved:
        with pytest.raises(UserError):
            load({k: v for k, v in saved.items() if k != key})
