"""POPE (arXiv 2305.10355): does a model see objects that are not there? Yes-or-no questions, several splits.

One JSON object a line: `{"question_id", "image", "text", "label": "yes" | "no"}`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re
from typing import Any, ClassVar

import numpy as np

from mof_jax.data.sources.imagefolder import read_image
from mof_jax.data.sources.jsonl import JsonLines
from mof_jax.decode.respond import Generator, Prompt
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.answer.answers_file import write_answers
from mof_jax.evals.answer.batch_generate import SHORT_ANSWER, ask, named_prompt
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.json_files import check_images, field, spread, unique
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Whole


@dataclasses.dataclass(frozen=True)
class PopeQuestion:
    """A question; `image` is a path inside the folder, `label` whether the answer is yes."""

    id: str
    text: str
    image: str
    label: bool


@dataclasses.dataclass(frozen=True)
class Pope(Evaluator):
    """Accuracy, precision, recall, F1 and the share of yes, in percent, for each split; greedy answers.

    Attributes:
      splits: name -> file, e.g. `random`, `popular` and `adversarial`. images: folder of the pictures of all splits.
      instruction: follows a question.
      max_tokens: of a reply. limit: questions to ask of each split, spread evenly over its file; 0 for all.
    """

    kind: ClassVar[str] = "pope"
    requires: ClassVar[tuple[str, ...]] = ("generate",)

    splits: dict[str, str]
    images: str
    name: str = "pope"
    instruction: str = SHORT_ANSWER
    max_tokens: Count = 16
    limit: Whole = 0

    def __post_init__(self):
        if not self.splits:
            raise ValueError("splits: at least one is needed, e.g. {'random': 'coco_pope_random.json'}")
        if self.limit < 0 or self.max_tokens < 1:
            raise ValueError("limit must not be negative, max_tokens must be positive")

    @property
    def version(self) -> str:
        """How the numbers come about."""
        return f"prompt {named_prompt('vqa-short/1', self.instruction, SHORT_ANSWER)}, greedy {self.max_tokens}, scorer pope/1"

    def run(self, model: Model) -> dict[str, float]:
        """`<split>_accuracy`, `_precision`, `_recall`, `_f1` and `_yes_ratio`; and the means of accuracy and F1 over the splits.

        Returns:
          Besides, `<split>_neither` and `<split>_misread` and their sums, see `unclear`: those replies are part of the figures,
          as the benchmark's own rule reads them.

        Raises:
          UserError: a file that is missing or empty. BadExample: a line that is wrong.
        """
        generator = model.generator
        read = {split: spread(read_questions(path), self.limit) for split, path in self.splits.items()}
        for split, questions in read.items():
            check_images(self.images, {q.id: q.image for q in questions}, self.splits[split])
        result: dict[str, float] = {}
        lines: list[dict[str, Any]] = []
        for split, questions in read.items():
            prompt = lambda q: self._chat(generator, q, self.splits[split])
            replies = ask(generator, questions, prompt, self.splits[split], max_tokens=self.max_tokens)
            said = [says_yes(reply) for reply in replies]
            images, hits = [q.image for q in questions], [yes == q.label for yes, q in zip(said, questions)]
            model.keep(f"{split}_accuracy", images, 100.0 * np.array(hits))
            found = confusion(said, [q.label for q in questions])
            result |= {f"{split}_{name}": value for name, value in (found | unclear(replies)).items()}
            lines += [{"id": f"{split}:{q.id}", "question": q.text, "answer": reply, "reference": "yes" if q.label else "no",
                       "right": yes == q.label} for q, reply, yes in zip(questions, replies, said)]
        write_answers(model.output_dir, self.name, lines)
        means = {key: float(np.mean([result[f"{split}_{key}"] for split in read])) for key in ("accuracy", "f1")}
        counts = {key: sum(result[f"{split}_{key}"] for split in read) for key in ("neither", "misread")}
        return {"questions": len(lines), **means, **counts, **result}

    def _chat(self, generator: Generator, q: PopeQuestion, path: str) -> Prompt:
        words = f"<image>\n{q.text}\n{self.instruction}".rstrip()
        return generator.chat(
            ({"role": "user", "content": words},), [read_image(self.images, q.image, path, q.id)], q.id
        )


def says_yes(reply: str) -> bool:
    """The benchmark's own rule: no if the first sentence has the word No, no or not, commas aside; anything else is yes."""
    words = reply.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


def unclear(replies: Sequence[str]) -> dict[str, int]:
    """How many replies the benchmark's rule gives a meaning that they do not have.

    `neither`: they say neither yes nor no (nothing at all, or "I cannot see one"), which the rule reads as yes. `misread`: their
    first word is a yes or a no, and the rule reads the other ("NO." is a yes by it).
    """
    words = [re.findall(r"[^\W_]+", reply.casefold()) for reply in replies]
    neither = sum(not {"yes", "no", "not"} & set(said) for said in words)
    misread = sum(said[:1] == [("no", "yes")[not says_yes(reply)]] for reply, said in zip(replies, words))
    return {"neither": neither, "misread": misread}


def confusion(said: Sequence[bool], labels: Sequence[bool]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the share of yes among the answers, in percent; 0 where a ratio has no cases."""
    yes, true = np.array(said, bool), np.array(labels, bool)
    percent = lambda part, whole: 100 * float(part) / float(whole) if whole else 0.0
    hits = int((yes & true).sum())
    return {"accuracy": percent((yes == true).sum(), len(true)), "precision": percent(hits, yes.sum()),
            "recall": percent(hits, true.sum()), "f1": percent(2 * hits, yes.sum() + true.sum()),
            "yes_ratio": percent(yes.sum(), len(yes))}


def read_questions(path: str) -> list[PopeQuestion]:
    """The questions of one split.

    Raises:
      UserError: a file that is missing or empty. BadExample: a line that is no question, or a question twice.
    """
    lines = JsonLines(path)
    if not len(lines):
        raise UserError(f"{path}: the file has no lines")
    questions = (_question(path, *lines[i]) for i in range(len(lines)))
    return list(unique(((q.id, q) for q in questions), "question_id", path).values())


def _question(path: str, line: int, row: dict[str, Any]) -> PopeQuestion:
    where = f"line {line}"
    label = field(row, "label", str, path, where)
    if label not in ("yes", "no"):
        raise BadExample(path, where, f"label {label!r} is neither 'yes' nor 'no'")
    return PopeQuestion(str(field(row, "question_id", (int, str), path, where)), field(row, "text", str, path, where).strip(),
                        field(row, "image", str, path, where), label == "yes")
