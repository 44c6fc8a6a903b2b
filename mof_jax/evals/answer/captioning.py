"""Captions against those that people wrote: COCO's files, CIDEr-D, in a chat or few-shot.

    {"images": [{"id", "file_name"}, ...], "annotations": [{"image_id", "caption"}, ...]}

NoCaps, TextCaps and Karpathy's splits are published, or easily written, in this layout.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar
import zlib

import numpy as np

from mof_jax.data.keyed import Draws
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.decode.respond import Generator, Prompt
from mof_jax.errors import BadExample
from mof_jax.evals.answer.answers_file import write_answers
from mof_jax.evals.answer.batch_generate import ask, draw_shots, empty, named_prompt
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.json_files import check_images, field, read_object, rows, spread, unique
from mof_jax.evals.metrics import cider
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Whole

DESCRIBE = "Describe the picture in one short sentence."

_CAPTION = 32  # what a key is for


@dataclasses.dataclass(frozen=True)
class CaptionFiles:
    """One split: the JSON file and the folder of its pictures."""

    captions: str
    images: str


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A picture (a path inside the split's folder) and its captions."""

    id: str
    image: str
    captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Captioning(Evaluator):
    """CIDEr-D times 100, as papers print it; greedy captions.

    Attributes:
      test: the pictures that are captioned. Document frequencies are those of all its captions, whatever the limit.
      shots: captioned pictures before each one, in plain text as in MM1 (arXiv 2403.09611); they are drawn from `train` for
        each picture anew. 0 asks in the checkpoint's chat template.
      train: where shots come from.
      plain: ask in plain text without shots, too: for a model that was only pretrained.
      instruction: the question in the chat.
      max_tokens: of a caption. limit: images to caption, spread evenly over the file; 0 for all. seed: of the shots.
    """

    kind: ClassVar[str] = "captioning"
    requires: ClassVar[tuple[str, ...]] = ("generate",)

    test: CaptionFiles
    name: str = "captioning"
    shots: Whole = 0
    train: CaptionFiles | None = None
    plain: bool = False
    instruction: str = DESCRIBE
    max_tokens: Count = 32
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
            prompt = f"caption-mm1/1 with {self.shots} shots of seed {self.seed}"
        else:
            prompt = named_prompt("caption-short/1", self.instruction, DESCRIBE)
        return f"prompt {prompt}, greedy {self.max_tokens}, scorer {cider.VERSION}"

    def run(self, model: Model) -> dict[str, float]:
        """`cider`, and `images`, how many pictures it is the mean of; `empty` counts captions of nothing.

        Raises:
          UserError: a file that is missing or of another layout. BadExample: a record that is wrong.
        """
        generator = model.generator
        everything = read_captions(self.test)
        pictures = spread(everything, self.limit)
        check_images(self.test.images, {p.id: p.image for p in pictures}, self.test.captions)
        pool = read_captions(self.train) if self.shots else []
        plain = bool(self.shots or self.plain)
        prompt = (
            (lambda p: self._plain(generator, p, pool)) if plain else (lambda p: self._chat(generator, p))
        )
        answers = ask(generator, pictures, prompt, self.test.captions, max_tokens=self.max_tokens,
                      stop=("\n",) if plain else (), pictures=1 + self.shots)
        references = [[cider.tokenize(caption) for caption in p.captions] for p in everything]
        frequency = cider.document_frequency(references)
        asked = [[cider.tokenize(caption) for caption in p.captions] for p in pictures]
        scores = cider.cider_d([cider.tokenize(answer) for answer in answers], asked, frequency, len(everything))
        write_answers(model.output_dir, self.name, (
            {"id": p.id, "question": p.image, "answer": a, "reference": list(p.captions), "score": float(score)}
            for p, a, score in zip(pictures, answers, scores)))
        model.keep("cider", [p.id for p in pictures], 100 * scores)
        return {"images": len(pictures), "cider": 100 * float(np.mean(scores)), "empty": empty(answers)}

    def _chat(self, generator: Generator, p: Captioned) -> Prompt:
        picture = read_image(self.test.images, p.image, self.test.captions, p.id)
        return generator.chat(
            ({"role": "user", "content": f"<image>\n{self.instruction}".rstrip()},), [picture], p.id
        )

    def _plain(self, generator: Generator, p: Captioned, pool: list[Captioned]) -> Prompt:
        """Blocks of picture and caption, the last one without its caption."""
        shots, pictures = [], []
        if self.shots:
            shots = draw_shots(self.seed, p.id, pool, self.shots, lambda s: s.image == p.image, self.train.captions)
            pictures = [read_image(self.train.images, s.image, self.train.captions, s.id) for s in shots]
        words = "".join(f"<image> A photo of {_inside(self._pick(p, s))}\n" for s in shots)
        picture = read_image(self.test.images, p.image, self.test.captions, p.id)
        return generator.text(f"{words}<image> A photo of", [*pictures, picture], p.id)

    def _pick(self, p: Captioned, shot: Captioned) -> str:
        """One of a shot's captions, drawn for this picture."""
        key = (zlib.crc32(name.encode()) for name in (p.id, shot.id))
        return Draws(_CAPTION, self.seed, *key).choice(shot.captions)


def _inside(caption: str) -> str:
    """A caption as it goes on inside a sentence: one line, its first letter small."""
    caption = " ".join(caption.split())
    return caption[:1].lower() + caption[1:]


def read_captions(files: CaptionFiles) -> list[Captioned]:
    """A split's pictures, in the order of their file.

    Raises:
      UserError: a file that is missing or of another layout. BadExample: a picture twice or without a caption, or a caption
        without a picture.
    """
    path = files.captions
    found = read_object(path)
    images = unique(((field(row, "id", (int, str), path, f"images {n}"), field(row, "file_name", str, path, f"images {n}"))
                     for n, row in enumerate(rows(found, "images", path))), "image id", path)
    captions: dict[str, list[str]] = {key: [] for key in images}
    for number, row in enumerate(rows(found, "annotations", path)):
        where = f"annotations {number}"
        key = str(field(row, "image_id", (int, str), path, where))
        if key not in captions:
            raise BadExample(path, where, f"image {key} is not listed under 'images'")
        captions[key].append(field(row, "caption", str, path, where))
    for key, texts in captions.items():
        if not texts:
            raise BadExample(path, key, "this image has no caption under 'annotations'; leave it out of 'images'")
    return [Captioned(key, image, tuple(captions[key])) for key, image in images.items()]
