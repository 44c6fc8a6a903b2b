"""Back to before a loss that jumped and stayed up, and on with other data (PaLM, arXiv:2204.02311, §5.1).

A rollback is a resume that skips: the state of a checkpoint from before the jump, and the batches seen since then, and some more,
passed over. Steps keep their numbers and their learning rates; their data moves on. It follows from the losses alone, which are
the same on all hosts, and from checkpoints of the run's own rhythm, so that it does not matter when a run was stopped; what is
skipped stands in every later checkpoint. It is done in this order, and a kill in between changes nothing:

  a line `{"step": …, "rollback": {…}}` is added to metrics.jsonl     from here on it has happened
  the checkpoints after the step that is gone back to are deleted
  the run goes on from there as if it had been started again          which cuts the lines of the steps that are done again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from mof_jax.errors import Diverged, UserError
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from mof_jax.train.reliability.spikes import Spike, SpikeConfig

KEY = "rollback"  # of a line of metrics.jsonl


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One of a run's.

    Attributes:
      number: counted from 1.
      step: that was gone back to; the steps after it were done again.
      first, until: the batches [first, until) of the data's order, counted from 0, were passed over.
      why: in words.
    """

    number: int
    step: int
    first: int
    until: int
    why: str


_FIELDS = {field.name for field in dataclasses.fields(Rollback)}


def behind(history: Sequence[Rollback], step: int) -> int:
    """Batches consumed by `step` steps, those skipped on the way included, before any are skipped there.

    Args:
      history: its rollbacks, in the order in which they happened.
    """
    return step + next((back.until - back.step for back in reversed(history) if back.step < step), 0)


def to_skip(history: Sequence[Rollback], step: int) -> int:
    """How many batches a run skips that goes on after `step` steps."""
    return history[-1].until - behind(history, step) if history and history[-1].step == step else 0


def saved(meta: Mapping[str, Any] | None) -> list[Rollback]:
    """The rollbacks in what a checkpoint says beside its state.

    Raises:
      UserError: they are none.
    """
    try:
        return [Rollback(**back) for back in (meta or {}).get("rollbacks", ())]
    except TypeError:
        raise UserError("the rollbacks that the checkpoint names are damaged; take another step") from None


def check(spikes: SpikeConfig, checkpoint: CheckpointConfig, log_every: int) -> None:
    """Refuses a policy whose checkpoints are gone when it needs them.

    Raises:
      UserError: naming the keys.
    """
    if not spikes.rollback_after:
        return
    if not checkpoint.every:
        raise UserError("config.spikes.rollback_after: there is nothing to go back to with config.checkpoint.every=0; set it")
    # Losses are looked at when they are logged or saved.
    reach = spikes.back + spikes.rollback_after + min(log_every, checkpoint.every)
    keep = 1 - (-reach // checkpoint.every)
    if checkpoint.keep < keep:
        raise UserError(f"config.spikes.rollback_after: a rollback may go back {reach} steps; config.checkpoint.keep must be at "
                        f"least {keep} with config.checkpoint.every={checkpoint.every}")


def resume(checkpointer: Checkpointer, lines: Sequence[Mapping[str, Any]]) -> tuple[int | None, list[Rollback]]:
    """The step to go on from, None for none, and the rollbacks until there; one that a kill cut off is brought to its end.

    Args:
      lines: of metrics.jsonl.
    """
    step = checkpointer.newest()
    if step is None:
        return None, []
    history = saved(checkpointer.meta(step))
    known = history[-1].number if history else 0
    logged = [Rollback(**line[KEY]) for line in lines if isinstance(line.get(KEY), Mapping) and line[KEY].keys() == _FIELDS]
    cut_off = [back for back in logged if back.number > known and back.step <= step]
    if not cut_off:
        return step, history
    target = cut_off[-1].step
    checkpointer.drop_after(target)
    found = checkpointer.newest()
    if found != target:  # damaged since then
        return found, [] if found is None else saved(checkpointer.meta(found))
    return target, still(target, [*history, *cut_off])


def still(step: int, history: Sequence[Rollback]) -> list[Rollback]:
    """Of some rollbacks, those that hold for a run that goes back to `step`."""
    return [back for back in history if back.step <= step]


def choose(
    spike: Spike, history: Sequence[Rollback], config: SpikeConfig, checkpointer: Checkpointer, due: Callable[[int], bool]
) -> Rollback:
    """Where to go back to. Every process of a job has to call, and finds the same.

    Args:
      history: the rollbacks so far. due: whether a step has a checkpoint in every run of this config, wherever it was stopped.

    Raises:
      Diverged: there were `max_rollbacks` before, or no checkpoint is old enough.
    """
    number = 1 + (history[-1].number if history else 0)
    seen = behind(history, spike.last)
    if number > config.max_rollbacks:
        raise Diverged(f"step {spike.last}: {spike.why}, and the run has rolled back config.spikes.max_rollbacks "
                       f"({config.max_rollbacks}) times; lower the learning rate, or look at its data from batch "
                       f"{behind(history, spike.first) - 1} (counted from 0) on")
    checkpointer.settle()
    step = checkpointer.newest(lambda step: step <= spike.first - config.back and due(step))
    if step is None:
        raise Diverged(f"step {spike.last}: {spike.why}, and no checkpoint lies {config.back} steps (config.spikes.back) before; "
                       "lower config.checkpoint.every, or the learning rate")
    return Rollback(number, step, behind(history, step), seen + config.past, spike.why)
