"""What the parents of a job's processes say of each other: real processes, the child being a few lines of Python."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest
from run_samples import environment, finish

from mof_jax.errors import ExitCode
from mof_jax.supervise import End, cause

# One process of a job: `python -c PARENT coordinator processes process start_timeout lost_after CHILD`.
PARENT = """
import sys
from mof_jax import errors, supervise
coordinator, processes, process, start, lost, child = sys.argv[1:]
job = supervise.Job(coordinator, int(processes), int(process), float(start), float(lost))
def main():
    raise SystemExit(supervise.run([sys.executable, "-c", child, process], job))
sys.exit(errors.exit_code(main))
"""
# A child that does its turn for each process: by process number, what to do.
CHILD = """
import os, signal, sys, time
from mof_jax import supervise
supervise.die_with_parent()
print("pid", os.getpid(), flush=True)
print("hello from", sys.argv[1], file=sys.stderr, flush=True)
{turn}
"""
WAIT = "time.sleep(60)"


def port() -> int:
    """A free one, with room for the hub's."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(count: int, turn: str, only: list[int] | None = None, patience: float = 20, lost_after: float = 20) -> list:
    at = f"localhost:{port()}"
    return [subprocess.Popen([sys.executable, "-c", PARENT, at, str(count), str(i), str(patience), str(lost_after),
                              CHILD.format(turn=turn)], env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
            for i in (range(count) if only is None else only)]


def child(process) -> int:
    """The process id of its child, once that runs."""
    return int(process.stdout.readline().split()[1])


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip()[:1] not in ("", "Z")


def test_all_well():
    ends = [finish(process, 60) for process in start(3, "pass")]
    assert [code for code, _, _ in ends] == [0, 0, 0]
    assert [err.strip() for _, _, err in ends] == [f"hello from {i}" for i in range(3)]


def test_a_killed_child_is_named_by_the_others():
    processes = start(3, WAIT)
    children = [child(process) for process in processes]
    before = time.monotonic()
    subprocess.run(["kill", "-9", str(children[2])], check=True)
    ends = [finish(process, 60) for process in processes]
    assert time.monotonic() - before < 10
    assert [code for code, _, _ in ends] == [79, 79, 128 + 9]
    for _, _, err in ends:
        last = err.splitlines()[-1]
        assert "process 2 (" in last and "is gone: killed by signal 9 (SIGKILL)" in last and "run the same command again" in last
    assert not any(map(alive, children))


@pytest.mark.parametrize("victim", [0, 1], ids=["the hub", "a member"])
def test_a_machine_that_dies_takes_its_child_along_and_is_named(victim):
    processes = start(2, WAIT)
    children = [child(process) for process in processes]
    processes[victim].send_signal(signal.SIGKILL)
    code, _, err = finish(processes[1 - victim], 30)
    assert code == ExitCode.PEER_LOST and f"process {victim} (" in err.splitlines()[-1] and "is gone" in err.splitlines()[-1]
    processes[victim].wait()
    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, children)), "a child outlived its parent"


def test_a_machine_that_falls_silent_counts_as_gone():
    processes = start(2, WAIT, lost_after=3)
    children = [child(process) for process in processes]
    processes[1].send_signal(signal.SIGSTOP)  # its connection stays open, as when the cable is cut
    try:
        code, _, err = finish(processes[0], 30)
        assert code == ExitCode.PEER_LOST and "process 1 (" in err and "does not answer" in err
    finally:
        processes[1].send_signal(signal.SIGCONT)
    assert finish(processes[1], 30)[0] == ExitCode.PEER_LOST
    assert not any(map(alive, children))


def test_the_echo_of_a_death_is_not_shown():
    """The survivor of a real job raises or aborts as its peer dies; that is no news, and stands in a file."""
    turn = ("if sys.argv[1] == '1': time.sleep(2); os.kill(os.getpid(), signal.SIGKILL)\n"
            "time.sleep(2.3)\nprint('Fatal: Check failed', file=sys.stderr, flush=True)\nos.abort()")
    ends = [finish(process, 60) for process in start(2, turn)]
    assert [code for code, _, _ in ends] == [79, 128 + 9]
    err = ends[0][2]
    assert "Fatal" not in err and "hello" in err and "process 1 (" in err and "SIGKILL" in err
    with open(err.split("last words of this process: ")[1].split(")")[0]) as f:
        assert "Fatal: Check failed" in f.read()


@pytest.mark.parametrize("code", [ExitCode.USER_ERROR, ExitCode.INTERNAL_ERROR, ExitCode.HANG, ExitCode.NON_FINITE])
def test_a_process_that_ends_with_a_reason_ends_the_others_with_it(code):
    turn = f"if sys.argv[1] == '1': print('error: why', file=sys.stderr); sys.exit({int(code)})\ntime.sleep(60)"
    ends = [finish(process, 60) for process in start(2, turn)]
    assert [end[0] for end in ends] == [code, code]
    assert "process 1 (" in ends[0][2] and f"ended with exit code {int(code)}" in ends[0][2] and "error: why" in ends[1][2]


def test_preempted_is_no_failure_of_the_others():
    """They end in their own time."""
    ends = [finish(process, 60) for process in start(2, "time.sleep(2 * int(sys.argv[1]))\nsys.exit(75)")]
    assert [code for code, _, _ in ends] == [75, 75] and all("error" not in err for _, _, err in ends)


def test_a_signal_to_the_parent_reaches_the_child():
    turn = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(60)"
    processes = start(1, turn)
    child(processes[0])
    assert processes[0].stdout.readline() == "ready\n"
    processes[0].send_signal(signal.SIGTERM)
    assert finish(processes[0], 30)[0] == 75


def test_a_start_where_some_are_missing_names_them():
    ends = [finish(process, 60) for process in start(4, "print('ran')", only=[0, 2], patience=2)]
    for code, out, err in ends:
        assert code == ExitCode.PEER_LOST and "ran" not in out
        assert "error: process 1, process 3 did not come within 2 s; here: process 0 (" in err and "process 2 (" in err
        assert "Traceback" not in err
    code, _, err = finish(start(2, "pass", only=[1], patience=2)[0], 60)
    assert code == ExitCode.PEER_LOST and "process 0 (localhost) does not answer at port" in err


def test_two_of_the_same_number():
    processes = start(3, WAIT, only=[0, 1], patience=8)
    time.sleep(3)
    for number, said in ((0, "--watch-port"), (1, "--process-id 1: that process is here already")):
        again = subprocess.Popen([*processes[0].args[:5], str(number), *processes[0].args[6:]], env=environment(1),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        code, _, err = finish(again, 30)
        assert code == ExitCode.USER_ERROR and said in err and "Traceback" not in err
    assert [finish(process, 30)[0] for process in processes] == [79, 79], "process 2 never came"


def test_whose_end_was_the_cause():
    ends = [End(0, "a", -signal.SIGABRT), End(1, "b", 70), End(2, "c", -9), End(3, "d", 1)]
    assert cause(ends).process == 2
    assert cause([*ends, End(4, "e", None)]).process == 4
    assert cause([ends[0], ends[1], ends[3]]).process == 3
    assert cause(ends[:2]).process == 0, "the first of equals"
