"""Evaluators behind one interface: a dataclass that says what to measure, and `run(encoder) -> {metric: value}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mof_jax import config as configs
from mof_jax.decode.respond import Responder
from mof_jax.errors import UserError, lookup
from mof_jax.evals.answer.captioning import Captioning
from mof_jax.evals.answer.choice import Choice
from mof_jax.evals.answer.pope import Pope
from mof_jax.evals.answer.questions import Questions
from mof_jax.evals.answer.vqa import Vqa
from mof_jax.evals.embed.encoder import Encoder
from mof_jax.evals.embed.fewshot import FewShot
from mof_jax.evals.embed.gallery import Gallery
from mof_jax.evals.embed.knn import Knn
from mof_jax.evals.embed.probe import Probe
from mof_jax.evals.embed.retrieval import Retrieval
from mof_jax.evals.embed.zeroshot import ZeroShot
from mof_jax.evals.held_out import ContrastiveLoss, TextLoss
from mof_jax.evals.mmvp.mmvp import Mmvp
from mof_jax.evals.mmvp.mmvp_vlm import MmvpVlm
from mof_jax.parsing import is_text, show


class Evaluator(Protocol):
    """Something to measure; `name` labels its results.

    One that asks a model for answers has `needs = "responder"` and a `version`, which is written beside its results: what
    prompt, decoding and scorer they come from.
    """

    name: str

    def run(self, face: Encoder | Responder) -> dict[str, float]: ...


KINDS: dict[str, type] = {"zeroshot": ZeroShot, "retrieval": Retrieval, "knn": Knn, "fewshot": FewShot, "probe": Probe,
                          "gallery": Gallery, "questions": Questions, "vqa": Vqa, "captioning": Captioning,
                          "choice": Choice, "pope": Pope, "mmvp": Mmvp, "mmvp_vlm": MmvpVlm,
                          "contrastive_loss": ContrastiveLoss, "text_loss": TextLoss}


_LONGEST = 200  # letters of an evaluator's name
_ASKS = {"encoder": "for embeddings", "responder": "questions"}


def needs(cls: type) -> str:
    """Which face of a model an evaluator asks."""
    return getattr(cls, "needs", "encoder")


def build(section: Mapping[str, Any], where: str, face: str = "encoder") -> Evaluator:
    """The evaluator of a config section; its `kind` chooses the class, the other keys are its fields.

    Raises:
      UserError: no such evaluator or field, or one that asks another `face` of a model than the task has.
    """
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: expected a section with a kind, got {show(section)}")
    section = dict(section)
    kind = section.pop("kind", None)
    if kind is None:
        raise UserError(f"{where}.kind: missing (one of {', '.join(KINDS)})")
    cls = lookup(KINDS, kind, f"evaluator kind at {where}.kind")
    if needs(cls) != face:
        known = ", ".join(name for name, other in KINDS.items() if needs(other) == face)
        raise UserError(f"{where}.kind: {kind!r} asks a model {_ASKS[needs(cls)]}; this task's models can be asked by {known}")
    return _named(configs.build(cls, section, where), where)


def _named(evaluator: Evaluator, where: str) -> Evaluator:
    """The evaluator, whose name becomes that of files in the work dir.

    Raises:
      UserError: a name that would lead elsewhere, or is none.
    """
    name = evaluator.name
    odd = not is_text(name) or not name.isprintable() or not name.strip() or len(name) > _LONGEST
    if odd or name.startswith(".") or any(c in name for c in "/\\"):
        raise UserError(f"{where}.name: {show(name)} cannot be the name of a file; give one of at most {_LONGEST} printable "
                        "letters, without / and \\ and no . in front")
    return evaluator
