"""Questions with one right answer: exact match by kind, leads over another model's answers, files to look at."""

from __future__ import annotations

import json

from fake_model import FakeModel
import numpy as np
from PIL import Image
import pytest

from mof_jax import evals
from mof_jax.data.worlds import scenes
from mof_jax.errors import UserError
from mof_jax.evals.answer.short_answer import matches

SECTION = dict(kind="questions", name="q", source=dict(kind="scenes", split="test", size=100, pixels=16), shown=6)


class Knows(FakeModel):
    """Answers some kinds of question rightly, and says "?" to the others."""

    def __init__(self, folder, *kinds):
        self.output_dir, self.kinds = str(folder), kinds
        self.world = {scenes.Scenes(100, "test").id(i): scenes.Scenes(100, "test").scene(i) for i in range(100)}

    def ask(self, question, images, id):
        assert question == self.world[id].question and len(images) == 1
        return id

    def answer(self, prompts, max_tokens):
        return [self.world[id].answer.upper() + ". " if self.world[id].kind in self.kinds else "?" for id in prompts]


def test_scores_by_kind_leads_and_files(tmp_path):
    weak, strong = Knows(tmp_path / "weak", "colour"), Knows(tmp_path / "strong", "colour", "count")
    measure = evals.build(SECTION, "e", ("generate",))
    others = {f"acc_{kind}": 0 for kind in scenes.KINDS if kind != "colour"}
    assert measure.run(weak) == {"acc": 20, "acc_colour": 100, **others, "empty": 0}
    lines = [json.loads(line) for line in (tmp_path / "weak/answers/q.jsonl").read_text().splitlines()]
    assert len(lines) == 100 and sum(line["right"] for line in lines) == 20 and lines[0]["reference"] in scenes.COUNTS
    sheet = np.asarray(Image.open(tmp_path / "weak/q.png"))
    assert sheet.min() == 0 or sheet.std() > 10
    found = evals.build(SECTION | {"baseline": str(tmp_path / "weak/answers/q.jsonl")}, "e", ("generate",)).run(strong)
    assert strong.agrees(found, "acc", "acc_colour")
    assert (found["lead_count"], found["lead_count_low"], found["lead_colour"], found["lead_colour_low"]) == (100, 100, 0, 0)
    assert found["lead"] == 20 and 0 < found["lead_low"] < 20


def test_a_baseline_of_other_questions_is_refused(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"id": "count/0000000", "right": true}\n')
    measure = evals.build(SECTION | {"baseline": str(tmp_path / "b.jsonl")}, "e", ("generate",))
    with pytest.raises(UserError, match="b.jsonl does not answer all of these questions"):
        measure.run(Knows(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"id": "count/0000000"}\n')
    with pytest.raises(UserError, match="a line has no 'right'"):
        measure.run(Knows(tmp_path))


def test_a_baseline_says_true_or_false_and_what_it_answers_besides_is_counted(tmp_path):
    evals.build(SECTION, "e", ("generate",)).run(Knows(tmp_path))
    answers = tmp_path / "answers" / "q.jsonl"
    measure = evals.build(SECTION | {"baseline": str(tmp_path / "b.jsonl")}, "e", ("generate",))
    (tmp_path / "b.jsonl").write_text(answers.read_text() + '{"id": "another", "right": true}\n')
    assert measure.run(Knows(tmp_path))["baseline_unused"] == 1
    (tmp_path / "b.jsonl").write_text(answers.read_text().replace('"right": false', '"right": "false"', 1))
    with pytest.raises(UserError, match="b.jsonl: 'right' of .* is 'false', neither true nor false"):
        measure.run(Knows(tmp_path))


def test_exact_match_forgives_case_spaces_and_a_full_stop():
    assert matches(" Red \n", "red") and matches("three.", "three") and matches("a  cat", "a cat")
    assert not matches("red or blue", "red") and not matches("", "red")


def test_evaluators_and_tasks_that_do_not_fit_are_named():
    both = ("embed/image", "embed/text")
    suits = "this task's models can embed/image, embed/text, which suits .*zeroshot"
    with pytest.raises(UserError, match=f"'questions' requires generate; {suits}"):
        evals.build(SECTION, "config.evals.0", both)
    with pytest.raises(UserError, match="'knn' requires embed/image; this task's models can generate, which suits .*questions"):
        evals.build(dict(kind="knn"), "config.evals.0", ("generate",))
