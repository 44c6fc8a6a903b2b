"""A point is taken by whoever holds the lock of its folder; the kernel lets go of it when the last holder is gone."""

from __future__ import annotations

import fcntl
import os

NAME = "lock"


class Claim:
    """A lock that this process holds, and every child that is given `fd`: a trainer that outlives a killed sweep keeps it."""

    def __init__(self, fd: int):
        self.fd = fd

    @classmethod
    def take(cls, folder: str) -> Claim | None:
        """The claim on a point's folder, None while somebody else holds it."""
        os.makedirs(folder, exist_ok=True)
        fd = os.open(os.path.join(folder, NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return cls(fd)

    def release(self) -> None:
        """Lets go; a child that still runs does not."""
        os.close(self.fd)
