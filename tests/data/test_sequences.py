"""Documents to tokens: the loss mask is the spans', pictures stay whole, mistakes are named."""

import dataclasses

import numpy as np
import pytest
from sequence_samples import tokenizer

from mof_jax.data.packing.sequences import Document, Picture, Special, Text, encode, place, tokenize
from mof_jax.data.text import tokenizers
from mof_jax.errors import BadExample, UserError

K = 3


def document(*parts, kind="interleaved"):
    return Document("d7", kind, parts)


def ids(text):
    return tokenizer().encode([text], exact=True)[0]


def test_tokens_mask_and_pictures_follow_the_parts():
    tok = tokenizer()
    parts = (Special("bos"), Picture(b"one"), Text("what is it?", False), Picture(b"two"), Text(" yes"), Special("eos", True))
    got = encode(document(*parts), tok, K, 64)
    question, answer, blank = ids("what is it?"), ids(" yes"), [tok.pad_id] * K
    assert got.tokens.tolist() == [tok.bos_id, *blank, *question, *blank, *answer, tok.eos_id]
    learned = [False] * (1 + 2 * K + len(question)) + [True] * (len(answer) + 1)
    assert got.supervised.tolist() == learned
    assert got.starts == (1, 1 + K + len(question)) and got.pictures == (b"one", b"two")
    assert got.size == len(answer) + 1 + 2 * K and len(got) == len(learned)


def test_the_first_token_is_never_a_label():
    got = encode(document(Text("a red apple"), kind="text"), tokenizer(), K, 64)
    assert got.supervised.tolist() == [False] + [True] * (len(got) - 1)
    with pytest.raises(BadExample, match="docs: record d7: no supervised token among 1 "):
        encode(document(Special("eos", True)), tokenizer(), K, 64, source="docs")


def test_spans_joined_are_the_text_and_keep_line_breaks():
    pieces = ["a red", " apple\n", "and a green bus"]
    tok = tokenizer()
    joined = [i for piece in tok.encode(pieces, exact=True) for i in piece]
    assert tok.decode(joined) == "a red apple\n and a green bus"  # this vocabulary puts a space before every piece
    assert tok.encode(["a  b\n"], exact=True) != tok.encode(["a b"], exact=True)
    assert tok.encode([" a"], exact=True) == tok.encode(["a"], exact=True)


def test_vocabularies_that_do_not_add_spaces_keep_the_first_one():
    import tokenizers as hf

    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    plain = hf.Tokenizer(hf.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    plain.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = hf.decoders.ByteLevel()
    plain.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tok = tokenizers.Tokenizer(tokenizers.TokenizerConfig(kind="hf", bos=False, eos=False, pad_id=0),
                               tokenizers.vocabularies.parse("hf", plain.to_str().encode(), "test"))
    assert len(tok.encode([" a\n"], exact=True)[0]) == 3 and tok.token_id("<|im_end|>") == len(alphabet) + 1
    got = tokenize("d", [Special("<|im_end|>", True), Text("<|im_end|>"), Special("bos")], tok, K)
    assert got.tokens[0] == len(alphabet) + 1 and len(got) == 1 + len("<|im_end|>")  # spelled in a text it is characters
    with pytest.raises(UserError, match="no end-of-text token"):
        tokenize("d", [Special("eos")], tok, K)


def test_a_special_token_the_vocabulary_lacks_is_text():
    got = tokenize("d", [Special("<|im_end|>")], tokenizer(), K)
    assert got.tokens.tolist() == ids("<|im_end|>")


@pytest.mark.parametrize("length", range(2, 30))
def test_truncation_never_splits_a_picture_and_ends_with_a_learned_token(length):
    parts = (Special("bos"), Text("a red apple"), Picture(b"1"), Text("what is it?", False), Picture(b"2"), Text("yes"))
    whole = encode(document(*parts), tokenizer(), K, 64)
    got = encode(document(*parts), tokenizer(), K, length, on_long="truncate")
    assert len(got) <= length and np.array_equal(got.tokens, whole.tokens[: len(got)])
    assert got.supervised[-1] and len(got.pictures) == len(got.starts)
    assert all(start + K <= len(got) for start in got.starts)
    if length >= len(whole):
        assert len(got) == len(whole) and got.starts == whole.starts


def test_too_many_pictures_are_cut_before_the_first_that_does_not_fit():
    parts = (Text("a red apple"), Picture(b"1"), Text("yes"), Picture(b"2"), Text("no"))
    got = encode(document(*parts), tokenizer(), K, 64, max_images=1, on_long="truncate")
    assert got.pictures == (b"1",) and len(got) == len(ids("a red apple")) + K + len(ids("yes"))
    with pytest.raises(BadExample, match=r"web: record d7: too long: \d+ tokens with 2 images, at most 64 and 1 fit; .*on_long"):
        encode(document(*parts), tokenizer(), K, 64, max_images=1, source="web")
    with pytest.raises(BadExample, match="no supervised token among 0"):
        encode(document(Picture(b"1"), Text("yes")), tokenizer(), K, 2, on_long="truncate")


def test_pictures_go_where_their_placeholders_are():
    spans = [Text("x <image> y", False), Special("eos", True), Text("<image><image>z")]
    got = place(spans, [b"1", b"2", b"3"], "chat", "r")
    first = (Text("x ", False), Picture(b"1"), Text(" y", False))
    assert got == (*first, Special("eos", True), Picture(b"2"), Picture(b"3"), Text("z"))


@pytest.mark.parametrize("text, pictures, says", [
    ("<image> a", 0, "1 <image> placeholders for 0 images"),
    ("<image> a", 2, "1 <image> placeholders for 2 images"),
    ("a", 1, "0 <image> placeholders for 1 images"),
    ("<image> <video> a", 1, "unknown placeholder <video>"),
    ("<image_2> a", 1, "unknown placeholder <image_2>"),
])
def test_placeholders_that_do_not_match_are_named(text, pictures, says):
    with pytest.raises(BadExample, match=f"chat.json: record 12: {says}"):
        place([Text(text)], [b"x"] * pictures, "chat.json", "12")
    place([Text("if a < b and <div> is no placeholder")], [], "s", 0)


def test_canonical_settings_still_hold():
    low = tokenizers.train(["a red apple"], config=dataclasses.replace(tokenizer().config, lowercase=True))
    assert low.encode(["A RED"], exact=True) == low.encode(["a red"], exact=True)


@pytest.mark.parametrize("text", [
    "Explain <images>1</images>.", "Is <pointer> a type?", "What does <img> do in HTML?", "<video> is a tag, <audio> another",
    'Use <img src="a.png"> here', "a <picture>\n <source>\n</picture>", "<point> and <depth>", "imagine <imagery>, <Image>",
])
def test_tags_in_words_are_words(text):
    assert place([Text(text)], [], "s", 0) == (Text(text),)
    assert place([Text(f"<image>\n{text}")], [b"1"], "s", 0) == (Picture(b"1"), Text(f"\n{text}"))


@pytest.mark.parametrize("text, tag", [
    ("<video>\nWhat happens?", "<video>"), ("What happens?\n <audio> ", "<audio>"), ("<img>", "<img>"),
    ("<image>\n<video>\nx", "<video>"), ("<image><speech> x", "<speech>"), ("x <sound> <image>", "<sound>"),
    ("What is in <image 1>?", "<image 1>"), ("<img3> x", "<img3>"),
    ("see <video_2>", "<video_2>"), ("\n" * 200_000 + "<video>", "<video>"),
])
def test_placeholders_of_other_formats_are_refused(text, tag):
    with pytest.raises(BadExample, match=f"unknown placeholder {tag}"):
        place([Text(text)], [b"x"] * text.count("<image>"), "s", 0)
