"""Multiple-choice questions about pictures (MMBench, SEED-Bench), answered by letter or by likelihood."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
import dataclasses
import string
from typing import Any, ClassVar, Literal, Protocol

from jaxtyping import Float
import numpy as np

from mof_jax.decode.respond import Generator, Prompt
from mof_jax.evals.answer import parse_choice
from mof_jax.evals.answer.answers_file import write_answers
from mof_jax.evals.answer.batch_generate import ask, ask_likelihood, named_prompt
from mof_jax.evals.answer.choice_files import ChoiceQuestion, mmbench, seed_bench
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.json_files import spread
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Whole

BY_LETTER = "Reply with the letter of the right option and nothing else."


@dataclasses.dataclass(frozen=True)
class Choice(Evaluator):
    """Accuracy in percent, over all questions and by category.

    Attributes:
      path: the file. layout: whose file it is, see `choice_files`. images: folder of the pictures of a SEED-Bench file.
      by: `letter` shows the options and reads the letter off the reply, see `parse_choice`; `likelihood` shows none and takes
        the option whose text is the likeliest answer (SEED-Bench, arXiv 2307.16125).
      length: whether a likelihood is the `sum` over an option's tokens or their `mean`.
      circular: a question counts if it is answered rightly under every rotation of its options (MMBench, arXiv 2307.06281).
      instruction: follows the options.
      max_tokens: of a reply. limit: questions to ask, spread evenly over the file; 0 for all.
    """

    kind: ClassVar[str] = "choice"
    requires: ClassVar[tuple[str, ...]] = ("generate",)

    path: str
    layout: Literal["mmbench", "seed"]
    images: str = ""
    name: str = "choice"
    by: Literal["letter", "likelihood"] = "letter"
    length: Literal["sum", "mean"] = "sum"
    circular: bool = False
    instruction: str = BY_LETTER
    max_tokens: Count = 16
    limit: Whole = 0

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
        return method(self) + (" circular" if self.circular else "")

    def run(self, model: Model) -> dict[str, float]:
        """`accuracy`, `accuracy_<category>`; `unparsed`, replies that choose no option, or by likelihood `tied`, questions of
        which several options are the likeliest. Both count as wrong.

        Raises:
          UserError: a file that is missing or of another layout. BadExample: a record that is wrong.
        """
        generator = model.generator
        questions = mmbench(self.path) if self.layout == "mmbench" else seed_bench(self.path, self.images)
        questions = spread(questions, self.limit)
        turns = [q.rotations() if self.circular else [q] for q in questions]
        asked = [turned for of_one in turns for turned in of_one]
        chosen, answers = choose(generator, asked, self, self.path)
        rights = [choice == q.right for choice, q in zip(chosen, asked)]
        write_answers(model.output_dir, self.name, map(answer_line, asked, answers, rights))
        left = iter(rights)
        passed = [all([next(left) for _ in of_one]) for of_one in turns]
        model.keep("accuracy", [q.id for q in questions], 100.0 * np.array(passed))
        by_category = defaultdict(list)
        for question, whole in zip(questions, passed):
            by_category[question.category].append(whole)
        unparsed = {"unparsed" if self.by == "letter" else "tied": chosen.count(None)}
        categories = {f"accuracy_{name}": 100 * float(np.mean(found)) for name, found in sorted(by_category.items()) if name}
        return {"questions": len(questions), "accuracy": 100 * float(np.mean(passed)), **unparsed, **categories}


class Asking(Protocol):
    """How options are asked for; see the attributes of `Choice`."""

    by: Literal["letter", "likelihood"]
    length: Literal["sum", "mean"]
    instruction: str
    max_tokens: int


def method(how: Asking) -> str:
    """Prompt, decoding and scorer, for the version of a result."""
    if how.by == "likelihood":
        return f"prompt choice-bare/1, likelihood {how.length}, scorer argmax/2"
    prompt = named_prompt("choice-letter/1", how.instruction, BY_LETTER)
    return f"prompt {prompt}, greedy {how.max_tokens}, scorer {parse_choice.VERSION}"


def choose(
    generator: Generator, asked: Sequence[ChoiceQuestion], how: Asking, source: str
) -> tuple[list[int | None], list[str]]:
    """(the option that a model chooses for each question, None where its reply names none; its replies).

    Args:
      source: file to name where a picture is bad.

    Raises:
      BadExample: a picture that is missing or cannot be decoded.
    """
    return (_by_letter if how.by == "letter" else _by_likelihood)(generator, asked, how, source)


def _by_letter(
    generator: Generator, asked: Sequence[ChoiceQuestion], how: Asking, source: str
) -> tuple[list[int | None], list[str]]:
    prompt = lambda q: _chat(generator, q, lettered(q.options), how.instruction)
    replies = ask(generator, asked, prompt, source, max_tokens=how.max_tokens)
    return [parse_choice.parse(reply, q.options) for reply, q in zip(replies, asked)], replies


def _by_likelihood(
    generator: Generator, asked: Sequence[ChoiceQuestion], how: Asking, source: str
) -> tuple[list[int | None], list[str]]:
    items = [(q, option) for q in asked for option in q.options]
    scores, counts = ask_likelihood(generator, items, lambda q: _chat(generator, q), source)
    if how.length == "mean":
        scores = scores / np.maximum(counts, 1)
    ends = np.cumsum([len(q.options) for q in asked])[:-1]
    chosen = [_likeliest(of_one) for of_one in np.split(scores, ends)]
    return chosen, ["" if choice is None else q.options[choice] for q, choice in zip(asked, chosen)]


def _likeliest(scores: Float[np.ndarray, "options"]) -> int | None:
    """The option of the largest score; None where several share it or a score is no number: the first would win by its place."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[0]) if len(best) == 1 and np.isfinite(scores[best[0]]) else None


def lettered(options: Sequence[str]) -> str:
    """The options as lines, `A. …`."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options))


def _chat(generator: Generator, q: ChoiceQuestion, *after: str) -> Prompt:
    words = "\n".join(part for part in ("<image>", q.hint, q.question, *after) if part)
    return generator.chat(({"role": "user", "content": words},), [q.image()], q.id)


def answer_line(q: ChoiceQuestion, answer: str, right: bool) -> dict[str, Any]:
    """What the answers file says of a question."""
    return {"id": q.id, "question": q.question, "options": list(q.options), "answer": answer,
            "reference": string.ascii_uppercase[q.right], "right": right}
