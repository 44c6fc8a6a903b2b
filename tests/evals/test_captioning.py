"""COCO's caption files asked of a model that is known."""

from __future__ import annotations

import json

from fake_generator import FakeGenerator, picture, read_lines, shade_of, write_json
import pytest

from mof_jax import evals
from mof_jax.errors import UserError
from mof_jax.evals.answer.captioning import CaptionFiles, Captioning

NOUNS = "cat dog horse bird boat tree".split()


def write_split(folder, first=0) -> dict:
    """Picture i, of shade `first + i`, has two captions about thing i."""
    folder.mkdir()
    images, annotations = [], []
    for i, noun in enumerate(NOUNS):
        number = first + i
        (folder / f"{number}.png").write_bytes(picture(number))
        images.append({"id": number, "file_name": f"{number}.png"})
        annotations += [{"id": 10 * number, "image_id": number, "caption": f"A {noun} that stands on\n the grass."},
                        {"id": 10 * number + 1, "image_id": number, "caption": f"One small {noun}."}]
    return dict(captions=write_json(folder / "captions.json", {"images": images, "annotations": annotations}), images=str(folder))


@pytest.fixture
def val(tmp_path):
    return write_split(tmp_path / "val")


def build(**section):
    return evals.build(dict(kind="captioning", **section), "e", ("generate",))


def test_better_captions_score_more(val, tmp_path):
    noun = lambda asked: NOUNS[shade_of(asked.images[-1])]
    right = FakeGenerator(lambda asked: f"One small {noun(asked)}!", output_dir=tmp_path)
    found = build(test=val).run(right)
    assert right.agrees(found, "cider")
    vague = build(test=val).run(FakeGenerator(lambda asked: f"a picture of some {noun(asked)} or so"))
    assert found["images"] == 6 and found["cider"] > 2 * vague["cider"] > 0
    assert right.asked[0].text == "<image>\nDescribe the picture in one short sentence." and not right.asked[0].plain
    line = read_lines(tmp_path, "captioning")[2]
    assert line["id"] == "2" and line["reference"][1] == "One small horse."
    assert 100 * line["score"] == pytest.approx(found["cider"])


def test_a_limit_keeps_the_document_frequencies(val):
    """All pictures score alike here, so that a part of them has the mean of the whole."""
    say = lambda asked: f"one small {NOUNS[shade_of(asked.images[0])]}"
    whole, part = build(test=val).run(FakeGenerator(say)), build(test=val, limit=2).run(FakeGenerator(say))
    assert part["images"] == 2 and part["cider"] == pytest.approx(whole["cider"])


def test_shots(val, tmp_path):
    train = write_split(tmp_path / "train", first=100)
    generator = FakeGenerator(lambda asked: "one small cat\nand no more")
    build(test=val, train=train, shots=3).run(generator)
    assert generator.calls[0]["stop"] == ("\n",)
    forms = set()
    for asked in generator.asked:
        *shots, last = asked.text.split("\n")
        nouns = [NOUNS[shade_of(image) - 100] for image in asked.images[:-1]]
        assert asked.plain and last == "<image> A photo of" and len(set(nouns)) == 3
        for shot, noun in zip(shots, nouns):
            assert shot in (f"<image> A photo of a {noun} that stands on the grass.", f"<image> A photo of one small {noun}.")
            forms.add("small" in shot)
    assert forms == {True, False}  # either caption is drawn


def test_the_version():
    files = CaptionFiles("c.json", "images")
    assert Captioning(files).version == "prompt caption-short/1, greedy 32, scorer cider-d/1 tokenizer ptb/1"
    assert "caption-mm1/1 with 0 shots" in Captioning(files, plain=True).version


@pytest.mark.parametrize("change, message", [
    (lambda v: v["images"].append(v["images"][0]), "record 0: this image id stands there twice"),
    (lambda v: v["annotations"].append({"image_id": 77, "caption": "x"}), "record annotations 12: image 77 is not listed"),
    (lambda v: v.update(annotations=v["annotations"][2:]), "record 0: this image has no caption under 'annotations'"),
    (lambda v: v["annotations"][0].update(caption=3), "record annotations 0: 'caption' is 3 where a text is expected"),
    (lambda v: v["images"][3].update(file_name="9.png"), "record 3: image '9.png': no such file"),
    (lambda v: v["images"][3].update(file_name="../3.png"), "record 3: image path .* leads outside"),
    (lambda v: v.pop("annotations"), r"no list under 'annotations' \(it has images\)"),
])
def test_mistakes_in_the_file(val, change, message):
    with open(val["captions"]) as f:
        value = json.load(f)
    change(value)
    with open(val["captions"], "w") as f:
        json.dump(value, f)
    with pytest.raises(UserError, match=message):
        build(test=val).run(FakeGenerator())


def test_mistakes_in_the_config(val):
    with pytest.raises(UserError, match="train, which is missing"):
        build(test=val, shots=1)
    with pytest.raises(UserError, match="max_tokens: 0 is not at least 1"):
        build(test=val, max_tokens=0)
