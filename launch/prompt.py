"""What is said and asked before money is spent."""

from __future__ import annotations

import sys

from launch.job import Job
from launch.progress import duration
from mof_jax.errors import UserError


def say(text: str) -> None:
    """A line on stdout, whole and at once."""
    print(text, flush=True)


def cost(job: Job) -> str:
    """What the job may cost at most, in one line."""
    rate, t = job.dollars_per_hour, job.slices
    money = "no price given" if rate is None else f"${rate:,.2f} an hour, ${rate * job.hours:,.2f} at most"
    kind = t.accelerator_type + (f" × {t.slices}" if t.slices > 1 else "")
    return f"{job.name}: {t} ({kind}, {t.chips} chips, {job.capacity}) for at most {duration(job.hours * 3600)}: {money}"


def confirm(question: str, wanted: bool, yes: bool) -> None:
    """Asks, unless it was answered beforehand.

    Raises:
      UserError: no, or nobody to ask.
    """
    say(question)
    if not wanted or yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody to ask whether that is right: give --yes, or set guard.confirm = false")
    if input("Go ahead? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was created")
