"""The training loop. It knows states, steps and batches; models and evaluators are somebody else's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import time
from typing import Any

import jax

from mof_jax.errors import NonFinite, Preempted, UserError, WorkerLost
from mof_jax.jsonl import JsonLines
from mof_jax.train.checkpoint.checkpointer import Checkpointer
from mof_jax.train.display import Display
from mof_jax.train.metrics import Clock, TensorBoard
from mof_jax.train.reliability import hosts
from mof_jax.train.reliability.goodput import Ledger
from mof_jax.train.reliability.preemption import Preemption
from mof_jax.train.reliability.spikes import SpikeConfig, Spiked, Spikes
from mof_jax.train.reliability.watchdog import Watchdog
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

    def evaluates(self, step: int) -> bool:
        """Whether the evaluators run after this step."""
        if self.eval_every is None:
            return False
        return step == self.steps or bool(self.eval_every and step % self.eval_every == 0)


@dataclasses.dataclass
class Loop:
    """One run, from a state to the last step.

    Attributes:
      step_fn: jitted `(state, batch) -> (state, metrics)`.
      batches: `(device batch, names of replaced records)` from the state's step on.
      examples: ids of the examples of a step, for messages.
      seen: step -> examples until then. schedule: step -> learning rate, for the log.
      saves: whether a checkpoint follows a step; the last has one anyway. meta: JSON stored beside the state.
      evaluate: `(step, state) -> None`; may raise `Preempted` half-way.
      preemption, watchdog, ledger, spikes: whether to stop, whether it stands still, where time goes, what jumps.
      done: the last step done.
    """

    config: LoopConfig
    state: TrainState
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
    batches: Iterator[tuple[Any, list[tuple[str, str]]]]
    batch_size: int
    flops: float
    workdir: str
    checkpointer: Checkpointer
    saves: Callable[[int], bool]
    meta: Mapping[str, Any]
    examples: Callable[[int], list[str]]
    seen: Callable[[int], int]
    schedule: Callable[[int], float]
    evaluate: Callable[[int, TrainState], None]
    preemption: Preemption
    watchdog: Watchdog
    ledger: Ledger
    spikes: Spikes = dataclasses.field(default_factory=lambda: Spikes(SpikeConfig()))
    done: int = dataclasses.field(default=0, init=False)

    def run(self) -> TrainState:
        """Trains to the last step; returns the final state, saved.

        Raises:
          Preempted: a signal came; the state is saved.
          NonFinite: the loss is not finite. UserError: a checkpoint cannot be written. WorkerLost: a data worker was killed.
          Spiked: the loss has jumped and stays up; who called has the checkpoints, and the data, to go back.
        """
        config, start = self.config, int(self.state.step)
        self.display = Display(config.steps, start)
        self.lines = JsonLines(f"{self.workdir}/metrics.jsonl", keep_until=start)
        self.board = TensorBoard(f"{self.workdir}/tensorboard")
        self.clock = Clock(self.batch_size, self.flops)
        self.skipped, self.saved, self.done, self.losses, self.tracing = 0, start, start, [], False
        in_flight: deque[Any] = deque()
        with self.watchdog, contextlib.ExitStack() as cleanup:
            cleanup.callback(self.display.close)
            cleanup.callback(self.board.close)
            cleanup.callback(self.lines.flush)
            cleanup.callback(self._end_trace)
            for step in range(start + 1, config.steps + 1):
                profiling = self._profile(step)
                batch, waited = self._next_batch(in_flight)
                with jax.transfer_guard("disallow"):  # whatever the step needs is on the devices
                    self.state, metrics = self.step_fn(self.state, batch)
                self.metrics = metrics
                in_flight.append(metrics["loss"])
                self.losses.append(metrics["loss"])
                blocked = self._let_devices_catch_up(in_flight, everything=profiling)
                self.clock.tick(waited, blocked)
                self.ledger.waited(waited)
                self.watchdog.step()
                self.display.advance(step)
                self.done = step
                last, stop = step == config.steps, self.preemption.reached()
                if self._logged(step) or step == start + 1:
                    self._log(step, metrics)
                if last or stop or self.saves(step):
                    self._save(step, metrics)
                evaluated = not stop and config.evaluates(step) and self._evaluate(step)
                if (stop and not last) or (config.evaluates(step) and not evaluated):
                    self._leave(step, metrics)
            if self.saved == config.steps:
                self.checkpointer.wait()
        return self.state

    def _let_devices_catch_up(self, in_flight: deque[Any], everything: bool) -> float:
        """Waits until no more than `_IN_FLIGHT` steps (or none) are under way; for how long."""
        before = time.perf_counter()
        while len(in_flight) > (0 if everything else _IN_FLIGHT):
            in_flight.popleft().block_until_ready()
        return time.perf_counter() - before

    def _next_batch(self, in_flight: deque[Any]) -> tuple[Any, float]:
        """The next batch, and how long the devices stood idle for it."""
        before = time.perf_counter()
        try:
            batch, replaced = next(self.batches)
        except WorkerLost as error:
            self._save_alone()
            raise WorkerLost(f"{error}; step {self.saved} is saved") from None
        except UserError:
            self.checkpointer.wait()
            raise
        waited = time.perf_counter() - before
        for record, reason in replaced:
            self.display.say(f"skipped {record}: {reason}")
        self.skipped += len(replaced)
        idle = not in_flight or in_flight[-1].is_ready()
        return batch, waited if idle else 0.0

    def _save_alone(self) -> None:
        """Saves the state, which is whole, where no other process has to take part."""
        if self.done > self.saved and jax.process_count() == 1:
            self._save(self.done, self.metrics)
        self.checkpointer.wait()

    def _logged(self, step: int) -> bool:
        return step in (1, self.config.steps) or step % self.config.log_every == 0

    def _log(self, step: int, metrics: Mapping[str, Any]) -> None:
        values = {k: v.item() for k, v in jax.device_get(dict(metrics)).items()}
        self.ledger.started()
        self._look_for_spikes(step)
        self._check(step, values)
        del values["bad_step"]
        line = {"step": step, "examples": self.seen(step), "lr": self.schedule(step - 1), **values,
                **self.clock.read(), "skipped_examples": self.skipped, **self.ledger.line()}
        slow = hosts.slow(line)
        if self._logged(step):  # else shown after a restart, not written: metrics.jsonl equals an uninterrupted run's
            self.lines.write(line)
        self.board.write(step, line)
        self.display.log(line)
        if line["data_wait"] > self.config.data_wait_warning and step > 2 * self.config.log_every:
            self.display.say(f"step {step}: devices waited for data {line['data_wait']:.0%} of the time; raise "
                             "config.data.threads, or measure the pipeline with `mof bench data`")
        if slow:
            self.display.say(f"step {step}: {slow}")

    def _look_for_spikes(self, step: int) -> None:
        """Says which losses since the last look jumped. They are fetched here, together, not after each step."""
        losses, self.losses = [float(x) for x in jax.device_get(self.losses)], []
        for at, loss, usual in self.spikes.look(step - len(losses) + 1, losses):
            self.display.say(f"step {at}: the loss jumped to {loss:.4g} (median before it: {usual:.4g})")
        if self.spikes.lasting is not None:
            raise Spiked(self.spikes.lasting)

    def _save(self, step: int, metrics: Mapping[str, Any]) -> None:
        with self.ledger.spent("checkpoint"), self.watchdog.elsewhere("saving a checkpoint"):
            self._look_for_spikes(step)  # what is saved must not forget a loss
            self._check(step, jax.device_get(dict(metrics)))
            self.lines.flush()  # a checkpoint must not be ahead of its lines
            meta = {**self.meta, "examples": self.seen(step), "spikes": self.spikes.save()}
            self.checkpointer.save(step, self.state, meta)
        self.saved = step

    def _evaluate(self, step: int) -> bool:
        """Runs the evaluators; False if a signal stopped them half-way."""
        with self.ledger.spent("eval"), self.watchdog.elsewhere("an evaluation"):
            try:
                self.evaluate(step, self.state)
            except Preempted:
                return False
        self.clock.reset()
        return True

    def _leave(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Saves what is not saved yet, and stops."""
        if self.saved != step:
            self._save(step, metrics)
        self.checkpointer.wait()
        raise Preempted(f"stopped after step {step} of {self.config.steps}; the state is saved, run again to resume")

    def _check(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Stops at a non-finite loss, where the state has stood still since the step before it, or at too many of them."""
        bad_step, dropped = int(metrics["bad_step"]), int(metrics.get("skipped_updates", 0))
        if dropped > self.spikes.config.max_skips:
            raise NonFinite(f"step {step}: {dropped} updates were not finite and dropped, more than config.spikes.max_skips "
                            f"({self.spikes.config.max_skips}); {self._last_good()}")
        if bad_step < 0:
            return
        ids = self.examples(bad_step)
        shown = ", ".join(ids[:8]) + (f" … ({len(ids)} in all)" if len(ids) > 8 else "")
        raise NonFinite(f"step {bad_step + 1}: the loss, its gradient or the update is not finite; {self._last_good()}; "
                        f"examples of that step: {shown}")

    def _last_good(self) -> str:
        self.checkpointer.wait()
        good = next(iter(self.checkpointer.steps()), None)
        return "no checkpoint was saved before" if good is None else f"the last good checkpoint is step {good}"

    def _profile(self, step: int) -> bool:
        """Starts and stops the trace; True while it runs."""
        first, count = self.config.profile or (0, 0)
        if step == first:
            jax.profiler.start_trace(f"{self.workdir}/profile")
            self.tracing = True
        if step == first + count:
            self._end_trace()
        return self.tracing

    def _end_trace(self) -> None:
        """At its last step, or where the loop is left before."""
        if self.tracing:
            jax.profiler.stop_trace()
            self.tracing = False
            self.display.say(f"trace until step {self.done} in {self.workdir}/profile (open with xprof or TensorBoard)")
