"""Where a run goes on from: its own newest checkpoint, one of another run that it branches from, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
from typing import Any

from mof_jax.train.checkpoint.checkpointer import Checkpointer
from mof_jax.train.reliability import history, rollback
from mof_jax.train.reliability.history import Change
from mof_jax.train.reliability.rollback import Rollback
from mof_jax.train.start import trunk


@dataclasses.dataclass
class Resume:
    """A checkpoint to go on from, held against the config of today.

    Attributes:
      config: a resolved `run.RunConfig`. resolve: makes one of a config's values.
      allowed: keys that may differ from what the checkpoint was trained with.
      origin: where the checkpoint lies. step, meta: of it; None where the run begins.
      branches: it is another run's.
      rollbacks: of the run until there.
      changed: what differs, by dotted key, see `history.go_on`.
    """

    config: Any
    workdir: str
    resolve: Callable[[Mapping[str, Any]], Any]
    allowed: Sequence[str]
    origin: Checkpointer
    step: int | None
    meta: Mapping[str, Any] | None
    branches: bool
    rollbacks: Sequence[Rollback]
    changed: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def find(
        cls, config: Any, workdir: str, checkpointer: Checkpointer, log: Sequence[Mapping[str, Any]], allowed: Collection[str],
        resolve: Callable[[Mapping[str, Any]], Any],
    ) -> Resume:
        """Ends a rollback that was decided and not done, and looks where the run stands.

        Args:
          checkpointer: of the run itself. log: the lines of its `metrics.jsonl`.

        Raises:
          UserError: the checkpoint's run is another one than this config's.
        """
        step, rollbacks = rollback.resume(checkpointer, log)
        branches = step is None and config.branch_from is not None
        origin, step = trunk(config.branch_from, workdir, config.steps) if branches else (checkpointer, step)
        meta = None if step is None else origin.meta(step)
        found = cls(config, workdir, resolve, list(allowed), origin, step, meta, branches,
                    rollback.saved(meta) if branches else rollbacks)
        found.compare(None)
        return found

    def compare(self, content: Mapping[str, Any] | None) -> None:
        """Looks for what differs; `content` is what the config's sources hold, None before they are opened.

        Raises:
          UserError: a key that differs and may not.
        """
        if self.meta is not None:
            before = history.config_of(self.meta, self.resolve, self.config)
            self.changed = history.go_on(before, self.config, self.step, self.workdir, content, self.allowed, self.branches,
                                         self.meta.get("workdir"))

    @property
    def tokenizer(self) -> Mapping[str, Any] | None:
        """The checkpoint's tokenizer, saved; None where there is none, or the config wants another."""
        if self.meta is None or any(key.startswith("tokenizer.") for key in self.changed):
            return None
        return self.meta["tokenizer"]

    def fall_back(self, step: int, content: Mapping[str, Any]) -> None:
        """Restoring has shown a damage that the files did not, and taken the checkpoint of an older step; 0 for none.

        What had been allowed since then is allowed still.
        """
        self.allowed = [*self.allowed, *(key for change in history.saved(self.meta) for key in change.keys)]
        self.step, self.meta, self.changed = (step, self.origin.meta(step), {}) if step else (None, None, {})
        self.rollbacks = rollback.saved(self.meta)
        self.compare(content)

    def history(self, flops_per_step: float, counted: bool) -> tuple[list[Change], list[Rollback]]:
        """The run's changes and rollbacks, with what changes now; see `history.changed`."""
        if not self.meta:
            return [], list(self.rollbacks)
        return history.changed(self.changed, history.saved(self.meta), self.rollbacks, self.step,
                               self.meta.get("flops_per_step", flops_per_step), self.config.batch_size, counted)
