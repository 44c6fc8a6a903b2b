"""A folder is taken by whoever holds its lock; the kernel lets go of it when the last holder is gone."""

from __future__ import annotations

import fcntl
import os
import socket

NAME = "lock"


class FolderLock:
    """A lock that this process holds, and every child that is given `fd`: a trainer that outlives a killed
    sweep keeps it."""

    def __init__(self, fd: int):
        self.fd = fd

    @classmethod
    def take(cls, folder: str, name: str = NAME) -> FolderLock | None:
        """The lock of a folder, None while somebody else holds it.

        Raises:
          OSError: the folder cannot be written to, or its file system has no locks.
        """
        os.makedirs(folder, exist_ok=True)
        fd = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.write(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return cls(fd)

    def release(self) -> None:
        """Lets go; a child that still runs does not."""
        os.close(self.fd)


def holder(folder: str, name: str = NAME) -> str:
    """Who says that he holds the lock of a folder, in words."""
    try:
        with open(os.path.join(folder, name), errors="replace") as file:
            return file.read(200).strip() or "another process"
    except OSError:
        return "another process"
