"""Modules that have moved: an import by the old name works once more, and says the new one."""

from __future__ import annotations

from collections.abc import Sequence
import importlib
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
import sys
from types import ModuleType
import warnings

_ROOMS = {
    "mof_jax.data.text": "canonical captions chat tokenizers vocabularies vocabulary_bounds",
    "mof_jax.data.image": "augment contact images orientation preprocess",
    "mof_jax.data.packing": "documents sequence_pipeline sequences",
    "mof_jax.data.worlds": "documents_embedded embedded families pack pattern_art pattern_world scenes",
    "mof_jax.data.files": "lines npy tables tar",
    "mof_jax.evals.embed": "baselines classes encoder fewshot gallery knn labels probe prompts retrieval zeroshot",
    "mof_jax.evals.answer": "answers asking captioning choice choice_files denials letters pope questions vqa",
    "mof_jax.evals.mmvp": "correlation matching mmvp_files mmvp_vlm mmvp_vlm_table numbered",
    "mof_jax.evals.metrics": "cider paired ranking vqa_accuracy",
    "mof_jax.train.checkpoint": "fingerprints manifest place streamer",
    "mof_jax.train.reliability": "goodput history hosts preemption rollback spikes watchdog",
}
MOVED = {f"{room.rpartition('.')[0]}.{name}": f"{room}.{name}" for room, names in _ROOMS.items() for name in names.split()} | {
    "mof_jax.data.braces": "mof_jax.braces", "mof_jax.data.remote": "mof_jax.storage",
    "mof_jax.evals.lmms": "mof_jax.commands.lmms", "mof_jax.training": "mof_jax.trainer",
    "mof_jax.objectives.kinds": "mof_jax.objectives.scores.statistics",
    "mof_jax.objectives.streamed": "mof_jax.objectives.scores"}


class Moved(MetaPathFinder, Loader):
    """Finds a module under its old name; it is the same object under both."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {MOVED[spec.name]} now", FutureWarning, stacklevel=2)
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # it has run, and keeps its name


def install() -> None:
    """Behind all other finders, so that nothing that exists is looked for here."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
