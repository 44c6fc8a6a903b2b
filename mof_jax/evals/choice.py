"""Multiple-choice questions about pictures (MMBench, SEED-Bench), answered by letter or by likelihood."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
import dataclasses
import string
from typing import Any, ClassVar, Literal

import numpy as np

from mof_jax.decode.respond import Prompt, Responder
from mof_jax.evals import letters
from mof_jax.evals.answers import write_answers
from mof_jax.evals.asking import ask, ask_likelihood, named_prompt
from mof_jax.evals.choice_files import ChoiceQuestion, mmbench, seed_bench
from mof_jax.evals.files import spread

BY_LETTER = "Reply with the letter of the right option and nothing else."


@dataclasses.dataclass(frozen=True)
class Choice:
    """Accuracy in percent, over all questions and by category.

    Attributes:
      path: the file. layout: whose file it is, see `choice_files`. images: folder of the pictures of a SEED-Bench file.
      by: `letter` shows the options and reads the letter off the reply, see `letters`; `likelihood` shows none and takes
        the option whose text is the likeliest answer (SEED-Bench, arXiv 2307.16125).
      length: whether a likelihood is the `sum` over an option's tokens or their `mean`.
      circular: a question counts if it is answered rightly under every rotation of its options (MMBench, arXiv 2307.06281).
      instruction: follows the options.
      max_tokens: of a reply. limit: ask so many questions, spread evenly over the file; 0 for all.
    """

    needs: ClassVar[str] = "responder"

    path: str
    layout: Literal["mmbench", "seed"]
    images: str = ""
    name: str = "choice"
    by: Literal["letter", "likelihood"] = "letter"
    length: Literal["sum", "mean"] = "sum"
    circular: bool = False
    instruction: str = BY_LETTER
    max_tokens: int = 16
    limit: int = 0

    def __post_init__(self):
        if self.layout == "seed" and not self.images:
            raise ValueError("images: the folder of a SEED-Bench file's pictures is missing")
        if self.circular and self.by == "likelihood":
            raise ValueError("circular: a likelihood does not depend on the order of the options; leave it off")
        if self.limit < 0 or self.max_tokens < 1:
            raise ValueError("limit must not be negative, max_tokens must be positive")

    @property
    def version(self) -> str:
        """How the numbers come about."""
        if self.by == "likelihood":
            return f"prompt choice-bare/1, likelihood {self.length}, scorer argmax/1"
        scorer = f"{letters.VERSION} circular" if self.circular else letters.VERSION
        return f"prompt {named_prompt('choice-letter/1', self.instruction, BY_LETTER)}, greedy {self.max_tokens}, scorer {scorer}"

    def run(self, responder: Responder) -> dict[str, float]:
        """`accuracy`, `accuracy_<category>`; by letter also `unparsed`, the number of replies that choose no option.

        Raises:
          UserError: a file that is missing or of another layout. BadExample: a record that is wrong.
        """
        questions = mmbench(self.path) if self.layout == "mmbench" else seed_bench(self.path, self.images)
        questions = spread(questions, self.limit)
        turns = [q.rotations() if self.circular else [q] for q in questions]
        asked = [turned for of_one in turns for turned in of_one]
        chosen, answers = (self._by_letter if self.by == "letter" else self._by_likelihood)(responder, asked)
        rights = [choice == q.right for choice, q in zip(chosen, asked)]
        write_answers(responder.pictures, self.name, map(_line, asked, answers, rights))
        left = iter(rights)
        passed = [all([next(left) for _ in of_one]) for of_one in turns]
        by_category = defaultdict(list)
        for question, whole in zip(questions, passed):
            by_category[question.category].append(whole)
        unparsed = {"unparsed": float(chosen.count(None))} if self.by == "letter" else {}
        categories = {f"accuracy_{name}": 100 * float(np.mean(found)) for name, found in sorted(by_category.items()) if name}
        return {"questions": float(len(questions)), "accuracy": 100 * float(np.mean(passed)), **unparsed, **categories}

    def _by_letter(self, responder: Responder, asked: Sequence[ChoiceQuestion]) -> tuple[list[int | None], list[str]]:
        prompt = lambda q: _chat(responder, q, lettered(q.options), self.instruction)
        replies = ask(responder, asked, prompt, self.path, max_tokens=self.max_tokens)
        return [letters.parse(reply, q.options) for reply, q in zip(replies, asked)], replies

    def _by_likelihood(self, responder: Responder, asked: Sequence[ChoiceQuestion]) -> tuple[list[int | None], list[str]]:
        items = [(q, option) for q in asked for option in q.options]
        scores, counts = ask_likelihood(responder, items, lambda q: _chat(responder, q), self.path)
        if self.length == "mean":
            scores = scores / np.maximum(counts, 1)
        ends = np.cumsum([len(q.options) for q in asked])[:-1]
        chosen = [int(of_one.argmax()) for of_one in np.split(scores, ends)]
        return chosen, [q.options[choice] for q, choice in zip(asked, chosen)]


def lettered(options: Sequence[str]) -> str:
    """The options as lines, `A. …`."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options))


def _chat(responder: Responder, q: ChoiceQuestion, *after: str) -> Prompt:
    words = "\n".join(part for part in ("<image>", q.hint, q.question, *after) if part)
    return responder.chat(({"role": "user", "content": words},), [q.image()], q.id)


def _line(q: ChoiceQuestion, answer: str, right: bool) -> dict[str, Any]:
    return {"id": q.id, "question": q.question, "options": list(q.options), "answer": answer,
            "reference": string.ascii_uppercase[q.right], "right": right}
