"""Chat templates: from messages to the parts of a document, the same for training and for generation.

    plain       {images}{answer}\\n                                      captions, LLaVA's first stage; the question is dropped
    vicuna_v1   SYSTEM USER: {images}{question} ASSISTANT: {answer}</s>  LLaVA-1.5, second stage
    chatml      <|im_start|>user\\n{images}{question}<|im_end|>\\n …      Qwen2
    simple      {images}Q: {question} A: {answer}</s>                    small models

Learned are the answers and what ends them (arXiv 2304.08485, section 4.2); everything else is context. A message is
`{"role": "system" | "user" | "assistant", "content": str}`; pictures stand at `<image>` in a user's content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import TypeAlias

from mof_jax.data.packing.sequences import IMAGE, Special, Text
from mof_jax.errors import BadExample, lookup

Message: TypeAlias = Mapping[str, str]
Span: TypeAlias = Text | Special

ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Template:
    """How a conversation is written down.

    Attributes:
      name: its name in configs and checkpoints.
      ask: the spans of a question, with `{images}` and `{text}` where pictures and words go; a string that stands alone
        between bars, `|…|`, is a special token.
      answer: what stands before an answer.
      end: the token after an answer, learned with it; `""` for none.
      after: text that follows an answer as context, before the next question.
      closing: text after an answer that is learned with it (a line break, in `plain`).
      image: how one picture is written inside `{images}`.
      system: spans of the system line, with `{text}`; empty for a format without one.
      default_system: the system line of a conversation that has none of its own; `""` writes none.
      bos: whether the document starts with the tokenizer's bos, if it has one.
      turns: how many questions a conversation may have; 0 for any number.
      stop: texts that end an answer when generating, besides the tokenizer's eos.
    """

    name: str
    ask: tuple[str, ...]
    answer: str = " "
    end: str = "eos"
    after: str = ""
    closing: str = ""
    image: str = IMAGE
    system: tuple[str, ...] = ()
    default_system: str = ""
    bos: bool = True
    turns: int = 0
    stop: tuple[str, ...] = ()

    def spans(self, messages: Sequence[Message], source: str = "chat", record: str | int = 0) -> list[Span]:
        """A whole conversation, for training.

        Raises:
          BadExample: turns that do not alternate, an empty answer, an unknown role or key, too many turns.
        """
        system, turns = self._turns(messages, source, record)
        if turns[-1][1] is None:
            raise BadExample(source, record, "the conversation ends with a question; the last turn must be the assistant's")
        return self._write(system, turns)

    def prompt(self, messages: Sequence[Message], source: str = "chat", record: str | int = 0) -> list[Span]:
        """A conversation up to where the next answer begins, for generation; nothing in it is learned.

        The space before the answer is left to the model, as in training, where it belongs to the answer.

        Raises:
          BadExample: as `spans`, and if the conversation does not end with a question.
        """
        system, turns = self._turns(messages, source, record)
        if turns[-1][1] is not None:
            raise BadExample(source, record, "the conversation ends with an answer; a prompt ends with a question")
        return [dataclasses.replace(span, supervised=False) for span in self._write(system, turns)]

    def _turns(self, messages: Sequence[Message], source: str, record: str | int):
        """(system line, [(question, answer or None)]) of checked messages."""
        for number, message in enumerate(messages):
            if set(message) != {"role", "content"} or not all(isinstance(v, str) for v in message.values()):
                raise BadExample(source, record, f"message {number}: has {', '.join(map(str, message))}; needs role and content")
            if message["role"] not in ROLES:
                known = ", ".join(ROLES)
                raise BadExample(source, record, f"message {number}: unknown role {message['role']!r} (known: {known})")
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        rest = list(messages[system is not None :])
        if not rest:
            raise BadExample(source, record, "the conversation has no turns")
        for number, message in enumerate(rest):
            wanted = ("user", "assistant")[number % 2]
            if message["role"] != wanted:
                raise BadExample(source, record, f"turn {number} is the {message['role']}'s where the {wanted}'s is due; "
                                 "roles alternate, the user first")
            if wanted == "assistant" and not message["content"].strip():
                raise BadExample(source, record, f"turn {number}: the assistant says nothing")
            if wanted == "assistant" and IMAGE in message["content"]:
                raise BadExample(source, record, f"turn {number}: the assistant shows an {IMAGE}; pictures are the user's")
        contents = [message["content"] for message in rest]
        turns = [(contents[i], contents[i + 1] if i + 1 < len(contents) else None) for i in range(0, len(contents), 2)]
        if self.turns and len(turns) > self.turns:
            raise BadExample(source, record, f"{len(turns)} questions; template {self.name!r} takes {self.turns}")
        if system is not None and not self.system:
            raise BadExample(source, record, f"a system message; template {self.name!r} has no place for one")
        return system, turns

    def _write(self, system: str | None, turns: Sequence[tuple[str, str | None]]) -> list[Span]:
        spans: list[Span] = [Special("bos")] if self.bos else []
        system = self.default_system if system is None else system
        if system:
            spans += _fill(self.system, text=system)
        for number, (question, answer) in enumerate(turns):
            if number and self.after:
                spans.append(Text(self.after, False))
            images, words = self._pictures_first(question)
            spans += _fill(self.ask, images=images, text=words)
            if answer is not None:
                spans += self.reply(answer)
        return spans

    def reply(self, answer: str) -> list[Span]:
        """An answer as it is learned, with what ends it."""
        words = Text(self.answer + answer.strip() + self.closing, True)
        return [words, Special(self.end, True)] if self.end else [words]

    def _pictures_first(self, question: str) -> tuple[str, str]:
        """(pictures, words) of a question: a single picture comes first; several stay in the text they belong to.

        `plain` keeps the pictures alone.
        """
        count = question.count(IMAGE)
        if not any("{text}" in span for span in self.ask):
            return self.image * count, ""
        if count == 1:
            return self.image, question.replace(IMAGE, "").strip()
        return "", question.strip()


def _fill(spans: Sequence[str], **values: str) -> list[Span]:
    """Spans with their fields filled in, neighbouring texts joined, none of them learned."""
    filled: list[Span] = []
    for span in spans:
        if span.startswith("|"):
            filled.append(Special(span[1:-1]))
            continue
        for name in values:
            span = span.replace("{" + name + "}", "\0" + name + "\0")
        words = "".join(values.get(piece, piece) if i % 2 else piece for i, piece in enumerate(span.split("\0")))
        if words:
            filled.append(Text(words, False))
    return filled


_START, _END = "|<|im_start|>|", "<|im_end|>"

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("plain", ask=("{images}",), answer="", end="", closing="\n", turns=1, stop=("\n",)),
        # The system line and the words USER and ASSISTANT are what Vicuna 1.1 and later were tuned with.
        Template(
            "vicuna_v1",
            ask=("USER: {images}{text} ASSISTANT:",),
            image=f"{IMAGE}\n",
            system=("{text} ",),
            default_system="A chat between a curious user and an artificial intelligence assistant. The assistant gives "
            "helpful, detailed, and polite answers to the user's questions.",
            stop=("</s>",),
        ),
        Template(
            "chatml",
            ask=(_START, "user\n{images}{text}", f"|{_END}|", "\n", _START, "assistant\n"),
            answer="",
            end=_END,
            after="\n",
            image=f"{IMAGE}\n",
            system=(_START, "system\n{text}", f"|{_END}|", "\n"),
            default_system="You are a helpful assistant.",
            bos=False,
            stop=(_END,),
        ),
        Template("simple", ask=("{images}Q: {text} A:",)),
    )
}


def template(name: str) -> Template:
    """The template of that name, as configs and checkpoints keep it.

    Raises:
      UserError: there is none.
    """
    return lookup(TEMPLATES, name, "chat template")
