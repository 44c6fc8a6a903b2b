"""Zero-shot classification with prompt ensembles: any class list, any templates."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.evals.embed.classes import Classes, labels_of
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.prompts import ensemble, phrases
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.metrics.ranking import positive_ranks
from mof_jax.evals.model import Model
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluator):
    """A picture's class is the one whose prompt is closest; of several that are equally close it is another one.

    Attributes:
      classes: a text file with one class name a line, `emoji5:<split>`, or empty for the labels found in the source.
      templates: phrases with `{}` (or `{c}`), or one entry naming a text file of them.
      label: attribute of a record that names its class.
      at: the k of accuracy@k.
      names: how labels found in the source are written in prompts: `as_is`, or with `spaces` for their underscores (folders are
        often called `golden_retriever`). Names of a class file are never changed.
    """

    kind: ClassVar[str] = "zeroshot"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "zeroshot"
    classes: str = ""
    templates: tuple[str, ...] = ("{}",)
    label: str = "label"
    at: tuple[Count, ...] = (1, 5)
    names: Literal["as_is", "spaces"] = "as_is"

    def run(self, model: Model) -> dict[str, float]:
        """`acc@k` in percent, over images; `mean_class_acc@1` averages over classes first.

        Returns:
          `classes`: different names, `repeated_classes`: further entries of the class list with one of these names (see
          `Classes.of`), and `empty_classes`: names without a picture, besides.

        Raises:
          UserError: a label that is missing or not in the class list, a class list or a template that cannot be read.
        """
        embedder = model.embedder
        source = open_source(self.source)
        items = records(source)
        labels = labels_of(items, self.label, self.source)
        found = Classes.of(self.classes, labels, f"{self.name}.classes", self.source, self.names == "spaces")
        weights = ensemble(embedder, found.names, phrases(self.templates))
        numbers = np.arange(len(found.names), dtype=np.int32)
        ranks = positive_ranks(embedder.mesh, embedder.images(source), weights, found.targets, numbers)
        seen = np.unique(found.targets)
        result = {"images": len(labels), "classes": len(numbers), "repeated_classes": found.repeated,
                  "empty_classes": len(numbers) - len(seen)}
        units = [unit_of(record) for record in items]
        for k in self.at:
            model.keep(f"acc@{k}", units, 100.0 * (ranks < k))
        result |= {f"acc@{k}": 100 * float((ranks < k).mean()) for k in self.at}
        return result | {"mean_class_acc@1": 100 * float(np.mean([(ranks[found.targets == c] < 1).mean() for c in seen]))}
