"""Zero-shot classification with prompt ensembles: any class list, any templates."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from mof_jax.data import embedded
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.errors import nearest as nearest_word
from mof_jax.evals.encoder import Encoder, records
from mof_jax.evals.ranking import nearest
from mof_jax.evals.retrieval import ensemble
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """A picture's class is the one whose prompt is closest.

    Attributes:
      classes: a text file with one class name a line, `emoji5:<split>`, or empty for the labels found in the source.
      templates: phrases with `{}`, or one entry naming a text file of them.
      label: attribute of a record that names its class.
      at: the k of accuracy@k.
    """

    source: SourceConfig
    name: str = "zeroshot"
    classes: str = ""
    templates: tuple[str, ...] = ("{}",)
    label: str = "label"
    at: tuple[Count, ...] = (1, 5)

    def run(self, encoder: Encoder) -> dict[str, float]:
        """`acc@k` in percent, over images; `mean_class_acc@1` averages over classes first."""
        source = open_source(self.source)
        labels = [r.attributes.get(self.label) for r in records(source)]
        if None in labels:
            raise UserError(f"{self.source.label}: record {source[labels.index(None)].id} has no attribute {self.label!r}")
        names = class_names(self.classes, labels)
        number = {name: i for i, name in enumerate(names)}
        unknown = next((label for label in labels if label not in number), None)
        if unknown is not None:
            raise UserError(f"{self.name}.classes: label {unknown!r} is not in the class list{nearest_word(unknown, names)}")
        targets = np.array([number[label] for label in labels])
        weights = ensemble(encoder, names, phrases(self.templates))
        _, best = nearest(encoder.mesh, encoder.images(source), weights, min(max(self.at), len(names)))
        hit = best == targets[:, None]
        result = {"images": float(len(targets)), "classes": float(len(names))}
        result |= {f"acc@{k}": 100 * float(hit[:, :k].any(1).mean()) for k in self.at}
        per_class = [hit[targets == c, 0].mean() for c in np.unique(targets)]
        return result | {"mean_class_acc@1": 100 * float(np.mean(per_class))}


def class_names(classes: str, labels: list[str]) -> list[str]:
    """The class list of a config entry, in order."""
    if not classes:
        return sorted(set(labels))
    if classes.startswith("emoji5:"):
        return embedded.candidates(classes.removeprefix("emoji5:"))
    return _lines(classes)


def phrases(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Templates as given, or read from the one file they name."""
    if len(templates) == 1 and "{}" not in templates[0]:
        templates = tuple(_lines(templates[0]))
    wrong = next((t for t in templates if t.count("{}") != 1), None)
    if wrong is not None:
        raise UserError(f"template {wrong!r} needs exactly one {{}}")
    return templates


def _lines(path: str) -> list[str]:
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file (one entry a line)")
    with open(path, encoding="utf-8") as f:
        lines = [line.strip() for line in f if line.strip()]
    if not lines:
        raise UserError(f"{path}: the file is empty")
    return lines
