"""MMVP-VLM (arXiv 2401.06209): does each of two statements find its picture of two that CLIP takes for one?"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from jaxtyping import Float
import numpy as np

from mof_jax import console
from mof_jax.data.pairs import PATTERNS, Pair
from mof_jax.errors import BadExample
from mof_jax.evals.embed.embedder import Embedder
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.metrics.paired import NAMES, group_scores, similarity_scores
from mof_jax.evals.mmvp.mmvp_files import read_mmvp_vlm
from mof_jax.evals.mmvp.mmvp_vlm_table import PAIRS, compare
from mof_jax.evals.mmvp.test_time_matching import scores_on_test_set
from mof_jax.evals.model import Model
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class MmvpVlm(Evaluator):
    """Image score, the one of the paper's table, and text score, group score and group match, in percent.

    Attributes:
      path: see `mmvp_files.read_mmvp_vlm`. pairs: how many the file must hold, 135 of the published one.
      prompt: stands before each statement.
      matching: also what the model gains by knowing the test set's pairing, see `test_time_matching`.
    """

    kind: ClassVar[str] = "mmvp_vlm"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    path: str
    name: str = "mmvp_vlm"
    pairs: Count | None = None
    prompt: str = "a photo of "
    matching: bool = False

    @property
    def version(self) -> str:
        """How the numbers come about."""
        return f"prompt {self.prompt!r}, scorer mmvp_vlm/1"

    def run(self, model: Model) -> dict[str, float]:
        """See `measure`; of a set of the published size, the paper's ten models are printed beside this one.

        Raises:
          UserError: files that are missing or incomplete. BadExample: a row that is wrong, or its picture.
        """
        result = self.measure(model, read_mmvp_vlm(self.path, self.pairs))
        if result["pairs"] == PAIRS * len(PATTERNS):
            console.show(compare(result))
        return result

    def measure(self, model: Model, pairs: Sequence[Pair]) -> dict[str, float]:
        """`paired.similarity_scores` of any pairs that have statements; with `matching` also
        `test_time_matching.scores_on_test_set`."""
        images, texts = self.embed(model.embedder, pairs)
        of_pairs = np.einsum("pid,pjd->pij", images, texts)
        for key, passed in group_scores(of_pairs).items():
            model.keep(NAMES[key], [pair.id for pair in pairs], 100.0 * passed)
        result = similarity_scores(of_pairs, [pair.pattern for pair in pairs])
        if self.matching:
            flat = lambda x: x.reshape(-1, x.shape[-1])
            result |= scores_on_test_set(of_pairs, flat(images) @ flat(texts).T)
        return result

    def embed(
        self, embedder: Embedder, pairs: Sequence[Pair]
    ) -> tuple[Float[np.ndarray, "pairs 2 dim"], Float[np.ndarray, "pairs 2 dim"]]:
        """Unit-norm embeddings of pictures and statements: their products are cosines, which scale and bias do not reorder.

        Raises:
          BadExample: a pair without statements, or a picture that cannot be decoded.
        """
        for pair in pairs:
            if len(pair.statements) != 2:
                raise BadExample("pairs", pair.id, "has no two statements; MMVP-VLM compares them (MMVP has a question)")
        images = embedder.embed_images(lambda i: pairs[i // 2].record(i % 2), self.path, 2 * len(pairs))
        texts = embedder.texts([self.prompt + statement for pair in pairs for statement in pair.statements])
        unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).reshape(len(pairs), 2, -1)
        return unit(np.asarray(images, np.float64)), unit(np.asarray(texts, np.float64))
