"""Caption choice: probabilities, fallback, tags, sentences, templates."""

import pytest

from mof_jax.config import build
from mof_jax.data.keyed import Draws
from mof_jax.data.load import DataConfig
from mof_jax.data.load import texts as words
from mof_jax.data.record import Record
from mof_jax.data.text.captions import CaptionConfig, choose, kind_of
from mof_jax.errors import BadExample, UserError

TEXTS = {"alt": ("an alt",), "synthetic": ("one", "two"), "tags": ("red", "blue", "green")}


def record(**texts):
    return Record("r1", None, texts)


def many(config, texts=TEXTS, n=2000):
    config = build(CaptionConfig, config)
    return [choose(record(**texts), config, Draws(0, i)) for i in range(n)]


def test_probability_zero_and_one_are_exact():
    assert set(many({"probabilities": {"alt": 1.0, "synthetic": 0.0}})) == {"an alt"}
    assert set(many({"probabilities": {"alt": 0.0, "synthetic": 1.0}})) == {"one", "two"}


def test_half_is_within_binomial_bounds():
    share = many({"probabilities": {"alt": 0.5, "synthetic": 0.5}}).count("an alt") / 2000
    assert abs(share - 0.5) < 5 * (0.25 / 2000) ** 0.5
    share = many({"probabilities": {"alt": 3.0, "synthetic": 1.0}}).count("an alt") / 2000
    assert abs(share - 0.75) < 5 * (0.1875 / 2000) ** 0.5


def test_default_uses_every_kind_but_tags():
    assert set(many({})) == {"an alt", "one", "two"}
    assert set(many({}, {"tags": ("red",), "tags:de": ("rot",)})) == {"red", "rot"}


def test_missing_and_empty_kinds_fall_back():
    config = {"probabilities": {"alt": 0.5, "synthetic": 0.5}}
    assert set(many(config, {"alt": ("  ", ""), "synthetic": ("s",)})) == {"s"}
    assert set(many({"probabilities": {"alt": 1.0, "synthetic": 0.0}}, {"synthetic": ("s",)})) == {"s"}


def test_no_caption_is_a_bad_example_that_names_the_record():
    with pytest.raises(BadExample, match=r"src: record r1: empty caption: wants alt, has alt \(empty\)"):
        choose(record(alt=(" ",)), CaptionConfig({"alt": 1.0}), Draws(0), "src")
    with pytest.raises(BadExample, match="wants any kind, has no text"):
        choose(record(), CaptionConfig(), Draws(0), "src")


def test_dropout():
    assert set(many({"dropout": 1.0})) == {""}
    kept = many({"probabilities": {"alt": 1.0}, "dropout": 0.25})
    assert abs(kept.count("") / 2000 - 0.25) < 0.05 and set(kept) == {"", "an alt"}


def test_tags_are_distinct_and_at_most_k():
    seen = many({"probabilities": {"alt": 1.0}, "tags": 2}, n=400)
    parts = [s.split(", ") for s in seen]
    assert {len(p) for p in parts} == {1, 2, 3} and all(p[0] == "an alt" for p in parts)
    assert all(len(set(p)) == len(p) for p in parts)
    assert {t for p in parts for t in p[1:]} == {"red", "blue", "green"}


def test_sentences_are_consecutive():
    seen = set(many({"sentences": 2}, {"alt": ("One is. Two is! Three is? Four.",)}, n=200))
    assert seen == {"One is. Two is!", "Two is! Three is?", "Three is? Four."}


def test_templates():
    assert set(many({"templates": ("a photo of {}", "{}!")}, {"alt": ("x",)}, n=50)) == {"a photo of x", "x!"}


def test_key_changes_the_choice():
    config = CaptionConfig({"alt": 0.5, "synthetic": 0.5})
    by_epoch = {choose(record(**TEXTS), config, Draws(0, 7, epoch)) for epoch in range(30)}
    assert by_epoch == {"an alt", "one", "two"}
    assert choose(record(**TEXTS), config, Draws(0, 7, 3)) == choose(record(**TEXTS), config, Draws(0, 7, 3))


@pytest.mark.parametrize(
    "bad", [{"probabilities": {"alt": -1.0}}, {"probabilities": {"alt": 0.0}}, {"dropout": 2.0}, {"templates": ("x",)}]
)
def test_config_is_checked(bad):
    with pytest.raises(UserError):
        build(CaptionConfig, bad)


class Source:
    """Records of these texts, None for one that cannot be read."""

    name = "src"

    def __init__(self, *texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        if self.texts[index] is None:
            raise BadExample("src", index, "broken")
        return Record(str(index), None, self.texts[index])


A = ("a",)


@pytest.mark.parametrize("texts, wanted, kind", [
    ([{"text": A}], "", "text"), ([{"alt": A, "synthetic": A}], "", "alt"),
    ([{"caption": A, "tags": A, "tags:de": A}], "", "caption"),
    ([{"alt": ("", " "), "title": A}], "", "title"), ([{"alt": A, "text": A}], "text", "text"), ([None, {"text": A}], "", "text"),
])
def test_the_kind_of_text_is_what_a_source_has(texts, wanted, kind):
    assert kind_of(Source(*texts), wanted) == kind


@pytest.mark.parametrize("texts, wanted, says", [
    ([{"text": A, "tags": A}], "alt", "src: no text of kind 'alt'; the source has text, tags; choose with --text"),
    ([{"text": A, "title": A}], "", "src: several kinds of text; the source has text, title; choose with --text"),
    ([{}], "", "src: no kind of text to take by default; the source has none; name the column of the texts with text_fields"),
    ([None, None], "", "src: none of 2 records that were looked at can be read; the first: src: record 0: broken"),
])
def test_a_kind_that_is_not_there_lists_those_that_are(texts, wanted, says):
    with pytest.raises(UserError) as stop:
        kind_of(Source(*texts), wanted, "--text")
    assert says in str(stop.value)


def test_a_vocabulary_says_which_kinds_there_are(tmp_path):
    """The quickstart's `probabilities=dict(alt=1.0)` on a table with a column `text`."""
    (tmp_path / "a.jsonl").write_text('{"text": "a red apple"}\n')
    source = {"kind": "jsonl", "path": str(tmp_path / "a.jsonl"), "name": "mine"}
    config = lambda **captions: build(DataConfig, {"sources": [{**source, "captions": captions}]})
    with pytest.raises(UserError, match="mine: no text of alt to train on; the source has text; choose with captions.prob"):
        list(words(config(probabilities={"alt": 1.0})))
    assert list(words(config())) == list(words(config(probabilities={"text": 1.0}))) == ["a red apple"]
