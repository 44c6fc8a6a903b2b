"""Short questions with one right answer, from a source of conversations: exact match by kind of question, and a sheet to look at.

The records are those of `scenes`, or of any source whose attributes hold `question` and `answer` (and `kind`, to group by).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import dataclasses
import os
from typing import ClassVar

import jax
from jaxtyping import Bool
import numpy as np

from mof_jax.data.image import images
from mof_jax.data.record import Record
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.answer.answers_file import read_answers, write_answers
from mof_jax.evals.answer.batch_generate import empty
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.gallery import draw_answers
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.metrics.paired import paired_interval
from mof_jax.evals.model import Model
from mof_jax.parsing import show
from mof_jax.ranges import Count, Whole


@dataclasses.dataclass(frozen=True)
class Questions(Evaluator):
    """Exact match, in percent, over all questions and for each kind; greedy answers.

    Attributes:
      source: whose questions.
      max_tokens: of an answer.
      baseline: answers of another model to the same questions, `WORKDIR/answers/NAME.jsonl` of its run.
      shown: questions on `NAME.png`, evenly over the source; 0 for no picture.
    """

    kind: ClassVar[str] = "questions"
    requires: ClassVar[tuple[str, ...]] = ("generate",)
    version: ClassVar[str] = "prompt template/1, greedy, scorer match/1"

    source: SourceConfig
    name: str = "questions"
    max_tokens: Count = 8
    baseline: str = ""
    shown: Whole = 12

    def run(self, model: Model) -> dict[str, float]:
        """`acc` and `acc_<kind>`; with a baseline also `lead_<kind>` over it and `lead_<kind>_low`, the lower end of the
        difference's 95 % paired bootstrap interval.

        Returns:
          Besides, `empty`: answers of nothing. `baseline_unused`: answers of the baseline to other questions than these.

        Raises:
          UserError: a baseline that does not answer all of these questions, or questions that share an id, which it cannot tell
            apart. BadExample: a record without question, answer or picture.
        """
        generator = model.generator
        source = open_source(self.source)
        items = records(source)
        asked = [_attribute(source.name, record, "question") for record in items]
        wanted = [_attribute(source.name, record, "answer") for record in items]
        prompts = [
            generator.ask(question, [record.image], record.id) for question, record in zip(asked, items)
        ]
        answers = generator.answer(prompts, self.max_tokens)
        right = np.array([matches(answer, want) for answer, want in zip(answers, wanted)])
        kinds = np.array([record.attributes.get("kind", "") for record in items])
        groups = {"": np.ones(len(items), bool)} | {f"_{kind}": kinds == kind for kind in dict.fromkeys(kinds.tolist()) if kind}
        result = {f"acc{name}": 100 * float(right[mine].mean()) for name, mine in groups.items()} | {"empty": empty(answers)}
        units = [unit_of(record) for record in items]
        for name, mine in groups.items():
            model.keep(f"acc{name}", [units[i] for i in np.flatnonzero(mine)], 100.0 * right[mine])
        if self.baseline:
            other = self._baseline([record.id for record in items], result)
            for name, mine in groups.items():
                result[f"lead{name}"] = 100 * float(right[mine].mean() - other[mine].mean())
                result[f"lead{name}_low"] = 100 * paired_interval(right[mine], other[mine])[0]
        write_answers(model.output_dir, self.name, (
            {"id": r.id, "kind": kind, "question": q, "answer": a, "reference": w, "right": bool(ok)}
            for r, kind, q, a, w, ok in zip(items, kinds.tolist(), asked, answers, wanted, right)))
        self._draw(
            model.output_dir,
            items,
            asked,
            answers,
            [None if ok else want for ok, want in zip(right, wanted)],
        )
        return result

    def _baseline(self, ids: Sequence[str], result: dict[str, float]) -> Bool[np.ndarray, "questions"]:
        """Which of the questions the baseline has right; writes into `result` how many others it answers."""
        theirs = read_answers(self.baseline)
        if twice := next((name for name, count in Counter(ids).items() if count > 1), None):
            raise UserError(f"{self.name}.baseline: several questions have the id {show(twice)}; a baseline needs one for each")
        if lost := [name for name in ids if name not in theirs]:
            raise UserError(f"{self.name}.baseline: {self.baseline} does not answer all of these questions: {len(lost):,} are "
                            f"missing, the first is {show(lost[0])}")
        if odd := next((name for name in ids if not isinstance(theirs[name], bool)), None):
            raise UserError(f"{self.name}.baseline: {self.baseline}: 'right' of {show(odd)} is {show(theirs[odd])}, neither "
                            "true nor false")
        result["baseline_unused"] = len(theirs) - len(ids)
        return np.array([theirs[name] for name in ids])

    def _draw(
        self, folder: str | None, items: Sequence[Record], asked: Sequence[str], answers: Sequence[str],
        corrections: Sequence[str | None],
    ) -> None:
        if not self.shown or folder is None or jax.process_index():
            return
        # A step that shares no factor with the number of kinds, which take turns in most sources.
        rows = [(i * (len(items) // self.shown) + i) % len(items) for i in range(min(self.shown, len(items)))]
        cells = [(images.decode(items[i].image), asked[i], answers[i], corrections[i]) for i in rows]
        draw_answers(cells).save(os.path.join(folder, f"{self.name}.png"))


def matches(answer: str, reference: str) -> bool:
    """Whether an answer is the reference, but for case, spaces and a full stop at its end."""
    tidy = lambda text: " ".join(text.lower().split()).removesuffix(".").rstrip()
    return tidy(answer) == tidy(reference)


def _attribute(source: str, record: Record, name: str) -> str:
    if record.attributes.get(name) is None or record.image is None:
        raise BadExample(source, record.id, f"no picture or no attribute {name!r}, which a question needs")
    return record.attributes[name]
