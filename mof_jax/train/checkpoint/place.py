"""A work dir: what may be one, who has it, and what the paths of users mean."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os

import jax

from mof_jax import console, storage
from mof_jax.errors import UserError
from mof_jax.folder_lock import FolderLock, holder
from mof_jax.parsing import Malformed, check_text, parse_object, show

LOCK = "train.lock"
CHECKPOINTS = "checkpoints"
STAGES = "stages.json"  # in the work dir of a staged run: the names of its stages, each a work dir below it


def check(folder: str) -> None:
    """Refuses a folder from which what is saved there could not be restored.

    Raises:
      UserError: saying why.
    """
    if storage.is_remote(folder) and not folder.startswith("gs://"):
        raise UserError(f"{folder}: checkpoints go to a local or mounted folder or to gs:// (Orbax writes no others)")
    whole = folder if storage.is_remote(folder) else os.path.abspath(folder)
    try:
        check_text(whole)
    except Malformed as error:
        raise UserError(f"{show(whole, 200)}: {error}; name the folder in UTF-8") from None
    if found := [c for c in "[*?" if c in whole]:
        raise UserError(f"{whole}: Orbax takes the {found[0]!r} in this path for a pattern, and could not restore what it saved "
                        "there; use another name")


@contextlib.contextmanager
def taken(workdir: str) -> Iterator[None]:
    """Has a work dir for this job while it trains: of its processes, the first holds the lock. In an object store there is none.

    Raises:
      UserError: another job has it.
    """
    lock = None
    if jax.process_index() == 0 and not storage.is_remote(workdir):
        try:
            lock = FolderLock.take(workdir, LOCK)
        except OSError as error:
            console.show(f"note: {workdir} cannot be locked ({error.strerror}); two runs there would spoil each other")
        else:
            if lock is None:
                raise UserError(f"{workdir}: {holder(workdir, LOCK)} trains there; wait for it, or use another work dir")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def split(path: str) -> tuple[str, int | None]:
    """The work dir and the step that a user names: `WORKDIR`, `WORKDIR/checkpoints` or `WORKDIR/checkpoints/STEP`.

    Whatever holds a folder `checkpoints` is a work dir, also one called `2024`; that of a staged run stands for its last stage.
    """
    path = path.rstrip("/") or path
    if storage.exists(storage.join(path, STAGES)) or storage.exists(storage.join(path, CHECKPOINTS)):
        return last_stage(path), None
    parent, _, name = path.rpartition("/")
    if name == CHECKPOINTS:
        return parent or ("/" if path.startswith("/") else "."), None
    above, _, folder = parent.rpartition("/")
    if folder == CHECKPOINTS and name.isdecimal() and name.isascii() and len(name) < 19:
        return above or ("/" if path.startswith("/") else "."), int(name)
    return path, None


def last_stage(workdir: str) -> str:
    """The work dir of the last stage of a staged run; `workdir` itself for any other.

    Raises:
      UserError: its list of stages is none.
    """
    listing = storage.join(workdir, STAGES)
    if not storage.exists(listing):
        return workdir
    try:
        stages = parse_object(storage.read(listing)).get("stages")
    except Malformed as error:
        raise UserError(f"{listing}: {error}") from None
    if not isinstance(stages, list) or not stages or not all(isinstance(s, str) and s.isidentifier() for s in stages):
        raise UserError(f"{listing}: lists no stages")
    return storage.join(workdir, stages[-1])
