"""POPE's files asked of a model that is known; its parser and its counts by hand."""

from __future__ import annotations

import json

from fake_generator import FakeGenerator, picture, read_lines
import pytest

from mof_jax import evals
from mof_jax.errors import UserError
from mof_jax.evals.answer.pope import Pope, confusion, says_yes, unclear


def line(i, label, **changes):
    return {"question_id": i, "image": f"{i % 3}.png", "text": f"Is there a thing {i}?", "label": label} | changes


def write_lines(path, lines):
    path.write_text("".join(json.dumps(x) + "\n" if isinstance(x, dict) else x for x in lines))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Two splits whose answers alternate, as the published ones do."""
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").write_bytes(picture(i))
    splits = {name: write_lines(tmp_path / f"{name}.json", [line(i, ("yes", "no")[i % 2]) for i in range(count)])
              for name, count in (("random", 40), ("adversarial", 20))}
    return dict(splits=splits, images=str(tmp_path / "images"))


def build(**section):
    return evals.build(dict(kind="pope", **section), "e", ("generate",))


@pytest.mark.parametrize("reply, yes", [
    ("Yes", True), ("yes, there is", True), ("No", False), ("no", False), ("No, there is none", False),
    ("There is not one.", False), ("Yes. No, wait", True),  # the first sentence alone
    ("", True), ("nothing", True), ("NO", True), ("none", True), ("No!", True), ("It's not, no.", False)])
def test_the_published_parser(reply, yes):
    """Also where one would wish otherwise: whatever lacks the words No, no and not is a yes."""
    assert says_yes(reply) is yes


@pytest.mark.parametrize("reply, neither, misread", [
    ("Yes", 0, 0), ("no.", 0, 0), ("Yes, there is no doubt", 0, 1), ("NO.", 0, 1), ("No!", 0, 1), ("", 1, 0),
    ("I cannot see one", 1, 0),
    ("a dog", 1, 0), ("There is not one.", 0, 0), ("**Yes**", 0, 0), ("**No**", 0, 1), ("none", 1, 0),
    ("YES", 0, 0), ("sí", 1, 0)])
def test_replies_that_the_rule_reads_as_what_they_are_not(reply, neither, misread):
    assert unclear([reply]) == {"neither": neither, "misread": misread} and unclear([reply, reply])["neither"] == 2 * neither


def test_they_are_counted_beside_the_figures(files):
    found = build(**files).run(FakeGenerator(lambda asked: ("", "NO.", "yes")[int(asked.id) % 3]))
    assert (found["random_neither"], found["random_misread"]) == (14, 13)
    assert (found["adversarial_neither"], found["adversarial_misread"]) == (7, 7) and found["accuracy"] == 50
    assert (found["neither"], found["misread"]) == (21, 20)


def test_counts_by_hand():
    """TP 2, FP 1, FN 2, TN 3."""
    said, labels = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0]
    assert confusion(said, labels) == pytest.approx({"accuracy": 62.5, "precision": 200 / 3, "recall": 50.0, "f1": 400 / 7,
                                                     "yes_ratio": 37.5})
    assert confusion([0, 0], [1, 0]) == {"accuracy": 50.0, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0}


def test_splits(files, tmp_path):
    """A model that sees everything that is asked about: always yes."""
    generator = FakeGenerator(lambda asked: "Yes.", output_dir=tmp_path)
    found = build(**files).run(generator)
    assert generator.agrees(found, *(f"{split}_accuracy" for split in files["splits"]))
    assert found["questions"] == 60 and found["accuracy"] == 50.0 and found["f1"] == pytest.approx(200 / 3)
    for split in ("random", "adversarial"):
        assert {k: found[f"{split}_{k}"] for k in ("accuracy", "precision", "recall", "f1", "yes_ratio")} == pytest.approx(
            {"accuracy": 50.0, "precision": 50.0, "recall": 100.0, "f1": 200 / 3, "yes_ratio": 100.0})
    assert generator.asked[0].text == "<image>\nIs there a thing 0?\nReply with one word or a short phrase."
    assert read_lines(tmp_path, "pope")[41] == {"id": "adversarial:1", "question": "Is there a thing 1?", "answer": "Yes.",
                                                "reference": "no", "right": False}


def test_a_right_model(files):
    found = build(**files).run(FakeGenerator(lambda asked: ("yes", "no")[int(asked.id) % 2]))
    assert found["random_accuracy"] == found["adversarial_f1"] == 100.0 and found["random_yes_ratio"] == 50.0


def test_a_limit_meets_both_answers(files):
    """Every second line is a yes: a fixed step over 40 lines would see nothing else."""
    generator = FakeGenerator(lambda asked: "yes")
    found = build(**files, limit=10).run(generator)
    assert found["questions"] == 20 and 0 < found["random_accuracy"] < 100


def test_the_version():
    assert Pope({"random": "r"}, "i").version == "prompt vqa-short/1, greedy 16, scorer pope/1"


@pytest.mark.parametrize("lines, message", [
    ([line(0, "yes"), line(1, "maybe")], "record line 2: label 'maybe' is neither 'yes' nor 'no'"),
    ([line(0, "yes"), "no json\n"], "record line 2: not JSON"),
    ([line(0, "yes"), "[]\n"], "record line 2: not a JSON object"),
    ([line(0, "yes"), line(0, "no")], "record 0: this question_id stands there twice"),
    ([line(0, "yes", text=None)], "record line 1: 'text' is null where a text"),
    ([line(0, "yes", image="7.png")], "record 0: image '7.png': no such file"),
    ([line(0, "yes", image="../random.json")], "record 0: image path .* leads outside"),
    ([], "the file has no lines"),
])
def test_mistakes_in_a_file(files, tmp_path, lines, message):
    bad = write_lines(tmp_path / "bad.json", lines)
    generator = FakeGenerator()
    with pytest.raises(UserError, match=f"bad.json: {message}"):
        build(splits=files["splits"] | {"bad": bad}, images=files["images"]).run(generator)


def test_mistakes_in_the_config(files):
    with pytest.raises(UserError, match="at least one is needed"):
        build(splits={}, images="i")
    with pytest.raises(UserError, match="nowhere.json: no such file"):
        build(splits={"random": "nowhere.json"}, images="i").run(FakeGenerator())
