"""MMVP-VLM's table of ten CLIP models (arXiv 2401.06209), and a model of one's own beside it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from rich.table import Table

from mof_jax import console
from mof_jax.data.pairs import PATTERNS
from mof_jax.evals.metrics.paired import by_pattern

PAIRS = 15  # of each pattern


@dataclasses.dataclass(frozen=True)
class Reference:
    """A row of the table.

    Attributes:
      pixels: side of its pictures. parameters: in millions. imagenet: zero-shot accuracy on ImageNet-1k in percent.
      right: pairs of 15 for each pattern, in the order of `PATTERNS`.
    """

    model: str
    pixels: int
    parameters: float
    imagenet: float
    right: tuple[int, ...]

    @property
    def scores(self) -> dict[str, float]:
        """Image score by pattern, in percent."""
        return {pattern: 100 * count / PAIRS for pattern, count in zip(PATTERNS, self.right, strict=True)}

    @property
    def average(self) -> float:
        """Mean over the patterns, in percent; as all are of one size, also the share of all pairs."""
        return 100 * sum(self.right) / (PAIRS * len(PATTERNS))


REFERENCES = (
    Reference("OpenAI ViT-L-14", 224, 427.6, 75.5, (2, 2, 3, 3, 2, 8, 3, 1, 2)),
    Reference("OpenAI ViT-L-14", 336, 427.9, 76.6, (0, 3, 6, 3, 1, 3, 5, 1, 5)),
    Reference("SigLIP ViT-SO-14", 224, 877.4, 82.0, (4, 3, 8, 6, 3, 10, 6, 3, 8)),
    Reference("SigLIP ViT-SO-14", 384, 878.0, 83.1, (3, 4, 9, 5, 2, 10, 5, 4, 8)),
    Reference("DFN ViT-H-14", 224, 986.1, 83.4, (3, 4, 11, 4, 4, 10, 7, 2, 8)),
    Reference("DFN ViT-H-14", 378, 986.7, 84.4, (2, 3, 8, 5, 4, 10, 6, 3, 6)),
    Reference("MetaCLIP ViT-L-14", 224, 427.6, 79.2, (2, 1, 10, 1, 5, 7, 3, 1, 2)),
    Reference("MetaCLIP ViT-H-14", 224, 986.1, 80.6, (1, 2, 9, 2, 1, 8, 4, 2, 5)),
    Reference("EVA01 ViT-g-14", 224, 1136.4, 78.5, (1, 4, 6, 1, 2, 10, 2, 2, 3)),
    Reference("EVA02 ViT-bigE-14+", 224, 5044.9, 82.0, (2, 3, 10, 4, 4, 10, 4, 3, 5)),
)


def compare(result: Mapping[str, float], name: str = "this model") -> Table:
    """The ten models and one's own, by its `image_score`: the only score that is comparable.

    Args:
      result: of `mmvp_vlm`.
    """
    number = lambda value: f"{value:.1f}" if value < 100 else "100"
    row = lambda title, scores, mean: (title, *(number(scores[key]) if key in scores else "" for key in PATTERNS), number(mean))
    rows = [row(f"{r.model} {r.pixels}", r.scores, r.average) for r in REFERENCES]
    rows.append(row(name, by_pattern(result, "image_score"), result["image_score"]))
    low, high = result["image_low"], result["image_high"]
    table = console.table(f"MMVP-VLM, image score in %; {name}: 95 % interval {low:.1f} to {high:.1f}",
                          ("model", *(key[:3] for key in PATTERNS), "mean"), rows)
    table.box, table.padding = None, (0, 0, 0, 1)  # eleven columns in a line of 80 letters
    return table
