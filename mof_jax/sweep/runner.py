"""Runs the points of a sweep, a few at once, each `mof train` in a process of its own.

    settled?  ─no─▶  trunk there?  ─yes─▶  lock  ─▶  mof train  ─▶  end in the ledger  ─▶  points.csv

Several runners, on one machine, may work on one folder; they and their trainers may be killed at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from types import FrameType

from mof_jax.errors import ExitCode, Preempted, UserError
from mof_jax.folder_lock import FolderLock
from mof_jax.sweep import table
from mof_jax.sweep.kinds import NO_TRUNK, Kind, kind_of
from mof_jax.sweep.ledger import Ledger
from mof_jax.sweep.points import Point, Sweep
from mof_jax.sweep.progress import Progress
from mof_jax.train.checkpoint import manifest

_POLL_S = 0.1
_LOG = "log.txt"  # in a point's folder: what its trainer said
_REASON = 300  # letters of its last line that the ledger keeps

Command = Callable[[Point, str], Sequence[str]]


def trainer(spec: str) -> Command:
    """The command that trains a point of a config file in a work dir."""
    return lambda point, workdir: [
        sys.executable, "-m", "mof_jax.cli", "train", "--config", spec, "--workdir", workdir,
        *(f"--config.{key}={value!r}" for key, value in point.overrides.items())]


@dataclasses.dataclass
class _Job:
    """A trainer under way."""

    point: Point
    lock: FolderLock
    process: subprocess.Popen
    begun: float


class Runner:
    """One process that works on a sweep.

    Args:
      folder: the sweep's work dir. workers: trainers at once. loss: see `table.loss_of`.
    """

    def __init__(self, sweep: Sweep, folder: str, command: Command, workers: int = 1, loss: str | None = None):
        self.sweep, self.folder, self.command, self.workers, self.loss = sweep, folder, command, workers, loss
        self.ledger = Ledger(folder)
        self._jobs: list[_Job] = []
        self._asked = 0  # how often we were told to stop

    def run(self) -> None:
        """Until every point is settled, by whomever.

        Raises:
          UserError: points failed or diverged; the others are done. Preempted: a signal came; the trainers have saved.
        """
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        self.progress = Progress(self.sweep, self.ledger.read())
        try:
            while True:
                self._reap()
                moved = not self._asked and self._start()
                self.progress.show(self.ledger.read(), len(self._jobs))
                if not self._jobs and (self._asked or (not moved and self._all_settled())):
                    break
                time.sleep(_POLL_S)
        finally:
            self.progress.close()
            for job in self._jobs:  # an error of our own: nobody would hear of their ends
                job.process.terminate()
            for number, handler in before.items():
                signal.signal(number, handler)
        table.write(self.sweep, self.ledger.read(), self.folder, self.loss)
        if self._asked and not self._all_settled():
            raise Preempted(f"{self.progress.standing(self.ledger.read())}; what ran has saved its state, run again to go on")
        self._judge()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Passes a signal down: trainers save and leave; asked twice, they are killed."""
        self._asked += 1
        for job in self._jobs:
            if self._asked == 1:
                job.process.send_signal(signal.SIGTERM)
            elif job.process.poll() is None:
                _kill(job.process)

    def _all_settled(self) -> bool:
        records = self.ledger.read()
        return all(point.id in records and records[point.id].settled for point in self.sweep.points)

    def _start(self) -> bool:
        """Gives every free worker the first point that nobody has; whether anything happened."""
        moved = False
        for point in self.sweep.points:
            if len(self._jobs) >= self.workers or self._asked:
                break
            if any(job.point.id == point.id for job in self._jobs) or self.ledger.record(point.id).settled:
                continue
            # In this order: a trunk that settles between the two looks has sealed its checkpoint before the second.
            over = point.trunk is not None and self.ledger.record(point.trunk).settled
            if over or self._trunk_is_there(point):
                moved |= self._take(point)
        return moved

    def _take(self, point: Point) -> bool:
        """Locks a point and begins it, or finds out that there is nothing to begin; False if somebody else has it."""
        workdir = table.folder_of(self.folder, point.id)
        lock = FolderLock.take(workdir)
        if lock is None:
            return False
        if self.ledger.record(point.id).settled:  # by another runner, since we looked
            lock.release()
        elif table.read_summary(workdir) is not None:  # done, and killed before that was written down
            self._settle(point, lock, ExitCode.DONE, 0.0)
        elif self._trunk_is_there(point):
            self._train(point, lock, workdir)
        else:
            self._end(point, NO_TRUNK, 0.0, f"its trunk {point.trunk} ended before step {point.at}")
            lock.release()
        return True

    def _trunk_is_there(self, point: Point) -> bool:
        """Whether a point can begin: it has no trunk, or its trunk has sealed the checkpoint."""
        return point.trunk is None or os.path.exists(os.path.join(
            table.folder_of(self.folder, point.trunk), "checkpoints", str(point.at), manifest.NAME))

    def _train(self, point: Point, lock: FolderLock, workdir: str) -> None:
        self.ledger.started(point.id, sum(self.ledger.record(point.id).ends.values()) + 1)
        with open(os.path.join(workdir, _LOG), "ab") as log:
            # A session of its own: a Ctrl-C reaches the trainer through us, once. It inherits the lock, see `folder_lock`.
            process = subprocess.Popen(self.command(point, workdir), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       pass_fds=[lock.fd], start_new_session=True)
        self._jobs.append(_Job(point, lock, process, time.monotonic()))
        if self._asked:  # the signal came between the look and the start
            process.send_signal(signal.SIGTERM)

    def _reap(self) -> bool:
        """Writes down the ends of trainers; whether there were any."""
        over = [job for job in self._jobs if job.process.poll() is not None]
        self._jobs = [job for job in self._jobs if job not in over]
        for job in over:
            _kill(job.process)  # or the data workers that it has left, which hold its lock
            self._settle(job.point, job.lock, job.process.returncode, time.monotonic() - job.begun)
        return bool(over)

    def _settle(self, point: Point, lock: FolderLock, code: int, seconds: float) -> None:
        workdir = table.folder_of(self.folder, point.id)
        try:
            if code == ExitCode.DONE and table.read_summary(workdir) is None:
                code = ExitCode.INTERNAL_ERROR  # it said that it was done, and has nothing to show
            if code != ExitCode.DONE and self._asked:
                return  # we stopped it
            reason = "" if code == ExitCode.DONE else last_words(os.path.join(workdir, _LOG))
            self._end(point, kind_of(code), seconds, reason)
        finally:
            lock.release()

    def _end(self, point: Point, kind: Kind, seconds: float, reason: str) -> None:
        status = self.ledger.ended(point.id, kind, seconds, reason)
        records = self.ledger.read()
        why = f", {kind.name}: {reason}" if reason else ""
        self.progress.say(f"{point.id}  {status}{why}  ({self.progress.standing(records)})")
        if status != "again":
            table.write(self.sweep, records, self.folder, self.loss)

    def _judge(self) -> None:
        """Raises:
          UserError: not all points are done.
        """
        records = self.ledger.read()
        bad = [point for point in self.sweep.points if records[point.id].status != "done"]
        if bad:
            listed = ", ".join(f"{point.id} {records[point.id].status}" for point in bad[:5]) + (" …" if len(bad) > 5 else "")
            raise UserError(f"{self.folder}: {len(bad)} of {len(self.sweep.points)} runs are not done: {listed}; "
                            f"runs/ID/{_LOG} says why, --retry-failed tries them anew")


def _kill(process: subprocess.Popen) -> None:
    """Ends a trainer and all of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def last_words(path: str) -> str:
    """The last line of a log."""
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - 4096))
        lines = f.read().decode(errors="replace").split("\n")
    return next((line.strip()[:_REASON] for line in reversed(lines) if line.strip()), "")


def reopen_failed(sweep: Sweep, folder: str) -> int:
    """Lets points that failed or diverged be tried anew; how many."""
    ledger = Ledger(folder)
    failed = [point for point in sweep.points if ledger.record(point.id).status in ("failed", "diverged")]
    for point in failed:
        ledger.reopen(point.id)
    return len(failed)
