"""VQAv2's files asked of a model that is known: prompts, shots, scores by type, and every mistake in the files."""

from __future__ import annotations

import json

from fake_generator import FakeGenerator, picture, read_lines, shade_of, write_json
import pytest

from mof_jax import evals
from mof_jax.errors import UserError
from mof_jax.evals.answer.vqa import Vqa, VqaFiles, read_questions

KINDS = ("yes/no", "number", "other")


def write_split(folder, name, count, first=0) -> dict:
    """Question i asks about picture i, of shade i, and all annotators say `i`; in the order of the files, not of the ids."""
    folder.mkdir(exist_ok=True)
    ids = [first + i for i in range(count)]
    for i in ids:
        (folder / f"{name}_{i:04d}.png").write_bytes(picture(i))
    questions = [{"question_id": i, "image_id": i, "question": f"Which shade is number {i}?"} for i in ids]
    annotations = [{"question_id": i, "image_id": i, "answer_type": KINDS[i % 3],
                    "answers": [{"answer": str(i), "answer_id": k} for k in range(10)]} for i in reversed(ids)]
    return dict(questions=write_json(folder / f"{name}_q.json", {"questions": questions}),
                annotations=write_json(folder / f"{name}_a.json", {"annotations": annotations}),
                images=str(folder), image=name + "_{image_id:04d}.png")


@pytest.fixture
def val(tmp_path):
    return write_split(tmp_path / "val", "val", 12)


def sees(asked):
    """What a model says that sees the last picture."""
    return str(shade_of(asked.images[-1]))


def build(**section):
    return evals.build(dict(kind="vqa", **section), "e", ("generate",))


def test_a_model_that_sees(val, tmp_path):
    right = FakeGenerator(sees, output_dir=tmp_path)
    found = build(test=val).run(right)
    assert found == {"questions": 12.0, "accuracy": 100.0, "accuracy_yes/no": 100.0, "accuracy_number": 100.0,
                     "accuracy_other": 100.0, "empty": 0.0}
    prompt = right.asked[3]
    assert not prompt.plain and prompt.id == "3" and right.calls[0]["stop"] == ()
    assert prompt.text == "<image>\nWhich shade is number 3?\nReply with one word or a short phrase."
    assert read_lines(tmp_path, "vqa")[3] == {"id": "3", "question": "Which shade is number 3?", "answer": "3",
                                              "reference": ["3"] * 10, "score": 1.0}


def test_scores_by_type(val):
    """Wrong about every number: a third of the questions."""
    model = FakeGenerator(lambda asked: "" if shade_of(asked.images[0]) % 3 == 1 else sees(asked))
    found = build(test=val).run(model)
    assert model.agrees(found, "accuracy")
    assert found["empty"] == 4
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert (found["accuracy_yes/no"], found["accuracy_number"], found["accuracy_other"]) == (100.0, 0.0, 100.0)


def test_no_folder_no_answers(val, tmp_path):
    build(test=val).run(FakeGenerator(sees))
    assert not (tmp_path / "answers").exists()


def test_shots_are_solved_examples_of_the_training_split(val, tmp_path):
    train = write_split(tmp_path / "train", "train", 40, first=100)
    generator = FakeGenerator(lambda asked: f"{sees(asked)}. Question: more")
    assert build(test=val, train=train, shots=4, seed=5).run(generator)["accuracy"] == 100.0  # cut at the period
    assert generator.calls[0]["stop"] == ("\n", ".", ",", "Question")
    drawn = []
    for asked in generator.asked:
        *shots, last = asked.text.split("\n")
        assert asked.plain and last == f"<image> Question: Which shade is number {asked.id}? Short answer:"
        numbers = [shade_of(image) for image in asked.images[:-1]]
        assert shots == [f"<image> Question: Which shade is number {n}? Short answer: {n}" for n in numbers]
        assert len(set(numbers)) == 4 and min(numbers) >= 100
        drawn.append(tuple(numbers))
    assert len(set(drawn)) > 6  # each question has shots of its own
    again, other = FakeGenerator(sees), FakeGenerator(sees)
    build(test=val, train=train, shots=4, seed=5, limit=3).run(again)
    build(test=val, train=train, shots=4, seed=6).run(other)
    assert {a.text for a in again.asked} <= {a.text for a in generator.asked}  # whatever else is asked
    assert [a.text for a in other.asked] != [a.text for a in generator.asked]


def test_a_question_is_no_shot_of_its_own(val):
    generator = FakeGenerator(sees)
    build(test=val, train=val, shots=11).run(generator)
    assert all(asked.id not in {str(shade_of(i)) for i in asked.images[:-1]} for asked in generator.asked)
    with pytest.raises(UserError, match="12 examples are too few to draw 12 shots"):
        build(test=val, train=val, shots=12).run(generator)


def test_plain_text_without_shots(val):
    generator = FakeGenerator(sees)
    build(test=val, plain=True).run(generator)
    assert generator.asked[0].plain and generator.asked[0].text == "<image> Question: Which shade is number 0? Short answer:"


def test_the_version_names_prompt_decoding_and_scorer(val):
    files = VqaFiles(**val)
    assert Vqa(files).version == "prompt vqa-short/1, greedy 16, scorer vqa/1"
    assert Vqa(files, shots=8, train=files).version == "prompt vqa-mm1/1 with 8 shots of seed 0, greedy 16, scorer vqa/1"
    own = [Vqa(files, instruction=text).version for text in ("Be brief.", "Be very brief.")]
    assert own[0] != own[1] and own[0].startswith("prompt vqa-short/1+")


def test_shots_answer_with_the_commonest_answer(val, tmp_path):
    notes = json.loads((tmp_path / "val" / "val_a.json").read_text())
    notes["annotations"][0]["answers"] = [{"answer": a} for a in ("b", "a", "a", "c")]
    write_json(tmp_path / "val" / "val_a.json", notes)
    assert read_questions(VqaFiles(**val))[-1].short == "a"


def damaged(val, which, change):
    """The split with one of its files changed."""
    with open(val[which]) as f:
        value = json.load(f)
    change(value)
    with open(val[which], "w") as f:
        json.dump(value, f)


@pytest.mark.parametrize("which, change, message", [
    ("questions", lambda v: v["questions"].append(v["questions"][2]), "record 2: this question_id stands there twice"),
    ("annotations", lambda v: v["annotations"].append(v["annotations"][0]), "record 11: this question_id stands there twice"),
    ("annotations", lambda v: v["annotations"].pop(), r"val_q.json: record 0: no annotation in .*val_a.json; give the"),
    ("annotations", lambda v: v["annotations"][0].pop("answers"), "record 11: 'answers' is null where a list"),
    ("annotations", lambda v: v["annotations"][0].update(answers=[{"answer": "x"}]), "record 11: 1 answers; VQA"),
    ("annotations", lambda v: v["annotations"][0]["answers"].append("x"), "record 11: 'answer' is null where a text"),
    ("questions", lambda v: v["questions"][4].pop("question"), "record 4: 'question' is null"),
    ("questions", lambda v: v["questions"][4].update(question_id=True), "record 4: 'question_id' is true where"),
    ("questions", lambda v: v["questions"][4].update(image_id="x"), "record 4: image_id 'x' does not fit the file name"),
    ("questions", lambda v: v["questions"][4].update(image_id=99), r"record 4: image 'val_0099.png': no such file"),
    ("questions", lambda v: v.pop("questions"), r"val_q.json: no list under 'questions' \(it has nothing\)"),
    ("questions", lambda v: v["questions"].insert(0, 7), "record questions 0: not an object"),
])
def test_mistakes_in_the_files(val, which, change, message):
    damaged(val, which, change)
    generator = FakeGenerator(sees)
    with pytest.raises(UserError, match=message):
        build(test=val).run(generator)
    assert not generator.asked  # before the first question, not hours later


def test_files_that_are_none(val, tmp_path):
    for content, message in (("{", "val_q.json: not JSON"), ("[]", "holds a list, not an object")):
        (tmp_path / "val" / "val_q.json").write_text(content)
        with pytest.raises(UserError, match=message):
            build(test=val).run(FakeGenerator())
    with pytest.raises(UserError, match="nowhere.json: no such file"):
        build(test=val | dict(questions="nowhere.json")).run(FakeGenerator())


def test_no_picture_outside_its_folder(val, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(1))
    for image_id in ("../secret.png", str(tmp_path / "secret.png")):
        write_json(tmp_path / "val" / "val_q.json", {"questions": [{"question_id": 0, "image_id": image_id, "question": "?"}]})
        with pytest.raises(UserError, match="record 0: image path .* leads outside"):
            build(test=val | dict(image="{image_id}")).run(FakeGenerator())


def test_mistakes_in_the_config(val):
    for section, message in ((dict(shots=2), "train, which is missing"), (dict(limit=-1), "limit: -1 is not at least 0"),
                             (dict(test=val | dict(image="{id}.jpg")), "not a pattern"), (dict(shot=2), "did you mean 'shots'")):
        with pytest.raises(UserError, match=message):
            build(**({"test": val} | section))
