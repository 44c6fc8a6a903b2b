"""A model whose answers a test decides, and pictures to ask it about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib

from fake_model import FakeModel
import numpy as np

from mof_jax.data.image import images


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a prompt was made of."""

    text: str
    images: tuple
    id: str
    plain: bool


class FakeGenerator(FakeModel):
    """Answers `reply(asked)` and finds an answer as likely as `log_prob(asked, answer)` says, one token a word.

    Attributes:
      asked: every prompt it was given, in order.
    """

    def __init__(
        self, reply: Callable[[Asked], str] = lambda asked: "",
        log_prob: Callable[[Asked, str], float] = lambda asked, answer: 0.0, output_dir: pathlib.Path | None = None,
    ):
        self.reply, self.log_prob = reply, log_prob
        self.output_dir = None if output_dir is None else str(output_dir)
        self.asked: list[Asked] = []
        self.calls: list[dict] = []

    def chat(self, messages: Sequence[dict], images: Sequence = (), id: str = "") -> Asked:
        assert [m["role"] for m in messages] == ["user"]
        return self._asked(messages[0]["content"], images, id, plain=False)

    def text(self, text: str, images: Sequence = (), id: str = "") -> Asked:
        return self._asked(text, images, id, plain=True)

    def _asked(self, text: str, images: Sequence, id: str, plain: bool) -> Asked:
        assert text.count("<image>") == len(images), text
        return Asked(text, tuple(images), id, plain)

    def answer(self, prompts, max_tokens=16, sample=None, stop=()) -> list[str]:
        self.asked += prompts
        self.calls.append({"count": len(prompts), "max_tokens": max_tokens, "sample": sample, "stop": tuple(stop)})
        cut = lambda text: text[: min([len(text), *(text.find(s) for s in stop if s in text)])]
        return [" ".join(cut(self.reply(prompt)).split()[:max_tokens]) for prompt in prompts]

    def log_probs(self, prompts, answers):
        self.asked += prompts
        sums = np.array([self.log_prob(prompt, answer) for prompt, answer in zip(prompts, answers)], np.float32)
        return sums, np.array([len(answer.split()) for answer in answers])


def picture(shade: int) -> bytes:
    """A small PNG that `shade_of` tells from others."""
    return images.encode(np.full((6, 8, 3), shade, np.uint8))


def shade_of(data: bytes) -> int:
    """The argument that `picture` made these bytes of."""
    return int(np.asarray(images.decode(data))[0, 0, 0])


def write_json(path: pathlib.Path, value: object) -> str:
    """The path of a file that holds `value`."""
    path.write_text(json.dumps(value))
    return str(path)


def read_lines(folder: pathlib.Path, name: str) -> list[dict]:
    """The answers that an evaluator left."""
    return [json.loads(line) for line in (folder / "answers" / f"{name}.jsonl").read_text().splitlines()]
