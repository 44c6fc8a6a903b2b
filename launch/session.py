"""Runs a backend's steps for one job, or only shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import contextlib
import os
import shlex
import time

from launch.cloud import Cloud, Stage, State, Step, Worker
from launch.gke import GkeCloud
from launch.job import Job
from launch.shell import CloudError, Command, Fault, Result, run
from launch.tpu_vm import TpuVmCloud, secrets_text
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_count, reason, show

STATE_FOLDER = ".launch"
_REPEATED = (Fault.PASSING, Fault.SSH)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Around what takes an answer of `gcloud` or `kubectl` apart.

    Raises:
      CloudError: it is cut off, or of another form. That may pass, as a service that does not answer may.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CloudError(f"an answer about the slices is not understood ({type(error).__name__}: {reason(error)}); try again",
                         Fault.PASSING) from None


class Session:
    """A job, its backend, and whether commands run or are printed.

    Args:
      job: see `launch.job`.
      dry_run: print the lines of `gcloud` and `kubectl`; run nothing.
      folder: for ledgers, and for secrets while they are copied.
      say: takes a line for the user.
    """

    def __init__(self, job: Job, dry_run: bool = False, folder: str = STATE_FOLDER, say: Callable[[str], None] = print):
        self.job, self.dry_run, self.folder, self.say = job, dry_run, folder, say
        self._secrets_file = os.path.join(folder, f"{job.name}.secrets")
        self._secrets = {} if dry_run else self._values()
        self.cloud: Cloud = (TpuVmCloud(job, self._secrets_file) if job.backend == "tpu-vm" else GkeCloud(job, self._secrets))

    def _values(self) -> dict[str, str]:
        names = {key: ref.removeprefix("env:") for key, ref in self.job.secrets.items() if ref.startswith("env:")}
        missing = [name for name in names.values() if not os.environ.get(name)]
        if missing:
            raise UserError(f"secrets: {', '.join(missing)} is not set in this environment; export it first")
        return {key: os.environ[name] for key, name in names.items()}

    def check(self) -> None:
        """Raises `UserError` if a file of this machine that the job copies is not there."""
        source = self.job.source
        if self.job.backend == "tpu-vm" and source.wheel:
            for path in (source.wheel, *source.files):
                if not os.path.exists(path):
                    raise UserError(f"source: {path} is not here; build the wheel (`pip wheel --no-deps .`), or name other "
                                    "files")

    def run(self, command: Command) -> Result:
        """Runs or prints one command; a service that does not answer just now is asked again."""
        if self.dry_run:
            self.say(str(command))
            return Result(0, "", "")
        end = time.monotonic() + self.job.retry.patience_minutes * 60
        for attempt in range(3):
            try:
                return run(command)
            except CloudError as error:
                pause = min(60.0, self.job.retry.backoff_seconds * 2**attempt)
                if error.fault not in _REPEATED or attempt == 2 or time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
        raise AssertionError("three attempts end in an answer or an error")

    def steps(self, steps: Iterable[Step], before: Callable[[str], None] = lambda what: None) -> list[Result]:
        """Runs or prints steps in order; `before` hears of each."""
        results = []
        for step in steps:
            before(step.what)
            if self.dry_run:
                self.say(f"# {step.what}")
            with self._secret_file() if step.secrets else contextlib.nullcontext():
                results += [self.run(command) for command in step.commands]
        return results

    @contextlib.contextmanager
    def _secret_file(self) -> Iterator[None]:
        """The file of secrets, readable by this user only, and gone afterwards."""
        if self.dry_run:
            file = shlex.quote(self._secrets_file)
            self.say(f"mkdir -p {shlex.quote(self.folder)}")
            for key, reference in self.job.secrets.items():
                if reference.startswith("env:"):
                    value = f"${reference.removeprefix('env:')}"
                    self.say(f"(umask 077; printf 'export {key}=%q\\n' \"{value}\" >> {file})")
            yield
            self.say(f"rm {file}")
            return
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._secrets_file)
        try:
            with open(os.open(self._secrets_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as f:
                f.write(secrets_text(self._secrets))
            yield
        finally:
            os.unlink(self._secrets_file)

    def state(self) -> State:
        """Where the slices stand.

        Raises:
          CloudError: a command failed, or its answer is not understood.
        """
        try:
            answers = [self.run(command).out for command in self.cloud.describe()]
            with _understood():
                found = self.cloud.state(answers)
                if not isinstance(found.word, str) or not isinstance(found.detail, str):
                    raise Malformed(f"state {show(found.word)}, {show(found.detail)}")
            return found
        except CloudError as error:
            if error.fault is Fault.ABSENT:
                return State(Stage.ABSENT, "absent")
            raise

    def workers(self) -> list[Worker]:
        """How all workers stand.

        Raises:
          CloudError: one of them did not answer (the message names those that did), or in a way that is not understood.
        """
        answer = run(self.cloud.poll()).out
        with _understood():
            found = self.cloud.workers(answer)
            for worker in found:
                code = worker.code is None or is_count(worker.code, 1 << 31)
                if not code or not isinstance(worker.name, str) or not isinstance(worker.log, str):
                    raise Malformed(f"worker {show(worker.name)} with exit code {show(worker.code)}")
        if self.job.backend == "tpu-vm" and len(found) < self.job.hosts:
            heard = ", ".join(worker.name for worker in found) or "none"
            raise CloudError(f"{len(found)} of {self.job.hosts} workers answered ({heard})", Fault.SSH)
        return found

    def delete(self) -> None:
        """Gives the slices back; nothing there is fine."""
        try:
            self.steps(self.cloud.delete())
        except CloudError as error:
            if error.fault is not Fault.ABSENT:
                raise

    def state_commands(self) -> None:
        """Prints what `state` would ask."""
        for command in self.cloud.describe():
            self.run(command)

    def rehearse(self) -> None:
        """Prints the lines of a whole life, in order."""
        cloud, pause = self.cloud, f"every {self.job.retry.poll_seconds:g} s"
        self.steps(cloud.create())
        self.say(f"# until the slices are there, {pause}")
        self.state_commands()
        self.steps(cloud.setup())
        if self.job.preflight:
            self.steps(cloud.preflight())
        self.steps(cloud.start(self.job.hours * 3600))
        self.say(f"# until every worker has ended or the slices are taken away (then: delete and begin again), {pause}")
        self.state_commands()
        self.run(cloud.poll())
        self.say("# at the deadline and at Ctrl-C")
        self.steps(cloud.stop())
        self.steps(cloud.delete())
