"""A multimodal language model as evaluators see it: it answers prompts, and says how likely given answers are.

Prompts are documents without their answers, tokenized as in training and by the same code. Rows of a batch are ragged in
words and pictures; both are padded to a few sizes, so that a run of any length compiles a handful of programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8
import numpy as np
from rich.console import Console
from rich.progress import track

from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.packing.sequences import Part, Sample, Special, Text, place, tokenize
from mof_jax.data.text import chat
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.decode.generate import Reading, advance, answer_log_probs, read
from mof_jax.decode.sample import SampleConfig
from mof_jax.errors import UserError
from mof_jax.mesh import batch_shards, fetch, on_mesh, put_batch
from mof_jax.models.mllm import Mllm, MllmConfig
from mof_jax.nn.module import Params, Skeleton
from mof_jax.task import Predictor

Image = bytes | UInt8[np.ndarray, "height width 3"]

_CHUNK = 16  # tokens between two looks for a stop string
_TOKENS, _ANSWER = 64, 8  # lengths of prompts and given answers are rounded up to multiples of these


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a model is asked to continue.

    Attributes:
      parts: texts, special tokens and pictures in reading order.
      id: name in messages.
      template: how an answer is written behind it; None for plain text.
    """

    parts: tuple[Part, ...]
    id: str = "prompt"
    template: chat.Template | None = None

    def reply(self, answer: str) -> list[Part]:
        """The parts of an answer."""
        return [Text(answer)] if self.template is None else list(self.template.reply(answer))


class Generator:
    """An MLLM that answers. `bind` gives it parameters.

    Attributes:
      template: the chat template it was trained with.
      on_batch: called before each batch, alike on all processes; may raise to stop.
    """

    def __init__(
        self,
        model: MllmConfig,
        skeleton: Skeleton,
        mesh: Mesh,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        template: str,
        batch_size: int = 64,
        on_batch: Callable[[], None] = lambda: None,
        answers: Predictor = lambda model: model,
    ):
        self.model, self.skeleton, self.mesh = model, skeleton, mesh
        self.preprocess, self.tokenizer, self.template = preprocess, tokenizer, chat.template(template)
        self.batch_size, self.on_batch, self._answers = batch_size, on_batch, answers
        self._params: Params | None = None
        self._read = jax.jit(on_mesh(mesh, self._read_batch), static_argnames="room")
        self._advance = jax.jit(on_mesh(mesh, self._advance_rows), static_argnames=("steps", "sample"), donate_argnums=1)
        self._score = jax.jit(on_mesh(mesh, self._score_batch))

    def bind(self, params: Params) -> Generator:
        """This generator with the given parameters (all of them, by path)."""
        bound = copy.copy(self)
        bound._params = params
        return bound

    # Prompts

    def chat(self, messages: Sequence[chat.Message], images: Sequence[Image] = (), id: str = "prompt") -> Prompt:
        """A conversation up to its next answer, in the checkpoint's template; pictures stand at `<image>`.

        Raises:
          BadExample: turns out of order, or another number of pictures than of placeholders.
        """
        parts = place(self.template.prompt(messages, "prompt", id), images, "prompt", id)
        return Prompt(parts, id, self.template)

    def ask(self, question: str, images: Sequence[Image] = (), id: str = "prompt") -> Prompt:
        """One question about pictures, which come first unless the question says where they stand."""
        if "<image>" not in question:
            question = "<image>\n" * len(images) + question
        return self.chat(({"role": "user", "content": question},), images, id)

    def text(self, text: str, images: Sequence[Image] = (), id: str = "prompt") -> Prompt:
        """Plain text with pictures at `<image>`, for pretrained models and few-shot prompts."""
        spans = [Special("bos"), Text(text, supervised=False)]
        return Prompt(place(spans, images, "prompt", id), id)

    # What a model can be asked

    def answer(
        self, prompts: Sequence[Prompt], max_tokens: int = 16, sample: SampleConfig = SampleConfig(), stop: Sequence[str] = ()
    ) -> list[str]:
        """One continuation a prompt, up to its end token or one of `stop` and the template's own stop strings.

        Args:
          max_tokens: new tokens at most.
          sample: greedy by default. Prompt i of the call draws from a stream of its own, whatever its neighbours.
        """
        base = jax.random.key(sample.seed, impl="threefry2x32")
        answers: list[str] = [""] * len(prompts)
        for rows, count, batch in self._batches(prompts):
            keys = jax.vmap(functools.partial(jax.random.fold_in, base))(jnp.asarray(rows))
            stops = [(*stop, *(prompts[row].template.stop if prompts[row].template else ())) for row in rows]
            texts = self._continue(batch, keys, stops, max_tokens, sample)
            for row, text in zip(rows[:count], texts):
                answers[row] = text
        return answers

    def log_probs(
        self, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> tuple[Float[np.ndarray, "prompts"], Int[np.ndarray, "prompts"]]:
        """Σ log p(token) of each answer after its prompt, with what ends it in the template; and how many tokens that is."""
        given = [tokenize(p.id, p.reply(a), self.tokenizer, self.model.tokens_per_image).tokens for p, a in zip(prompts, answers)]
        sums, counts = np.zeros(len(prompts), np.float32), np.array([len(ids) for ids in given])
        for rows, count, batch in self._batches(prompts, given):
            sums[rows[:count]] = fetch(self._score(self._params, batch))[:count]
        return sums, counts

    # On the device

    def _model(self, params: Params) -> Mllm:
        return self._answers(self.skeleton.merge(params))

    def _embedded(self, model: Mllm, batch: Mapping[str, Array]) -> Float[Array, "rows tokens width"]:
        rows, images, *pixels = batch["images"].shape
        seen = model.image_tokens(batch["images"].reshape(rows * images, *pixels)) if images else None
        return model.embed(batch["tokens"], batch["image_index"], seen, streams=rows)

    def _read_batch(self, params: Params, batch: Mapping[str, Array], room: int) -> Reading:
        model = self._model(params)
        return read(model.llm, self._embedded(model, batch), batch["lengths"], room, jnp.dtype(self.model.dtype))

    def _advance_rows(
        self, params: Params, reading: Reading, keys: Key[Array, "rows"], steps: int, sample: SampleConfig
    ) -> tuple[Reading, Int[Array, "rows steps"]]:
        llm = self._model(params).llm
        return advance(llm, reading, steps, sample, self._end, keys, jnp.dtype(self.model.dtype))

    def _score_batch(self, params: Params, batch: Mapping[str, Array]) -> Float[Array, "rows"]:
        model = self._model(params)
        return answer_log_probs(model.llm, self._embedded(model, batch), batch["lengths"], batch["answers"],
                                batch["answer_lengths"], jnp.dtype(self.model.dtype))

    # On the host

    @property
    def _end(self) -> int:
        """The token that ends an answer."""
        end = self.template.end
        token = self.tokenizer.eos_id if end in ("", "eos") else self.tokenizer.token_id(end)
        return self.tokenizer.pad_id if token is None else token

    def _continue(
        self, batch: Mapping[str, Array], keys: Key[Array, "rows"], stops: Sequence[Sequence[str]], max_tokens: int,
        sample: SampleConfig,
    ) -> list[str]:
        """The texts of a batch's continuations; generation pauses now and then to look for stop strings."""
        room = -(-max_tokens // _CHUNK) * _CHUNK
        reading = self._read(self._params, batch, room=room)
        ids = np.zeros((len(stops), 0), np.int32)
        while ids.shape[1] < max_tokens:
            reading, more = self._advance(self._params, reading, keys, steps=_CHUNK, sample=sample)
            ids = np.concatenate([ids, fetch(more)], axis=1)[:, :max_tokens]
            texts = [self._text(row, stop) for row, stop in zip(ids, stops)]
            if all(ended for _, ended in texts):
                break
        return [text for text, _ in texts]

    def _text(self, ids: Int[np.ndarray, "tokens"], stops: Sequence[str]) -> tuple[str, bool]:
        """(the text before the first end, whether it has ended)."""
        ends = np.flatnonzero(ids == self._end)
        text = self.tokenizer.decode(ids[: ends[0]] if len(ends) else ids, strip=False)
        cuts = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        return (text[: min(cuts)] if cuts else text).strip(), bool(len(ends) or cuts)

    def _batches(
        self, prompts: Sequence[Prompt], answers: Sequence[Int[np.ndarray, "tokens"]] | None = None
    ) -> Iterator[tuple[list[int], int, dict[str, jax.Array]]]:
        """(which prompts, how many of them are real, arrays) of one batch after the other, prompts of like length together."""
        samples = [tokenize(p.id, p.parts, self.tokenizer, self.model.tokens_per_image) for p in prompts]
        if not self.model.encoders and (seen := next((s.id for s in samples if s.pictures), None)) is not None:
            raise UserError(f"{seen}: has a picture, and this model only reads text")
        shards = batch_shards(self.mesh)
        size = -(-min(self.batch_size, len(samples)) // shards) * shards
        order = sorted(range(len(samples)), key=lambda i: (len(samples[i].starts), len(samples[i]), i))
        starts = range(0, len(samples), max(size, 1))
        console = Console(stderr=True)
        hidden = len(starts) < 3 or jax.process_index() > 0 or not console.is_terminal
        for start in track(starts, "answer", console=console, transient=True, disable=hidden):
            self.on_batch()
            rows = order[start : start + size]
            count = len(rows)
            rows = rows + [rows[-1]] * (size - count)  # a whole batch: the last row is repeated, its results are cut off
            local = size // jax.process_count()
            mine = rows[local * jax.process_index() :][:local]
            yield rows, count, put_batch(self.mesh, self._arrays(rows, mine, samples, answers))

    def _arrays(
        self, rows: Sequence[int], mine: Sequence[int], samples: Sequence[Sample],
        answers: Sequence[Int[np.ndarray, "tokens"]] | None,
    ) -> dict[str, np.ndarray]:
        """This process's rows `mine` of the batch `rows`, padded to what the longest of all rows needs."""
        k, side = self.model.tokens_per_image, self.preprocess.image_size
        context = _round_up(max(len(samples[row]) for row in rows), _TOKENS)
        images = max(len(samples[row].starts) for row in rows)
        tokens = np.full((len(mine), context), self.tokenizer.pad_id, np.int32)
        index = np.full((len(mine), context), -1, np.int32)
        pixels = np.zeros((len(mine), images, side, side, 3), np.uint8)
        for i, row in enumerate(mine):
            tokens[i, : len(samples[row])] = samples[row].tokens
            for j, (start, picture) in enumerate(zip(samples[row].starts, samples[row].pictures)):
                index[i, start : start + k] = j * k + np.arange(k)
                pixels[i, j] = self.preprocess(picture, "prompt", samples[row].id)
        arrays = {"tokens": tokens, "image_index": index, "images": pixels,
                  "lengths": np.array([len(samples[row]) for row in mine], np.int32)}
        if answers is None:
            return arrays
        given = np.full((len(mine), _round_up(max(len(answers[row]) for row in rows), _ANSWER)), self.tokenizer.pad_id, np.int32)
        for i, row in enumerate(mine):
            given[i, : len(answers[row])] = answers[row]
        return arrays | {"answers": given, "answer_lengths": np.array([len(answers[row]) for row in mine], np.int32)}


def _round_up(n: int, step: int) -> int:
    return max(step, -(-n // step) * step)
