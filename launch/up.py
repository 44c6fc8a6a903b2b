"""The whole life of a job: create, wait, set up, check, run, see how it ended, go on or give everything back."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import time

from launch import exits
from launch.cloud import Stage, State, Worker
from launch.exits import Action, Ending
from launch.ledger import Ledger
from launch.progress import Progress, duration
from launch.session import Session
from launch.shell import CloudError, Fault, explain
from mof_jax.errors import UserError

EXIT_INTERRUPTED = 130
_LONGEST_BACKOFF = 600.0
_ENDINGS = {Fault.STOCK: Ending.NO_CAPACITY, Fault.SSH: Ending.LOST_HOST, Fault.PASSING: Ending.LOST_HOST}
_TOLERATED = (Fault.SSH, Fault.PASSING, Fault.CREDENTIALS)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one attempt ended, and the line that says why."""

    ending: Ending
    reason: str


class NotOurs(UserError):
    """Slices of this name that this launcher did not ask for; they are left alone."""


def up(session: Session, progress: Progress, ledger: Ledger, keep: bool = False) -> int:
    """Brings a job to its end; returns an exit code (see `launch.exits`).

    Args:
      session: the job and its backend.
      progress: hears of everything.
      ledger: of the job; what it has spent before counts.
      keep: leave the slices when the job has ended.

    Raises:
      UserError: before anything was created.
    """
    life = _Life(session, progress, ledger)
    with _terminations():
        try:
            code = life.run()
        except KeyboardInterrupt:
            progress.say(f"{session.job.name}: interrupted: asking the run to save, then giving the slices back (again: at "
                         "once)")
            with contextlib.suppress(KeyboardInterrupt, UserError):
                life.stop()
            code = EXIT_INTERRUPTED
        finally:
            gone = not life.asked or not life.foreign and _teardown(session, progress, ledger, keep)
    if gone:
        ledger.add("end")
    return code


@contextlib.contextmanager
def _terminations() -> Iterator[None]:
    """SIGTERM and a closed terminal are as good as Ctrl-C, which a shell's background jobs ignore unless told otherwise: the
    slices must not outlive this process."""
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _teardown(session: Session, progress: Progress, ledger: Ledger, keep: bool) -> bool:
    """Gives everything back, whatever signals come; what cannot be given back is named. Returns whether all is gone."""
    name, by_hand = session.job.name, session.cloud.delete()[0].commands[0]
    if keep:
        progress.say(f"{name}: kept, and paid for until: {by_hand}")
        return False
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        progress.update("giving the slices back")
        session.delete()
        ledger.add("gone")
        progress.say(f"{name}: the slices are given back, {duration(ledger.seconds())} held in all")
        return True
    except UserError as error:
        progress.say(f"{name}: MAY STILL BE HELD AND PAID FOR: {error}; then run: {by_hand}")
        return False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Life:
    """Attempts of one job."""

    def __init__(self, session: Session, progress: Progress, ledger: Ledger):
        self._session, self._progress, self._ledger = session, progress, ledger
        self._job, self._cloud = session.job, session.cloud
        self._training = 0.0  # when the run of this attempt was seen to go, monotonic; 0 before
        self.foreign = False

    @property
    def asked(self) -> bool:
        """Whether slices of this name may be this job's."""
        return any(event["event"] == "create" for event in self._ledger.events)

    def run(self) -> int:
        """All attempts."""
        failures = 0
        while True:
            self._training = 0.0
            try:
                verdict = self._attempt()
            except CloudError as error:
                verdict = Verdict(_ENDINGS.get(error.fault, Ending.USER), str(error))
            self._ledger.add("exit", ending=verdict.ending.value, reason=verdict.reason)
            rule, action = exits.RULES[verdict.ending], exits.action(verdict.ending, self._job.retry.policy)
            trained = time.monotonic() - self._training if self._training else 0.0
            failures = 1 if trained >= self._job.retry.progress_minutes * 60 else failures + 1
            line = f"{self._job.name}: {verdict.ending.value.replace('_', ' ')}: {verdict.reason}"
            if verdict.ending is Ending.DONE or action is Action.STOP or self._cloud.restarts_itself:
                self._progress.say(f"{line}: {rule.advice}")
                return rule.code
            if failures >= self._job.retry.attempts:
                self._progress.say(f"{line}: {failures} attempts in a row; {rule.advice}")
                return rule.code
            pause = min(_LONGEST_BACKOFF, self._job.retry.backoff_seconds * 2 ** (failures - 1))
            self._progress.say(f"{line}: {'a new slice' if action is Action.RECREATE else 'once more'} in {duration(pause)}, "
                               f"attempt {failures + 1} of {self._job.retry.attempts}")
            if action is Action.RECREATE:
                self._session.delete()
                self._ledger.add("gone")
            time.sleep(pause)

    def _attempt(self) -> Verdict:
        lost = self._obtain()
        if lost:
            return lost
        if not self._goes_on():
            say = self._progress.update
            self._session.steps(self._cloud.setup(), say)
            if self._job.preflight:
                failed = self._check()
                if failed:
                    return failed
            self._session.steps(self._cloud.start(self._job.hours * 3600 - self._ledger.seconds()), say)
            self._ledger.add("start")
        return self._watch()

    def _obtain(self) -> Verdict | None:
        """Waits for slices, asking for them if need be; a verdict if there are none to be had."""
        state = self._session.state()
        asked = self.asked
        if state.stage is not Stage.ABSENT and not asked:
            self.foreign = True
            raise NotOurs(f"{self._job.name} exists ({state.word}), and not from this launcher's {self._ledger.path}: choose "
                          "another name, or remove it with `python -m launch delete`")
        if state.stage in (Stage.LOST, Stage.FAILED):
            self._session.delete()
            state = State(Stage.ABSENT, "absent")
        if state.stage is Stage.ABSENT:
            self._ledger.add("gone")
            if over := self._over():
                return over
            try:
                self._session.steps(self._cloud.create(), self._progress.update)
            except CloudError as error:
                self.foreign = error.fault is Fault.EXISTS and not asked
                raise
            finally:
                self._ledger.add("create")
        return self._wait()

    def _wait(self) -> Verdict | None:
        end = time.monotonic() + self._job.guard.max_wait_hours * 3600
        watch = _Patience(self._session, self._progress)
        while True:
            with watch:
                state = self._session.state()
                if state.stage in (Stage.READY, Stage.DONE):
                    if not self._ledger.held:
                        self._ledger.add("held")
                    return None
                if state.stage is Stage.FAILED:
                    error = explain(f"queued resource {self._job.name} FAILED", state.detail or "no capacity")
                    return Verdict(_ENDINGS.get(error.fault, Ending.USER), str(error))
                if state.stage in (Stage.LOST, Stage.ABSENT):
                    return Verdict(Ending.PREEMPTED, f"the slices went away while they were made ({state.word})")
                if time.monotonic() > end:
                    return Verdict(Ending.NO_CAPACITY, f"{self._job.guard.max_wait_hours:g} h in the queue ({state.word})")
                self._progress.update(f"waiting for slices ({state.word}{': ' + state.detail[:100] if state.detail else ''})")
            time.sleep(self._job.retry.poll_seconds)

    def _goes_on(self) -> bool:
        """Whether the run is already under way, from a launcher before this one."""
        if self._cloud.restarts_itself:
            return True
        news = [event["event"] for event in self._ledger.events if event["event"] in ("create", "start", "exit", "gone")]
        if news[-1] != "start":
            return False
        try:
            return all(worker.started for worker in self._session.workers())  # one that has ended since is judged
        except CloudError:
            return False

    def _check(self) -> Verdict | None:
        try:
            self._session.steps(self._cloud.preflight(), self._progress.update)
        except CloudError as error:
            if error.fault is not Fault.REMOTE:
                raise
            lines = sorted({line for line in error.result.out.splitlines() if line.startswith("preflight: ")})
            for line in lines:
                self._progress.say(line)
            ending = exits.classify(error.result.code)
            return Verdict(ending if ending is Ending.LOST_HOST else Ending.USER, lines[0] if lines else f"preflight: {error}")
        return None

    def _over(self) -> Verdict | None:
        spent = self._ledger.seconds()
        if spent < self._job.hours * 3600:
            return None
        rate = self._job.dollars_per_hour
        return Verdict(Ending.DEADLINE, f"slices were held for {duration(spent)}"
                       + ("" if rate is None else f", about ${spent / 3600 * rate:,.2f}") + ", the most that [guard] allows")

    def _watch(self) -> Verdict:
        """Looks at slices and workers until the run has ended."""
        patience, first, seen = _Patience(self._session, self._progress), None, time.monotonic()
        while True:
            if over := self._over():
                self._progress.say(f"{self._job.name}: the hours are over; asking the run to save")
                with contextlib.suppress(CloudError):
                    self.stop()
                return over
            with patience:
                state = self._session.state()
                if state.stage in (Stage.LOST, Stage.FAILED, Stage.ABSENT):
                    return Verdict(Ending.PREEMPTED, f"the slices were taken away ({state.word})")
                if state.stage in (Stage.READY, Stage.DONE):
                    workers = self._session.workers()
                    self._training = self._training or time.monotonic()
                    ended = [worker for worker in workers if worker.code is not None]
                    first = first or (time.monotonic() if ended else None)
                    if state.word == "Completed":
                        return Verdict(Ending.DONE, "the run is complete")
                    if state.stage is Stage.DONE or ended and len(ended) == len(workers):
                        return judge(ended, state)
                    late = first and time.monotonic() - first > self._job.retry.patience_minutes * 60
                    if late and not self._cloud.restarts_itself:
                        self.stop()
                        return judge(ended, state)
                    self._progress.update(f"training, {len(workers) - len(ended)} of {self._job.hosts} hosts" if workers
                                          else state.word)
                else:
                    self._progress.update(f"restarting ({state.word})")
            if time.monotonic() - seen > 300:
                self._ledger.add("seen")
                seen = time.monotonic()
            time.sleep(self._job.retry.poll_seconds)

    def stop(self) -> None:
        """Asks the run to save and to end."""
        if self._ledger.held:
            self._session.steps(self._cloud.stop(), self._progress.update)


def judge(ended: list[Worker], state: State) -> Verdict:
    """Of hosts that have ended: the class of the cause, and its host's last words."""
    classes = [(exits.classify(worker.code, worker.log), worker) for worker in ended]
    if not classes:
        return Verdict(Ending.UNKNOWN, state.detail or state.word)
    ending = exits.cause([found for found, _ in classes])
    worker = next(worker for found, worker in classes if found is ending)
    if ending is Ending.DONE:
        return Verdict(ending, "the run is complete")
    lines = [line for line in worker.log.splitlines() if line.strip()]
    return Verdict(ending, f"{worker.name} ended with {worker.code}: {lines[-1].strip()[:300] if lines else 'no log'}")


class _Patience:
    """Lets passing failures pass (workers out of reach, expired credentials), for `patience_minutes` in a row.

    As a context around one look: an error inside it is swallowed and told once, or goes on if patience is over.
    """

    def __init__(self, session: Session, progress: Progress):
        self._limit, self._say, self._name = session.job.retry.patience_minutes * 60, progress.say, session.job.name
        self._since: float | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self._since = None
            return False
        if not isinstance(error, CloudError) or error.fault not in _TOLERATED:
            return False
        if self._since is None:
            self._since = time.monotonic()
            self._say(f"{self._name}: {error} (waiting {duration(self._limit)} for it to pass)")
        return time.monotonic() - self._since < self._limit
