"""Open questions about pictures: VQAv2, OK-VQA and what shares their files, asked in a chat or few-shot.

    questions    {"questions": [{"question_id", "image_id", "question"}, ...]}
    annotations  {"annotations": [{"question_id", "answer_type", "answers": [{"answer"}, ...]}, ...]}
    images       a folder whose file names come from the image id
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
import dataclasses
import re
from typing import Any, ClassVar

import numpy as np

from mof_jax.data.sources.imagefolder import read_image
from mof_jax.decode.respond import Generator, Prompt
from mof_jax.errors import BadExample
from mof_jax.evals.answer.answers_file import write_answers
from mof_jax.evals.answer.batch_generate import SHORT_ANSWER, ask, draw_shots, empty, named_prompt
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.json_files import check_images, field, read_object, rows, spread, unique
from mof_jax.evals.metrics import vqa_accuracy
from mof_jax.evals.model import Model
from mof_jax.parsing import show
from mof_jax.ranges import Count, Whole

_PLACE = re.compile(r"\{image_id(?::0([0-9]{1,3})d?)?\}")
_WIDEST = 64  # digits of a picture's number
_LEAST = 4  # annotators whose agreement can earn an answer the whole credit


@dataclasses.dataclass(frozen=True)
class VqaFiles:
    """One split.

    Attributes:
      questions, annotations: the two JSON files. images: folder of the pictures.
      image: file name of a picture, with `{image_id}` in it, or `{image_id:012d}` for 12 digits (at most 64).
    """

    questions: str
    annotations: str
    images: str
    image: str = "COCO_val2014_{image_id:012d}.jpg"

    def __post_init__(self):
        pieces = _PLACE.split(self.image)
        wide = [width for width in pieces[1::2] if width and int(width) > _WIDEST]
        if len(pieces) < 3 or any(c in piece for piece in pieces[::2] for c in "{}") or wide:
            raise ValueError(f"image {show(self.image)}: not a pattern of {{image_id}}; write {{image_id}}, or {{image_id:012d}} "
                             f"for 12 digits (at most {_WIDEST}), and no other braces")


@dataclasses.dataclass(frozen=True)
class VqaQuestion:
    """A question with its annotators' answers; `image` is a path inside the split's folder, `short` their commonest answer."""

    id: str
    question: str
    image: str
    answers: tuple[str, ...]
    answer_type: str
    short: str


@dataclasses.dataclass(frozen=True)
class Vqa(Evaluator):
    """VQA accuracy in percent, over all questions and by type of answer; greedy answers.

    Attributes:
      test: the questions that are asked.
      shots: solved examples before each question, in plain text as in MM1 (arXiv 2403.09611); they are drawn from `train`
        for each question anew. 0 asks in the checkpoint's chat template.
      train: where shots come from.
      plain: ask in plain text without shots, too: for a model that was only pretrained.
      instruction: follows a question in the chat.
      max_tokens: of an answer. limit: questions to ask, spread evenly over the file; 0 for all. seed: of the shots.
    """

    kind: ClassVar[str] = "vqa"
    requires: ClassVar[tuple[str, ...]] = ("generate",)

    test: VqaFiles
    name: str = "vqa"
    shots: Whole = 0
    train: VqaFiles | None = None
    plain: bool = False
    instruction: str = SHORT_ANSWER
    max_tokens: Count = 16
    limit: Whole = 0
    seed: Whole = 0

    def __post_init__(self):
        if self.shots < 0 or self.limit < 0 or self.max_tokens < 1:
            raise ValueError("shots and limit must not be negative, max_tokens must be positive")
        if self.shots and self.train is None:
            raise ValueError("shots: they are drawn from train, which is missing")

    @property
    def version(self) -> str:
        """How the numbers come about."""
        if self.shots or self.plain:
            prompt = f"vqa-mm1/1 with {self.shots} shots of seed {self.seed}"
        else:
            prompt = named_prompt("vqa-short/1", self.instruction, SHORT_ANSWER)
        return f"prompt {prompt}, greedy {self.max_tokens}, scorer {vqa_accuracy.VERSION}"

    def run(self, model: Model) -> dict[str, float]:
        """`accuracy`, and `accuracy_<type>` for each type of answer that the annotations name; `empty` counts answers of nothing.

        Raises:
          UserError: a file that is missing or of another layout. BadExample: a record that is wrong.
        """
        generator = model.generator
        questions = spread(read_questions(self.test), self.limit)
        check_images(self.test.images, {q.id: q.image for q in questions}, self.test.questions)
        pool = read_questions(self.train) if self.shots else []
        plain = bool(self.shots or self.plain)
        prompt = (
            (lambda q: self._plain(generator, q, pool)) if plain else (lambda q: self._chat(generator, q))
        )
        answers = ask(generator, questions, prompt, self.test.questions, max_tokens=self.max_tokens,
                      stop=("\n", ".", ",", "Question") if plain else (), pictures=1 + self.shots)
        scores = [vqa_accuracy.accuracy(answer, q.answers) for answer, q in zip(answers, questions)]
        write_answers(model.output_dir, self.name, (
            {"id": q.id, "question": q.question, "answer": a, "reference": list(q.answers), "score": score}
            for q, a, score in zip(questions, answers, scores)))
        model.keep("accuracy", [q.image for q in questions], 100 * np.array(scores))
        by_type = defaultdict(list)
        for question, score in zip(questions, scores):
            by_type[question.answer_type].append(score)
        types = {f"accuracy_{kind}": 100 * float(np.mean(found)) for kind, found in sorted(by_type.items()) if kind}
        return {"questions": len(questions), "accuracy": 100 * float(np.mean(scores)), "empty": empty(answers), **types}

    def _chat(self, generator: Generator, q: VqaQuestion) -> Prompt:
        words = f"<image>\n{q.question}\n{self.instruction}".rstrip()
        picture = read_image(self.test.images, q.image, self.test.questions, q.id)
        return generator.chat(({"role": "user", "content": words},), [picture], q.id)

    def _plain(self, generator: Generator, q: VqaQuestion, pool: list[VqaQuestion]) -> Prompt:
        """Blocks of picture, question and answer, the last one without its answer."""
        shots, pictures = [], []
        if self.shots:
            shots = draw_shots(self.seed, q.id, pool, self.shots, lambda s: s.image == q.image, self.train.questions)
            pictures = [read_image(self.train.images, s.image, self.train.questions, s.id) for s in shots]
        words = "".join(f"<image> Question: {s.question} Short answer: {s.short}\n" for s in shots)
        picture = read_image(self.test.images, q.image, self.test.questions, q.id)
        return generator.text(
            f"{words}<image> Question: {q.question} Short answer:", [*pictures, picture], q.id
        )


def read_questions(files: VqaFiles) -> list[VqaQuestion]:
    """A split's questions, in the order of their file.

    Raises:
      UserError: a file that is missing or of another layout. BadExample: a question twice, without an annotation, or with
        too few answers.
    """
    asked, noted = files.questions, files.annotations
    questions = unique(((field(row, "question_id", (int, str), asked, number), row)
                        for number, row in enumerate(rows(read_object(asked), "questions", asked))), "question_id", asked)
    annotations = unique(((field(row, "question_id", (int, str), noted, number), row)
                          for number, row in enumerate(rows(read_object(noted), "annotations", noted))), "question_id", noted)
    return [_question(key, row, annotations.get(key), files) for key, row in questions.items()]


def _question(key: str, row: Mapping[str, Any], annotation: Mapping[str, Any] | None, files: VqaFiles) -> VqaQuestion:
    if annotation is None:
        raise BadExample(files.questions, key, f"no annotation in {files.annotations}; give the annotations of the same split")
    image_id = field(row, "image_id", (int, str), files.questions, key)
    try:
        image = files.image.format(image_id=image_id)
    except ValueError:
        raise BadExample(files.questions, key, f"image_id {image_id!r} does not fit the file name {files.image!r}") from None
    given = field(annotation, "answers", list, files.annotations, key)
    answers = tuple(field(a if isinstance(a, dict) else {}, "answer", str, files.annotations, key) for a in given)
    if len(answers) < _LEAST:
        raise BadExample(files.annotations, key, f"{len(answers)} answers; VQA accuracy takes ten, and at least {_LEAST}")
    kind = annotation.get("answer_type")
    return VqaQuestion(key, field(row, "question", str, files.questions, key).strip(), image, answers,
                       kind if isinstance(kind, str) else "", Counter(answers).most_common(1)[0][0])
