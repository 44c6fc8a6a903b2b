"""Cases of a target, run in forked workers; what each came to.

Case i of a target is a pure function of (target, seed, i): which of the target's valid files it starts from, and what is
changed in which of them. A worker runs a batch; a case that kills it is known by its number, and the next worker goes on
behind it. Memory is bounded by the limits of Linux.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import faulthandler
import json
import mmap
import os
import pathlib
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from typing import Any

from mof_jax.errors import UserError

from .mutate import mutate

KINDS = ("clean", "typed", "untyped", "hang", "memory", "crash", "outside")
FINDINGS = KINDS[2:]
_MIB = 2**20
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where writing a small file costs nothing


@dataclasses.dataclass(frozen=True)
class Seed:
    """A valid input: a folder of files.

    Attributes:
      files: content by path. layouts: of the files that are changed, how their bytes are laid out (see `mutate.LAYOUTS`).
    """

    files: Mapping[str, bytes]
    layouts: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
      seeds: makes the valid inputs, each of which `read` takes without a word.
      read: reads a folder; what it raises is judged, and `say` is given what it reports otherwise.
      share: of the cases of a run, relative to other targets: less for a slow one. long: too slow to begin with for the suite.
    """

    name: str
    seeds: Callable[[], Sequence[Seed]]
    read: Callable[[pathlib.Path], None]
    share: float = 1.0
    long: bool = False


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is no finding yet: seconds of a case, and MiB above what the unchanged inputs took."""

    seconds: float = 10.0
    mib: int = 512


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a case came to: one of `KINDS`, its message or where it was raised, and what it took."""

    case: int
    kind: str
    text: str
    seconds: float = 0.0
    mib: float = 0.0


def say(errors: Sequence[UserError]) -> None:
    """Raises the first of the bad records that a reader reported, once all of them are checked."""
    for error in errors:
        if problem := _form(error):
            raise AssertionError(problem)
    if errors:
        raise errors[0]


def _form(error: BaseException) -> str:
    """What is wrong with the message of a typed error, "" for nothing: it is one printable line that says something."""
    text = str(error)
    if not text.strip() or not text.isprintable():
        return f"a message that is no printable line: {text!r}"
    return f"a message of {len(text):,} letters: {text[:200]!r}" if len(text) > 20_000 else ""


def make_case(target: str, seeds: Sequence[Seed], seed: int, case: int) -> dict[str, bytes]:
    """The files of a case."""
    rng = random.Random(f"{target}/{seed}/{case}")
    chosen = rng.choice(seeds)
    names = sorted(chosen.layouts)
    files = dict(chosen.files)
    for name in rng.sample(names, 1 if rng.random() < 0.9 else min(2, len(names))):
        files[name] = mutate(files[name], chosen.layouts[name], rng)
    return files


def build_seeds(target: Target) -> list[Seed]:
    """The seeds of a target, made in a process of their own: what they start (JAX, writers) is not for workers to inherit."""
    found = _in_child(lambda: pickle.dumps(list(target.seeds())))
    return pickle.loads(found)


def _in_child(action: Callable[[], bytes]) -> bytes:
    """`action()` of a fork.

    Raises:
      RuntimeError: it failed; its own traceback is on stderr.
    """
    into, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(into)
            with os.fdopen(out, "wb") as pipe:
                pipe.write(action())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(out)
    with os.fdopen(into, "rb") as pipe:
        data = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a child that makes seeds has failed")
    return data


def run(
    target: Target, seeds: Sequence[Seed], cases: Sequence[int], seed: int = 0, limits: Limits = Limits()
) -> Iterator[Outcome]:
    """The outcomes of cases, in order."""
    left = list(cases)
    while left:
        batch = left[:1000]
        done = 0
        for outcome in _batch(target, seeds, batch, seed, limits):
            done += 1
            yield outcome
        left = left[done:]


def _batch(target: Target, seeds: Sequence[Seed], cases: Sequence[int], seed: int, limits: Limits) -> Iterator[Outcome]:
    """The outcomes of one worker: of all cases, or until one of them ended it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY) as folder, mmap.mmap(-1, 16) as shared:
        shared[:16] = struct.pack("<qd", -1, time.monotonic())
        into, out = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(into)
            try:
                _Worker(target, seeds, pathlib.Path(folder), limits, out, shared).work(cases, seed)
            except BaseException:
                pathlib.Path(folder, "broken.txt").write_text(traceback.format_exc())
                os._exit(3)
            os._exit(0)
        os.close(out)
        done, last = 0, None
        try:
            with os.fdopen(into) as pipe:
                for line in pipe:
                    last = Outcome(**json.loads(line))
                    yield last
                    done += 1
        finally:
            status = _reap(pid)
        if done < len(cases) and not (last and last.kind == "memory"):
            current, broken = struct.unpack("<qd", shared[:16])[0], pathlib.Path(folder, "broken.txt")
            if broken.exists() or current < 0:
                raise RuntimeError(f"{target.name}: {broken.read_text() if broken.exists() else status}")
            trace = pathlib.Path(folder, "trace.txt")
            stack = trace.read_text() if trace.exists() else ""
            if not stack or os.WIFSIGNALED(status):
                yield Outcome(
                    current,
                    "crash",
                    f"the process ended: {status & 0x7F or os.waitstatus_to_exitcode(status)}; {_last_place(stack)}",
                )
            else:
                yield Outcome(current, "hang", _last_place(stack), limits.seconds)


def _reap(pid: int) -> int:
    """Waits for a worker; one that the caller has no more use for is ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    deadline = time.monotonic() + 5
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)
        found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return status


def _last_place(stack: str) -> str:
    """Of a stack as `faulthandler` prints it, innermost first: the first line of the product, or of anything."""
    lines = [line.strip() for line in stack.splitlines() if line.strip().startswith("File ")]
    return next(
        (line for line in lines if "/mof_jax/" in line or "/launch/" in line), lines[0] if lines else "no stack"
    )


class _Worker:
    """Runs in a fork."""

    def __init__(
        self, target: Target, seeds: Sequence[Seed], folder: pathlib.Path, limits: Limits, pipe: int, shared: mmap.mmap
    ):
        self._target, self._seeds, self._limits, self._shared = target, seeds, limits, shared
        self._folder, self._pipe = folder, os.fdopen(pipe, "w", buffering=1)
        self._case, self._touched, self._watching = folder / "case", "", False
        self._trace = open(folder / "trace.txt", "w")

    def work(self, cases: Sequence[int], seed: int) -> None:
        """Sends an outcome of each case; returns early after one that has taken too much memory."""
        os.environ["MOF_CACHE"] = os.environ["HOME"] = str(self._case)
        os.chdir(self._folder)
        sys.dont_write_bytecode = True
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        faulthandler.enable(self._trace)
        sys.addaudithook(self._audit)
        for valid in self._seeds:
            kind, text = self._judge(dict(valid.files))
            if kind != "clean":
                raise AssertionError(f"{self._target.name}: an unchanged seed is {kind}: {text}")
        usual = _peak()
        # Memory that is asked for without end must not take the machine along; what is over `limits` is a finding well before.
        room = _data() + (self._limits.mib + 1536) * _MIB
        resource.setrlimit(resource.RLIMIT_DATA, (room, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        for case in cases:
            files = make_case(self._target.name, self._seeds, seed, case)
            self._shared[:16] = struct.pack("<qd", case, time.monotonic())
            begun = time.perf_counter()
            kind, text = self._judge(files)
            seconds, mib = time.perf_counter() - begun, max(0, _peak() - usual) / _MIB
            if mib > self._limits.mib and kind in ("clean", "typed"):
                kind, text = "memory", f"{mib:,.0f} MiB above the seeds'; {text}"
            print(
                json.dumps(dict(case=case, kind=kind, text=text, seconds=round(seconds, 4), mib=round(mib, 1))),
                file=self._pipe,
            )
            if kind == "memory":
                return

    def _judge(self, files: Mapping[str, bytes]) -> tuple[str, str]:
        """(kind, text) of a folder of files."""
        self._touched = ""
        shutil.rmtree(self._case, ignore_errors=True)
        for name, data in files.items():
            path = self._case / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        faulthandler.dump_traceback_later(self._limits.seconds, exit=True, file=self._trace)
        self._watching = True
        try:
            self._target.read(self._case)
            kind, text = "clean", ""
        except UserError as error:
            problem = _form(error)
            kind, text = ("untyped", f"{type(error).__name__}: {problem}") if problem else ("typed", str(error)[:400])
        except MemoryError as error:
            kind, text = "memory", f"MemoryError: {error} at {_raised(error)}"
        except BaseException as error:  # noqa: BLE001  PyO3's panics and SystemExit are no Exceptions
            kind, text = "untyped", f"{type(error).__name__}: {str(error)[:200]} at {_raised(error)}"
        finally:
            self._watching = False
            faulthandler.cancel_dump_traceback_later()
        return ("outside", self._touched) if self._touched else (kind, text)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Notes a file that is written outside of the case's folder, and code or programs that are run."""
        if not self._watching or self._touched:
            return
        if event in _RUNS:
            self._touched = f"{event} {arguments!r:.200}"
        elif event in _CHANGES:
            for path in arguments[: _CHANGES[event]]:
                self._check(event, path)
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            self._check(event, arguments[0])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        whole = os.path.realpath(os.fsdecode(path))
        if not whole.startswith((str(self._folder), "/dev/null", "/proc/self/")):
            self._touched = f"{event} {whole}"


_RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect")
_CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.link": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "shutil.rmtree": 1,
}


def _raised(error: BaseException) -> str:
    """The innermost place of the product in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/mof_jax/" in frame.filename or "/launch/" in frame.filename]
    frame = (inside or frames)[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno}"


def _peak() -> int:
    """The most bytes that this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data() -> int:
    """Bytes that this process has asked for, as RLIMIT_DATA counts them."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
