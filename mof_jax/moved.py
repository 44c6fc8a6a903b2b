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
    "mof_jax.evals.embed": "classes fewshot gallery knn probe prompts retrieval zeroshot",
    "mof_jax.evals.answer": "captioning choice_files denials pope vqa",
    "mof_jax.evals.mmvp": "correlation mmvp_files mmvp_vlm mmvp_vlm_table",
    "mof_jax.evals.metrics": "cider paired ranking vqa_accuracy",
    "mof_jax.train.checkpoint": "fingerprints manifest place streamer",
    "mof_jax.train.reliability": "goodput history hosts preemption rollback spikes watchdog",
}
# Renamed, too: once in a room of `evals`, before that in `evals` itself.
_RENAMED = {
    "embed": {"baselines": "feature_baselines", "encoder": "embedder", "labels": "labelled_sources"},
    "answer": {"answers": "answers_file", "asking": "batch_generate", "choice": "multiple_choice", "letters": "parse_choice",
               "questions": "short_answer"},
    "mmvp": {"matching": "test_time_matching", "numbered": "numbered_images"},
}
MOVED = {f"{room.rpartition('.')[0]}.{name}": f"{room}.{name}" for room, names in _ROOMS.items() for name in names.split()}
MOVED |= {f"mof_jax.evals.{old}": f"mof_jax.evals.{room}.{new}" for room, names in _RENAMED.items()
          for former, new in names.items() for old in (former, f"{room}.{former}")}
MOVED |= {
    "mof_jax.claim": "mof_jax.folder_lock", "mof_jax.data.braces": "mof_jax.braces", "mof_jax.data.remote": "mof_jax.storage",
    "mof_jax.evals.files": "mof_jax.evals.json_files", "mof_jax.evals.held_out": "mof_jax.evals.heldout_loss",
    "mof_jax.evals.lmms": "mof_jax.commands.lmms", "mof_jax.evals.score": "mof_jax.evals.dfn_score",
    "mof_jax.objectives.kinds": "mof_jax.objectives.scores.statistics",
    "mof_jax.objectives.streamed": "mof_jax.objectives.scores", "mof_jax.training": "mof_jax.trainer"}


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
