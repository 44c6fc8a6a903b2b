"""MMVP (arXiv 2401.06209): a question about two pictures that CLIP takes for one; a pair counts if both answers are right.

The authors let GPT-4 judge free replies, which nobody can repeat: the model is retired. Here the reply is a letter, read by
fixed rules; prompt and judge alone move a model by 12 points, so a number stands beside its `version`. For a judge outside,
the answers file holds question, options, right letter and reply, two lines a pair; `score_answers` reads it back.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import string
from typing import Any, ClassVar, Literal

import numpy as np

from mof_jax import console
from mof_jax.data.pairs import Pair
from mof_jax.data.sources.jsonl import JsonLines
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.answer import parse_choice
from mof_jax.evals.answer.answers_file import write_answers
from mof_jax.evals.answer.choice_files import ChoiceQuestion
from mof_jax.evals.answer.multiple_choice import BY_LETTER, answer_line, choose, method
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.json_files import field, spread, unique
from mof_jax.evals.metrics.paired import pair_scores
from mof_jax.evals.mmvp.mmvp_files import Labels, read_mmvp
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Whole


@dataclasses.dataclass(frozen=True)
class Mmvp(Evaluator):
    """Pair accuracy and question accuracy in percent.

    Attributes:
      path, labels, patterns: see `mmvp_files.read_mmvp`. pairs: how many the file must hold, 150 of the published one.
      by, length, instruction, max_tokens: see `multiple_choice.Choice`.
      limit: pairs to ask about, spread evenly over the file; 0 for all.
    """

    kind: ClassVar[str] = "mmvp"
    requires: ClassVar[tuple[str, ...]] = ("generate",)

    path: str
    labels: Labels = "original"
    patterns: str = ""
    pairs: Count | None = None
    name: str = "mmvp"
    by: Literal["letter", "likelihood"] = "letter"
    length: Literal["sum", "mean"] = "sum"
    instruction: str = BY_LETTER
    max_tokens: Count = 16
    limit: Whole = 0

    def __post_init__(self):
        if self.limit < 0 or self.max_tokens < 1:
            raise ValueError("limit must not be negative, max_tokens must be positive")

    @property
    def version(self) -> str:
        """How the numbers come about."""
        return f"{method(self)}, labels {self.labels}"

    def run(self, model: Model) -> dict[str, float]:
        """See `measure`; prints the version.

        Raises:
          UserError: files that are missing or incomplete. BadExample: a row that is wrong, or its picture.
        """
        pairs = read_mmvp(self.path, self.labels, self.patterns, self.pairs)
        console.show(f"{self.name}: {self.version}")  # a number without these means little
        return self.measure(model, spread(pairs, self.limit))

    def measure(self, model: Model, pairs: Sequence[Pair]) -> dict[str, float]:
        """`paired.pair_scores` of any pairs that have a question; `unparsed` or `tied` as in `Choice`."""
        asked = questions(pairs)
        chosen, answers = choose(model.generator, asked, self, self.path)
        right = np.array([choice == q.right for choice, q in zip(chosen, asked)])
        lines = ({**answer_line(*of_one), "pattern": of_one[0].category} for of_one in zip(asked, answers, right.tolist()))
        write_answers(model.output_dir, self.name, lines)
        halves = right.reshape(-1, 2)
        units = [pair.id for pair in pairs]
        model.keep("pair_accuracy", units, 100.0 * halves.all(axis=1))
        model.keep("question_accuracy", [unit for unit in units for _ in (0, 1)], 100.0 * right)
        unparsed = {"unparsed" if self.by == "letter" else "tied": chosen.count(None)}
        return pair_scores(halves, [pair.pattern for pair in pairs]) | unparsed


def questions(pairs: Sequence[Pair]) -> list[ChoiceQuestion]:
    """The two questions of each pair, one after the other, with the ids of `Pair.record`.

    Raises:
      BadExample: a pair without a question or options.
    """
    for pair in pairs:
        if not pair.question or len(pair.options) != 2:
            raise BadExample("pairs", pair.id, "has no question with two options; MMVP asks one (MMVP-VLM has statements)")
    return [ChoiceQuestion(f"{pair.id}/{which}", "", pair.question, pair.options, pair.answers[which], pair.pattern,
                           lambda pair=pair, which=which: pair.images[which]) for pair in pairs for which in (0, 1)]


def score_answers(path: str, pairs: Sequence[Pair]) -> dict[str, float]:
    """The result of a file of replies, or of what a judge said of them; the keys are those of `Mmvp.measure`.

    One JSON object a line. `judgement` is a judge's yes or no, anything else is wrong, as the authors' script has it (even
    "Yes."); without it `answer` is a reply, read as in `Mmvp`. `id` says which question it is; where no line has one, line i is
    about question i, so that consecutive lines make a pair, as in the authors' files.

    Raises:
      UserError: another number of lines than questions, or a question without a line. BadExample: a line without the keys, or
        judged against other labels than those of `pairs`.
    """
    asked, file = questions(pairs), JsonLines(path)
    lines = [file[i] for i in range(len(file))]
    if len(lines) != len(asked):
        raise UserError(f"{path}: {len(lines)} lines for {len(asked)} questions; one line a question, two a pair")
    if any("id" in row for _, row in lines):
        by_id = unique(((field(row, "id", (str, int), path, f"line {n}"), (n, row)) for n, row in lines), "id", path)
        lost = next((q.id for q in asked if q.id not in by_id), None)
        if lost is not None:
            raise UserError(f"{path}: no line with id {lost!r}; leave ids out if the lines are in the order of the questions")
        lines = [by_id[q.id] for q in asked]
    judged = any("judgement" in row for _, row in lines)
    found = [_verdict(path, n, row, q) if judged else _choice(path, n, row, q) for (n, row), q in zip(lines, asked)]
    right = np.array([verdict is True for verdict in found]).reshape(-1, 2)
    return pair_scores(right, [pair.pattern for pair in pairs]) | {"unparsed": found.count(None)}


def _verdict(path: str, n: int, row: dict[str, Any], q: ChoiceQuestion) -> bool | None:
    """What a judge said; None if it is neither yes nor no."""
    letter = string.ascii_uppercase[q.right]
    if row.get("reference", letter) != letter:
        raise BadExample(path, f"line {n}", f"was judged against {row['reference']!r} where {letter!r} is right; are the labels "
                         "(original or corrected) those that it was exported with?")
    return {"yes": True, "no": False}.get(field(row, "judgement", str, path, f"line {n}").lower())


def _choice(path: str, n: int, row: dict[str, Any], q: ChoiceQuestion) -> bool | None:
    choice = parse_choice.parse(field(row, "answer", str, path, f"line {n}"), q.options)
    return None if choice is None else choice == q.right
