"""The training loop. It knows states, steps and batches; models and evaluators are somebody else's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import time
from typing import Any

import jax

from mof_jax.errors import Preempted, UserError
from mof_jax.train.checkpoint import Checkpointer
from mof_jax.train.display import Display
from mof_jax.train.metrics import Clock, JsonLines, TensorBoard
from mof_jax.train.preemption import Preemption
from mof_jax.train.state import TrainState

# Steps the host may run ahead of the devices: enough to hide the dispatch, few enough for a signal to be heard soon.
_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """The rhythm of a run, in steps.

    Attributes:
      steps: of the whole run. log_every, eval_every: intervals; `eval_every=0` evaluates after the last step only, None never.
      data_wait_warning: share of idle time above which the loop says that the data pipeline is the limit.
      profile: first step and number of steps to trace, None for no trace.
    """

    steps: int
    log_every: int = 50
    eval_every: int | None = 0
    data_wait_warning: float = 0.1
    profile: tuple[int, int] | None = None


@dataclasses.dataclass
class Loop:
    """One run, from a state to the last step.

    Attributes:
      step_fn: jitted `(state, batch) -> (state, metrics)`.
      batches: `(device batch, names of replaced records)` from the state's step on.
      examples: ids of the examples of a step, for messages.
      schedule: step -> learning rate, for the log.
      save_every: steps between checkpoints, 0 for the last only. meta: JSON stored beside the state.
      evaluate: `(step, state) -> None`.
    """

    config: LoopConfig
    state: TrainState
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
    batches: Iterator[tuple[Any, list[tuple[str, str]]]]
    batch_size: int
    flops: float
    workdir: str
    checkpointer: Checkpointer
    save_every: int
    meta: Mapping[str, Any]
    examples: Callable[[int], list[str]]
    schedule: Callable[[int], float]
    evaluate: Callable[[int, TrainState], None]

    def run(self) -> TrainState:
        """Trains to the last step; returns the final state, saved.

        Raises:
          Preempted: a signal came; the state is saved.
          UserError: the loss is not finite, or a checkpoint cannot be written.
        """
        config, start = self.config, int(self.state.step)
        self.display = Display(config.steps, start)
        self.lines = JsonLines(f"{self.workdir}/metrics.jsonl", keep_until=start)
        self.board = TensorBoard(f"{self.workdir}/tensorboard")
        self.clock = Clock(self.batch_size, self.flops)
        self.skipped, saved = 0, start
        in_flight: deque[Any] = deque()
        with Preemption() as preemption, contextlib.ExitStack() as cleanup:
            cleanup.callback(self.display.close)
            cleanup.callback(self.board.close)
            for step in range(start + 1, config.steps + 1):
                profiling = self._profile(step)
                batch, waited = self._next_batch(in_flight)
                self.state, metrics = self.step_fn(self.state, batch)
                in_flight.append(metrics["loss"])
                if len(in_flight) > _IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                if profiling:
                    metrics["loss"].block_until_ready()
                self.clock.tick(waited)
                self.display.advance(step)
                last, stop = step == config.steps, preemption.reached(step)
                if last or step % config.log_every == 0 or step == start + 1:
                    self._log(step, metrics)
                if last or stop or (self.save_every and step % self.save_every == 0):
                    self._save(step, metrics)
                    saved = step
                if stop and not last:
                    self.checkpointer.wait()
                    raise Preempted(f"stopped after step {step} of {config.steps}; the state is saved, run again to resume")
                if config.eval_every is not None and (
                        last or (config.eval_every and step % config.eval_every == 0)):
                    self.evaluate(step, self.state)
                    self.clock.reset()
            if saved == config.steps:
                self.checkpointer.wait()
        return self.state

    def _next_batch(self, in_flight: deque[Any]) -> tuple[Any, float]:
        """The next batch, and how long the devices stood idle for it."""
        before = time.perf_counter()
        try:
            batch, replaced = next(self.batches)
        except UserError:
            self.checkpointer.wait()
            raise
        waited = time.perf_counter() - before
        for record, reason in replaced:
            self.display.say(f"skipped {record}: {reason}")
        self.skipped += len(replaced)
        idle = not in_flight or in_flight[-1].is_ready()
        return batch, waited if idle else 0.0

    def _log(self, step: int, metrics: Mapping[str, Any]) -> None:
        values = {k: v.item() for k, v in jax.device_get(dict(metrics)).items()}
        self._check(step, int(values.pop("bad_step")))
        line = {"step": step, "examples": step * self.batch_size, "lr": self.schedule(step - 1), **values,
                **self.clock.read(), "skipped_examples": self.skipped}
        self.lines.write(line)
        self.board.write(step, line)
        self.display.log(line)
        if line["data_wait"] > self.config.data_wait_warning and step > 2 * self.config.log_every:
            self.display.say(f"step {step}: devices waited for data {line['data_wait']:.0%} of the time; raise "
                             "config.data.threads, or measure the pipeline with `mof bench data`")

    def _save(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._check(step, int(jax.device_get(metrics["bad_step"])))
        self.checkpointer.save(step, self.state, {**self.meta, "examples": step * self.batch_size})

    def _check(self, step: int, bad_step: int) -> None:
        """Stops at a non-finite loss: the state has stood still since the step before it."""
        if bad_step < 0:
            return
        self.checkpointer.wait()
        ids = self.examples(bad_step)
        shown = ", ".join(ids[:8]) + (f" … ({len(ids)} in all)" if len(ids) > 8 else "")
        good = next(iter(self.checkpointer.steps()), None)
        kept = "no checkpoint was saved before" if good is None else f"the last good checkpoint is step {good}"
        raise UserError(f"step {bad_step + 1}: the loss, its gradient or the update is not finite; {kept}; "
                        f"examples of that step: {shown}")

    def _profile(self, step: int) -> bool:
        """Starts and stops the trace; True while it runs."""
        if self.config.profile is None:
            return False
        first, count = self.config.profile
        if step == first:
            jax.profiler.start_trace(f"{self.workdir}/profile")
        if step == first + count:
            jax.profiler.stop_trace()
            self.display.say(f"trace of steps {first} to {step - 1} in {self.workdir}/profile (open with xprof or TensorBoard)")
        return first <= step < first + count
