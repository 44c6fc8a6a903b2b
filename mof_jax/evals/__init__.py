"""Evaluators behind one interface: a dataclass that says what to measure, and `run(encoder) -> {metric: value}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mof_jax import config as configs
from mof_jax.errors import UserError, lookup
from mof_jax.evals.encoder import Encoder
from mof_jax.evals.fewshot import FewShot
from mof_jax.evals.gallery import Gallery
from mof_jax.evals.knn import Knn
from mof_jax.evals.probe import Probe
from mof_jax.evals.retrieval import Retrieval
from mof_jax.evals.zeroshot import ZeroShot


class Evaluator(Protocol):
    """Something to measure; `name` labels its results."""

    name: str

    def run(self, encoder: Encoder) -> dict[str, float]: ...


KINDS: dict[str, type] = {"zeroshot": ZeroShot, "retrieval": Retrieval, "knn": Knn, "fewshot": FewShot, "probe": Probe,
                          "gallery": Gallery}


def build(section: Mapping[str, Any], where: str) -> Evaluator:
    """The evaluator of a config section; its `kind` chooses the class, the other keys are its fields."""
    section = dict(section)
    kind = section.pop("kind", None)
    if kind is None:
        raise UserError(f"{where}.kind: missing (one of {', '.join(KINDS)})")
    cls = lookup(KINDS, kind, f"evaluator kind at {where}.kind")
    return configs.build(cls, section, where)
