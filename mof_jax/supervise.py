"""A small parent beside each process of a job of several hosts: it says which host is gone, where JAX would hang or abort.

A peer that dies takes the others down inside C++, with a dump or not at all, and none of them says who it was. So
`mof … --coordinator` (or `--distributed`) starts the command as a child and watches. The parents hold one TCP connection each to
that of process 0, the hub: they meet there before anything starts, tell how their child ended, and hear who was first. They
import no JAX where the addresses are given, hold no device, and stop with their child:

  child ended by itself, with a code of its own   that code
  another ended with a code of its own            the same code, and a line that names it
  another was killed, or its machine is silent    `ExitCode.PEER_LOST`, and a line that names it
  a parent was killed                             its child ends at once (the pipe between them closes)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from typing import Any

from mof_jax.errors import ExitCode, UserError
from mof_jax.parsing import parse_json

_PIPE = "MOF_SUPERVISOR_FD"  # set in a child: the pipe that closes with its parent
_PORT_AFTER = 1000  # the hub's port lies so far from the coordinator's
_HOLD = 2.0  # seconds for which a child's words are held back: the last ones before a peer's death are its echo
_VERDICT = 1.5  # seconds in which the hub hears of further ends before it says which was the cause
_OWN = (ExitCode.USER_ERROR, ExitCode.HANG, ExitCode.NON_FINITE, ExitCode.OUT_OF_MEMORY)
_CLEAN = (ExitCode.DONE, ExitCode.PREEMPTED)


@dataclasses.dataclass(frozen=True)
class Job:
    """One process of several.

    Attributes:
      coordinator: `host:port` of JAX's service. processes, process: how many, and which one this is.
      start_timeout: seconds in which all have to come. lost_after: seconds of silence after which a machine counts as gone.
      port: of the hub, on the coordinator's host.
      hosts: their names in order of the processes, where they are known.
    """

    coordinator: str
    processes: int
    process: int
    start_timeout: float = 300.0
    lost_after: float = 60.0
    port: int | None = None
    hosts: Sequence[str] = ()

    @property
    def hub(self) -> tuple[str, int]:
        """Where the parents meet.

        Raises:
          UserError: the coordinator is not `host:port`.
        """
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator {self.coordinator}: expected HOST:PORT")
        near = int(port) + (_PORT_AFTER if int(port) + _PORT_AFTER < 1 << 16 else -_PORT_AFTER)
        return host, self.port or near

    def name(self, process: int, host: str = "") -> str:
        """`process 2 (host-c)`."""
        host = host or (self.hosts[process] if len(self.hosts) == self.processes else "")
        return f"process {process}" + (f" ({host})" if host else "")


def supervised() -> bool:
    """Whether this process is the child of such a parent."""
    return _PIPE in os.environ


def die_with_parent() -> None:
    """Lets a child end when its parent is gone: a thread waits for the end of the pipe between them."""

    def wait() -> None:
        os.read(pipe, 1)
        os.killpg(0, signal.SIGKILL)  # data workers too; nobody is left to tell

    pipe = int(os.environ[_PIPE])
    threading.Thread(target=wait, name="parent", daemon=True).start()


def run(command: Sequence[str], job: Job) -> int:
    """Runs `command` as one process of a job; returns its exit code, see the top.

    Raises:
      UserError: a process did not come in time, or the hub's port cannot be had.
    """
    if not 0 <= job.process < job.processes:
        raise UserError(f"--process-id {job.process}: there are {job.processes} processes, counted from 0")
    return asyncio.run(_Parent(command, job).run())


@dataclasses.dataclass(frozen=True)
class End:
    """How the child of a process ended.

    Attributes:
      code: its return code, minus the signal's number if one killed it; None if its machine does not answer.
    """

    process: int
    host: str
    code: int | None

    @property
    def how(self) -> str:
        """In words."""
        if self.code is None:
            return "is gone: its machine, or `mof` on it, does not answer"
        if self.code < 0:
            return f"is gone: killed by signal {-self.code} ({signal.Signals(-self.code).name})"
        names = {int(code): code.name.lower().replace("_", " ") for code in ExitCode}
        return f"ended with exit code {self.code} ({names.get(self.code, 'unknown')})"

    @property
    def lost(self) -> bool:
        """Whether it was taken away, rather than ended by itself."""
        return self.code is None or self.code < 0


def cause(ends: Sequence[End]) -> End:
    """Which of several ends, in the order they were heard of, brought about the others.

    A machine that vanished, then a process that was killed, then one with a reason of its own; an abort or an internal error may
    be the echo of one of those. SIGABRT is how JAX ends the survivors.
    """

    def rank(end: End) -> int:
        if end.code is None:
            return 0
        if end.code < 0 and end.code != -signal.SIGABRT:
            return 1
        return 2 if end.code in _OWN else 3

    return min(ends, key=rank)  # the first of equals


class _Link:
    """One JSON object a line, over a connection; a line without content is a sign of life."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer

    def send(self, **message: Any) -> None:
        """Sends a message, or nothing if the other end is gone: who listens there will notice."""
        with contextlib.suppress(OSError):
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self, within: float) -> dict[str, Any] | None:
        """The next message; None if the other end is gone, says nothing for `within` seconds, or is no parent at all."""
        while True:
            try:
                async with asyncio.timeout(within):  # `wait_for` of Python 3.11 may swallow the cancellation that ends a task
                    line = await self._reader.readline()
                message = parse_json(line) if line else None
            except (OSError, TimeoutError, ValueError):  # `Malformed` is a ValueError, and so is a line without end
                return None
            if message != {}:
                return message if isinstance(message, dict) else None

    async def live(self, every: float) -> None:
        """Signs of life, for ever."""
        while True:
            self.send()
            await asyncio.sleep(every)

    def close(self) -> None:
        self._writer.close()


class _Hub:
    """Where the parents meet, beside process 0."""

    def __init__(self, job: Job):
        self.job = job
        self.members: dict[int, tuple[_Link, str]] = {}
        self.ends: dict[int, End] = {}  # in the order they were heard of
        self.complete, self.over = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task] = []

    async def open(self) -> None:
        """Listens; tells those who came, in time, who did not.

        Raises:
          UserError: the port is taken.
        """
        port = self.job.hub[1]
        try:
            self._server = await asyncio.start_server(
                lambda reader, writer: self._tasks.append(asyncio.create_task(self._serve(_Link(reader, writer)))), None, port)
        except OSError as error:
            raise UserError(f"--watch-port {port}: {error.strerror or error}; is another run on this machine?") from None
        self._tasks.append(asyncio.create_task(self._gather()))

    async def close(self, patience: float) -> None:
        """Waits until the others have ended too, and leaves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.over.wait()
        self._tell(bye=True)
        for task in self._tasks:
            task.cancel()
        self._server.close()
        await asyncio.sleep(0.1)  # for the last words to leave

    def _tell(self, **message: Any) -> None:
        for link, _ in self.members.values():
            link.send(**message)

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(self.job.start_timeout):
                await self.complete.wait()
            self._tell(go=True)
        except TimeoutError:
            here = [self.job.name(p, host) for p, (_, host) in sorted(self.members.items())]
            absent = [self.job.name(p) for p in range(self.job.processes) if p not in self.members]
            self._tell(missing=f"{', '.join(absent)} did not come within {self.job.start_timeout:g} s; here: {', '.join(here)}")

    async def _serve(self, link: _Link) -> None:
        """One member, from its greeting to its end."""
        hello = await link.receive(self.job.lost_after) or {}
        process, host = hello.get("process"), str(hello.get("host"))
        if process in self.members:
            link.send(refused=f"{process}: that process is here already, on {self.members[process][1]}")
            return link.close()
        if not isinstance(process, int) or not 0 <= process < self.job.processes:
            return link.close()  # no parent of this job
        self.members[process] = link, host
        alive = asyncio.create_task(link.live(_pulse(self.job)))
        self._tasks.append(alive)
        if len(self.members) == self.job.processes:
            self.complete.set()
        message = await link.receive(self.job.lost_after)
        if self.complete.is_set():
            self._ended(End(process, host, message.get("ended") if message else None))
        else:
            del self.members[process]  # it left before the start, and may come again
        alive.cancel()

    def _ended(self, end: End) -> None:
        self.ends[end.process] = end
        if end.code not in _CLEAN and all(e.code in _CLEAN for e in self.ends.values() if e is not end):
            self._tasks.append(asyncio.create_task(self._judge()))
        if len(self.ends) == self.job.processes:
            self.over.set()

    async def _judge(self) -> None:
        await asyncio.sleep(_VERDICT)
        self._tell(cause=dataclasses.asdict(cause([end for end in self.ends.values() if end.code not in _CLEAN])))


class _Parent:
    """The parent of one process: its child, the child's words, and the connection to the hub."""

    def __init__(self, command: Sequence[str], job: Job):
        self.command, self.job = command, job
        self.me = End(job.process, socket.gethostname(), None)
        self.held: deque[tuple[float, bytes]] = deque()
        self.asked = False

    async def run(self) -> int:
        """From the meeting to the end of the child."""
        hub = _Hub(self.job) if self.job.process == 0 else None
        if hub is not None:
            await hub.open()
        code = None
        try:
            link = await self._meet()
            if isinstance(link, str):
                print(f"error: {link}", file=sys.stderr, flush=True)
                code = ExitCode.PEER_LOST
            else:
                code = await self._watch(link)
            return code
        finally:
            if hub is not None:
                started = hub.complete.is_set()
                await hub.close((self.job.lost_after if code in _CLEAN else 5.0) if started else 0.0)

    async def _meet(self) -> _Link | str:
        """The connection to the hub once all are there; or who is not.

        Raises:
          UserError: another process has this one's number.
        """
        host, port = self.job.hub
        deadline = time.monotonic() + self.job.start_timeout
        while True:
            try:
                async with asyncio.timeout(5):
                    link = _Link(*await asyncio.open_connection(host, port))
                break
            except (OSError, TimeoutError):
                if time.monotonic() > deadline:
                    return f"{self.job.name(0, host)} does not answer at port {port} within {self.job.start_timeout:g} s"
                await asyncio.sleep(0.2)
        link.send(process=self.me.process, host=self.me.host)
        self._pulse = asyncio.create_task(link.live(_pulse(self.job)))
        message = await link.receive(self.job.lost_after) or {}
        if "refused" in message:
            raise UserError(f"--process-id {message['refused']}")
        return link if "go" in message else message.get("missing", f"{self.job.name(0, host)} left before the start")

    async def _watch(self, link: _Link) -> int:
        """Runs the child; its exit code, or what became of another."""
        child, relay = await self._start()
        heard, ended = asyncio.create_task(self._hear(link)), asyncio.create_task(child.wait())
        await asyncio.wait({heard, ended}, return_when=asyncio.FIRST_COMPLETED)
        relay.cancel()  # what it said last is shown only if nobody else was the cause
        by_itself = ended.done()
        _kill(child)  # or the workers that it has left
        code = await ended
        link.send(ended=code)
        if not by_itself or code not in _CLEAN:
            try:
                async with asyncio.timeout(2 * _VERDICT):
                    found = await heard
            except TimeoutError:
                found = dataclasses.replace(self.me, code=code)
            if found.process != self.me.process and not (by_itself and code in _OWN):
                return self._blame(found)
            if not by_itself:
                return self._blame(self.me)
        await self._say()
        if code < 0:
            print(f"error: {self.job.name(self.me.process, self.me.host)} {dataclasses.replace(self.me, code=code).how}; run the "
                  "same command again to go on from the last checkpoint", file=sys.stderr, flush=True)
        return code if code >= 0 else 128 - code

    async def _start(self) -> tuple[asyncio.subprocess.Process, asyncio.Task]:
        """The child, and the task that passes its words on. Signals go to it, and a second Ctrl-C kills it."""
        read, self._write = os.pipe()
        child = await asyncio.create_subprocess_exec(
            *self.command, env=os.environ | {_PIPE: str(read)}, pass_fds=[read], stderr=asyncio.subprocess.PIPE,
            start_new_session=True)
        os.close(read)

        def forward(number: signal.Signals) -> None:
            if number == signal.SIGINT and self.asked:
                return _kill(child)
            self.asked = True
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, forward, number)
        self._reading = asyncio.create_task(self._listen(child))
        return child, asyncio.create_task(self._relay())

    async def _listen(self, child: asyncio.subprocess.Process) -> None:
        while said := await child.stderr.read(1 << 16):
            self.held.append((time.monotonic(), said))

    async def _relay(self) -> None:
        """Passes on what the child says on stderr, `_HOLD` seconds later."""
        while True:
            while self.held and self.held[0][0] < time.monotonic() - _HOLD:
                _write(self.held.popleft()[1])
            await asyncio.sleep(0.1)

    async def _say(self) -> None:
        """Everything that is still held back or on its way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._reading
        while self.held:
            _write(self.held.popleft()[1])

    async def _hear(self, link: _Link) -> End:
        """The end that brings this process down too. Comes never if all is well."""
        while True:
            message = await link.receive(self.job.lost_after)
            if message is None:
                return End(0, self.job.hub[0], None)
            if "cause" in message:
                return End(**message["cause"])
            if "bye" in message:
                await asyncio.Event().wait()

    def _blame(self, found: End) -> int:
        """One line about another process; what the child said last goes to a file, it is no news but may be of use."""
        echo = b"".join(said for _, said in self.held)
        kept = ""
        if echo:
            with tempfile.NamedTemporaryFile(prefix=f"mof-process-{self.me.process}-", suffix=".log", delete=False) as f:
                f.write(echo)
            kept = f" (last words of this process: {f.name})"
        advice = "run the same command again to go on from the last checkpoint" if found.lost else "its own log says why"
        print(f"error: {self.job.name(found.process, found.host)} {found.how}; {advice}{kept}", file=sys.stderr, flush=True)
        return ExitCode.PEER_LOST if found.lost else found.code


def _pulse(job: Job) -> float:
    """Seconds between signs of life."""
    return min(5.0, job.lost_after / 6)


def _write(said: bytes) -> None:
    sys.stderr.buffer.write(said)
    sys.stderr.buffer.flush()


def _kill(child: asyncio.subprocess.Process) -> None:
    """Ends a child and all of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
