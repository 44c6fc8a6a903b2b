"""Commands of other programs: shown, run, and what their failures mean."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import re
import shlex
import signal
import subprocess

from mof_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """One line for a shell.

    Attributes:
      argv: its words.
      stdin: text that it reads, if any. shown: the words that make the same text, where the text must not be shown.
      limit: seconds that it may take.
    """

    argv: tuple[str, ...]
    stdin: str | None = None
    shown: str | None = None
    limit: float = 600.0

    def __str__(self) -> str:
        """The line, to copy and paste."""
        line = shlex.join(self.argv)
        if self.shown is not None:
            return f"{self.shown} | {line}"
        if self.stdin is None:
            return line
        end = "EOF"
        while end in self.stdin.splitlines():
            end += "_"
        return f"{line} <<'{end}'\n{self.stdin.rstrip()}\n{end}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command said."""

    code: int
    out: str
    err: str


class Fault(enum.Enum):
    """Why a command of `gcloud` or `kubectl` failed."""

    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    QUOTA = "quota"
    STOCK = "stock"
    EXISTS = "exists"
    ABSENT = "absent"
    SSH = "ssh"
    REMOTE = "remote"
    PASSING = "passing"
    MISSING = "missing"
    OTHER = "other"


# What the tools print, most telling first: gcloud's auth errors; Cloud TPU's "Quota limit '…' has been exceeded" (429, code 8)
# and "There is no more capacity in the zone" (code 8; cloud.google.com/tpu/docs/troubleshooting/trouble-tf); ssh's own words.
_FAULTS: tuple[tuple[Fault, str, str], ...] = (
    (Fault.CREDENTIALS, r"gcloud auth login|refreshing (your|the) current auth token|Reauthentication (required|failed)"
     r"|invalid_grant|invalid_rapt"
     r"|do(es)? not (currently )?have (an active account|any valid credentials)|UNAUTHENTICATED|must be logged in"
     r"|getting credentials: exec",
     "gcloud's credentials are missing or expired; run `gcloud auth login`"),
    (Fault.QUOTA, r"quota", "the project's quota is too small; ask for more (console.cloud.google.com/iam-admin/quotas, Cloud "
     "TPU API), or choose a smaller topology or another zone"),
    (Fault.STOCK, r"no more capacity|Insufficient (reserved )?capacity|stockout|ZONE_RESOURCE_POOL_EXHAUSTED"
     r"|not enough (resources|capacity)|currently unavailable in the", "the zone has no such slices left; try another zone, a "
     "reservation, or later"),
    (Fault.EXISTS, r"ALREADY_EXISTS|AlreadyExists|already exists",
     "there is one of this name; `status` shows it, `delete` removes it"),
    (Fault.PERMISSION, r"PERMISSION_DENIED|SERVICE_DISABLED|has not been used in project|does not have .*permission"
     r"|\bforbidden\b", "the account may not do this; see the message, and the roles that README.md lists"),
    (Fault.MISSING, r"no matches for kind", "the cluster has no JobSet controller; install it "
     "(jobset.sigs.k8s.io/docs/installation)"),
    (Fault.SSH, r"failed with exit status 255|Permission denied \(publickey|Connection (timed out|refused|reset|closed)"
     r"|Could not SSH|Failed to execute command on multiple workers|Host key verification failed"
     r"|exit(ed with)? (code )?\[?255\]?",
     "a worker cannot be reached by ssh; see its number above, the firewall rule for port 22, or set tpu_vm.iap"),
    (Fault.ABSENT, r"NOT_FOUND|NotFound|was not found|not found", "there is nothing of this name"),
    (Fault.PASSING, r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|HTTPError 5\d\d|\b50[0234]\b|timed? ?out|Temporary failure"
     r"|Unable to connect to the server|connection refused", "the service does not answer just now; try again"),
)


class CloudError(UserError):
    """A command that failed.

    Attributes:
      fault: the class. result: what it said; None if it did not start.
    """

    def __init__(self, message: str, fault: Fault, result: Result | None = None):
        self.fault, self.result = fault, result
        super().__init__(message)


def diagnose(text: str) -> tuple[Fault, str]:
    """Class and advice of what a tool printed."""
    for fault, pattern, advice in _FAULTS:
        if re.search(pattern, text, re.IGNORECASE):
            return fault, advice
    return Fault.OTHER, "see the message"


def explain(what: str, text: str) -> CloudError:
    """An error of one line from a tool's text."""
    fault, advice = diagnose(text)
    return CloudError(f"{what}: {_gist(text)}: {advice}", fault)


def _gist(text: str) -> str:
    """The telling line of what a tool printed: its ERROR, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|#####|denied", line, re.IGNORECASE)]
    return re.sub(r"^ERROR:\s*(\([\w.-]+\)\s*)?", "", (errors or lines or ["no message"])[0])[:300]


def run(command: Command) -> Result:
    """Runs a command to its end; whatever interrupts this, ends it and all that it started.

    Raises:
      CloudError: the program is not installed, took longer than its limit, or failed.
    """
    name = " ".join([word for word in command.argv if not word.startswith("-")][:5])
    try:
        # A session of its own: Ctrl-C is for this process, which then decides what still has to run.
        process = subprocess.Popen(command.argv, text=True, errors="replace", start_new_session=True,
                                   stdin=subprocess.DEVNULL if command.stdin is None else subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise CloudError(f"{command.argv[0]} is not installed here (cloud.google.com/sdk/docs/install)",
                         Fault.MISSING) from None
    try:
        out, err = process.communicate(command.stdin, timeout=command.limit)
    except subprocess.TimeoutExpired:
        raise CloudError(f"{name}: no answer for {command.limit:.0f} s; try again", Fault.PASSING) from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    result = Result(process.returncode, out, err)
    if result.code:
        error = _remote(name, result) if "ssh" in command.argv[:5] and _ran(result) else explain(name, err or out)
        error.result = result
        raise error
    return result


def _ran(result: Result) -> bool:
    """Whether `gcloud … ssh` came through to every worker, and what ran there failed (255 is ssh's own status)."""
    statuses = re.findall(r"##### Command execution on worker \S+ failed with exit status (\d+)", result.err)
    return "255" not in statuses if statuses else result.code != 255 and "ERROR: (gcloud" not in result.err


def _remote(name: str, result: Result) -> CloudError:
    """What a worker's program said last; its text is no text of gcloud's."""
    said = [line.strip() for line in result.err.splitlines() if line.strip() and not re.match(r"#####|SSH: |Using ssh", line)]
    return CloudError(f"{name}: a worker ended with status {result.code}: {said[-1][:300] if said else 'no message'}",
                      Fault.REMOTE)
