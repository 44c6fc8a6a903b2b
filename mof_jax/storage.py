"""Bytes from local disks and object stores, by the same calls.

A path is local, or a URL that fsspec understands (`gs://`, `s3://`, `memory://` ...). Object stores fail now and then:
every remote read is retried with growing pauses, and a read that comes back short counts as a failure. Nothing here
keeps a connection open, so the functions may be called from any thread or process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import contextlib
import dataclasses
import errno
import glob as local_glob
import hashlib
import io
import os
import random
import re
import time
from typing import Any, TypeVar

import fsspec

from mof_jax.braces import spelled_out
from mof_jax.errors import UserError

T = TypeVar("T")

MAX_PICTURE = 512 << 20  # bytes of an encoded picture: 64 million pixels of 16-bit RGBA, as they are

_CHUNK = 8 << 20
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ImportError)

# Where the clients of stores come from, for their errors have no class in common; TensorStore's and XLA's are plain ones whose
# messages name the status.
_CLIENTS = ("gcsfs", "google", "s3fs", "botocore", "aiobotocore", "aiohttp", "requests")
_STATUS = re.compile("UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|"
                     "Permission denied")

# gcsfs remembers listings for ever. Orbax's paths (epath) take their file system from fsspec too, and would never see a step that
# another process saves or deletes after the first look; ours below keeps them, and forgets where it is asked what there is.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


class Unavailable(UserError):
    """A store that does not answer, or refuses; what lies there may be whole."""


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often and how patiently to try again.

    Attributes:
      attempts: tries in all.
      pause: seconds before the second try; doubles each time, with up to 25 % of jitter so that hosts spread out.
      longest: upper bound of one pause, seconds.
    """

    attempts: int = 6
    pause: float = 0.5
    longest: float = 30.0

    def __call__(self, action: Callable[[], T], what: str) -> T:
        """`action()`, repeated while it fails for reasons that may pass.

        Raises:
          UserError: it does not exist, is not allowed, or still fails at the last attempt.
        """
        for attempt in range(self.attempts):
            try:
                return action()
            except _FINAL as error:
                raise _explain(what, error) from None
            except Exception as error:  # object stores raise classes of their own; all but the above may pass
                if attempt + 1 == self.attempts:
                    raise Unavailable(f"{what}: still failing after {self.attempts} attempts: {reason(error)}") from error
                pause = min(self.longest, self.pause * 2**attempt)
                time.sleep(pause * (1 + 0.25 * random.random()))
        raise AssertionError("attempts must be positive")


RETRY = Retry()


def _explain(what: str, error: BaseException) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{what}: no such file{' or bucket' if is_remote(what) else ''}")
    if isinstance(error, ImportError):
        return UserError(f"{what}: this kind of address needs another package ({error}); pip install 'mof_jax[cloud]'")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{what}: no space left on the disk")
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"{what}: {why or type(error).__name__}")


def failure(error: BaseException) -> str:
    """Why a disk or a store does not do what it was asked, in one line; "" if the error is of another kind."""
    chain = _causes(error)
    text, last = "\n".join(map(str, chain)), chain[-1]
    if "No space left" in text or "ENOSPC" in text:
        return "no space left on the disk"
    if isinstance(last, ImportError):
        return f"this kind of address needs another package ({last}); pip install 'mof_jax[cloud]'"
    if isinstance(last, FileNotFoundError) and last.errno is None:  # of a store: its text is an address
        return f"no such bucket or object ({last})"
    known = any(isinstance(e, (OSError, Unavailable)) or type(e).__module__.partition(".")[0] in _CLIENTS for e in chain)
    return reason(last) if known or _STATUS.search(text) else ""


def reason(error: BaseException) -> str:
    """The first line of the innermost cause, both ends of a long one, without what TensorStore appends in brackets."""
    last = _causes(error)[-1]
    line = re.split(r" \[(?:http_|tensorstore_|source )", (str(last) or type(last).__name__).splitlines()[0])[0]
    return line if len(line) <= 300 else f"{line[:150]} … {line[-147:]}"


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """For calls of other libraries: where they fail for the sake of a store, the error is one line. Does nothing for local paths.

    Raises:
      Unavailable: the store does not answer, or refuses.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_remote(path) or not (why := failure(error)):
            raise
        raise Unavailable(f"{path}: {why}") from None


def is_remote(path: str) -> bool:
    """Whether `path` is a URL (`gs://bucket/x`) rather than a local path."""
    return "://" in path


def join(root: str, *parts: str) -> str:
    """`root/parts`, for local paths and URLs."""
    return "/".join([root.rstrip("/"), *parts]) if is_remote(root) else os.path.join(root, *parts)


def _fs(path: str, anew: bool = False) -> tuple[Any, str]:
    """The file system and the path inside it; `anew` forgets what a listing said of the path before."""
    try:
        fs, inner = fsspec.core.url_to_fs(path, **({"use_listings_cache": True} if path.startswith("gs://") else {}))
    except (ImportError, ValueError) as error:
        raise _explain(path, error) from None
    except Exception as error:  # some clients connect at once, and say so in classes of their own
        raise Unavailable(f"{path}: cannot be reached: {reason(error)}") from None
    if anew:
        fs.invalidate_cache(inner)
    return fs, inner


def size(path: str, retry: Retry = RETRY) -> int:
    """Bytes in the file. Raises `UserError` if there is none."""
    if not is_remote(path):
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
        return os.path.getsize(path)
    fs, inner = _fs(path)
    return int(retry(lambda: fs.size(inner), path))


def exists(path: str, retry: Retry = RETRY) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(path):
        return os.path.exists(path)
    fs, inner = _fs(path, anew=True)
    return bool(retry(lambda: fs.exists(inner), path))


def _check_local(path: str) -> None:
    """Raises `ValueError` for what no local file is called: a NUL, or half a surrogate pair."""
    if b"\0" in os.fsencode(path):
        raise ValueError("a NUL in the path")


def make_folder(path: str) -> None:
    """Makes a folder where there are such things; an object store has none.

    Raises:
      UserError: it cannot be made.
    """
    if not is_remote(path):
        try:
            _check_local(path)
            os.makedirs(path, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _explain(path, error) from None


def is_folder(path: str, retry: Retry = RETRY) -> bool:
    """Whether a folder is there."""
    if not is_remote(path):
        return os.path.isdir(path)
    fs, inner = _fs(path, anew=True)
    return bool(retry(lambda: fs.isdir(inner), path))


def expand(path: str) -> str:
    """A path as a user gives it, with `~` as his home folder, unless something of that name lies here."""
    return os.path.expanduser(path) if path.startswith("~") and not os.path.lexists(path) else path


def glob(pattern: str, retry: Retry = RETRY) -> list[str]:
    """Paths that a pattern stands for: `*`, `?`, `[ab]`, `{00000..00012}` and `{a,b}`.

    What is there under the very name is that path, whatever letters it has, and so is a local folder that begins it. Names
    that braces alone spell out come in their order, whether they are there or not; what a `*` matches is sorted. A path without
    any of these is itself.

    Raises:
      UserError: braces that stand for too many names.
    """
    if not any(c in pattern for c in "*?[{") or exists(pattern, retry):
        return [pattern]
    found = []
    folder = "" if is_remote(pattern) else _literal_folder(pattern)
    for name in spelled_out(pattern[len(folder):]):
        if not any(c in name for c in "*?["):
            found.append(folder + name)
        elif not is_remote(pattern):
            found += sorted(local_glob.glob(local_glob.escape(folder) + name))
        else:
            fs, inner = _fs(name, anew=True)
            found += sorted(fs.unstrip_protocol(p) for p in retry(lambda fs=fs, inner=inner: fs.glob(inner), name))
    return list(dict.fromkeys(found))


def _literal_folder(pattern: str) -> str:
    """The longest beginning of a local pattern, up to a `/`, that is a folder of that very name."""
    ends = [i + 1 for i, c in enumerate(pattern) if c == "/"]
    return next((pattern[:end] for end in reversed(ends) if os.path.isdir(pattern[:end])), "")


def inside(folder: str, ending: str, retry: Retry = RETRY) -> list[str]:
    """The files of a folder that end in `ending`, sorted, hidden ones left out; whatever letters the folder's name has."""
    if not is_remote(folder):
        return sorted(local_glob.glob(os.path.join(local_glob.escape(folder), f"*{ending}")))
    fs, inner = _fs(folder, anew=True)
    pattern = f"{local_glob.escape(inner.rstrip('/'))}/*{ending}"
    return sorted(fs.unstrip_protocol(p) for p in retry(lambda: fs.glob(pattern), folder))


def files(path: str, ending: str, retry: Retry = RETRY) -> list[str]:
    """The files of one kind that a path stands for: itself, those of a folder, or those of a pattern (see `glob`)."""
    pattern = any(c in path for c in "*?[{")
    # A store is not asked where the name tells: it may have no folders, or take long to say so.
    if is_folder(path, retry) if pattern or not is_remote(path) else not path.endswith(ending):
        return inside(path, ending, retry)
    if not pattern:
        return [path] if path.endswith(ending) or exists(path, retry) else []
    found = glob(path, retry)
    return [file for name in found for file in (inside(name, ending) if os.path.isdir(name) else [name])]


def find(folder: str, retry: Retry = RETRY, linked: list[str] | None = None) -> dict[str, int]:
    """Every file below a folder as `a/b.png` -> bytes, sorted; folders that are links are not entered.

    Empty objects named like a folder (`a/`), as consoles and mounts leave them, are no files.

    Args:
      linked: takes the names of the folders that are links, so that whoever asks can say that they were left out.

    Raises:
      UserError: a store that keeps failing, or a folder in it that may not be read.
    """
    if is_remote(folder):
        fs, inner = _fs(folder, anew=True)
        found = retry(lambda: fs.find(inner, detail=True), folder)
        return {path[len(inner):].strip("/"): int(info["size"] or 0) for path, info in sorted(found.items())
                if not path.endswith("/")}
    try:
        _check_local(folder)
    except ValueError as error:
        raise _explain(folder, error) from None
    found = []
    for where, folders, names in os.walk(folder, onerror=_not_read):
        found += [os.path.join(where, name) for name in names]
        if linked is not None:
            links = [os.path.join(where, name) for name in folders if os.path.islink(os.path.join(where, name))]
            linked += [os.path.relpath(link, folder) for link in sorted(links)]
    return {os.path.relpath(file, folder).replace(os.sep, "/"): os.lstat(file).st_size for file in sorted(found)}


def _not_read(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # no folder has no files
        raise UserError(f"{error.filename}: {error.strerror}")


def read(path: str, start: int = 0, stop: int | None = None, retry: Retry = RETRY) -> bytes:
    """Bytes `start:stop` of a file (all of it by default).

    Raises:
      UserError: no such file, a range beyond its end, or a store that keeps failing.
    """
    if not is_remote(path):
        try:
            with open(path, "rb") as f:
                f.seek(start)
                data = f.read() if stop is None else f.read(stop - start)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or half a surrogate pair
            raise _explain(path, error) from None
        if stop is not None and len(data) != stop - start:
            raise UserError(f"{path}: bytes {start}:{stop} lie beyond the end of the file")
        return data
    fs, inner = _fs(path)

    def attempt() -> bytes:
        data = fs.cat_file(inner, start=start or None, end=stop)
        if stop is not None and len(data) != stop - start:
            raise OSError(f"short read of bytes {start}:{stop} ({len(data)} bytes)")
        return data

    return retry(attempt, path)


def stream(path: str, chunk: int = _CHUNK, ahead: int = 2, retry: Retry = RETRY) -> Iterator[bytes]:
    """The file's bytes in order, `chunk` at a time, with `ahead` chunks being read meanwhile."""
    total = size(path, retry)
    starts = range(0, total, chunk)
    with concurrent.futures.ThreadPoolExecutor(max(1, ahead)) as pool:
        waiting = [pool.submit(read, path, s, min(s + chunk, total), retry) for s in starts[: ahead + 1]]
        for i in range(len(starts)):
            data = waiting.pop(0).result()
            if i + ahead + 1 < len(starts):
                s = starts[i + ahead + 1]
                waiting.append(pool.submit(read, path, s, min(s + chunk, total), retry))
            yield data


class StreamFile(io.RawIOBase):
    """A remote file read from front to back through `stream`, as a file object (for `tarfile` in `r|` mode)."""

    def __init__(self, path: str, chunk: int = _CHUNK, ahead: int = 2, retry: Retry = RETRY):
        self._chunks = stream(path, chunk, ahead, retry)
        self._left = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer) -> int:
        """Fills `buffer` with the next bytes; 0 at the end."""
        if not self._left:
            self._left = next(self._chunks, b"")
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def close(self) -> None:
        """Stops reading ahead."""
        self._chunks.close()
        super().close()


def open_stream(path: str, retry: Retry = RETRY) -> io.BufferedIOBase:
    """A binary file object, local (seekable) or remote (front to back)."""
    if is_remote(path):
        return io.BufferedReader(StreamFile(path, retry=retry), 1 << 20)
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise _explain(path, error) from None


def fingerprint(path: str, retry: Retry = RETRY) -> str:
    """Twelve hex digits that change when the file's name, size or version changes; its content is not read."""
    if is_remote(path):
        fs, inner = _fs(path)
        info = retry(lambda: fs.info(inner), path)
        version = [info.get(k) for k in ("size", "etag", "ETag", "md5Hash", "generation", "mtime", "LastModified")]
    else:
        try:
            stat = os.stat(path)
        except (OSError, ValueError) as error:
            raise _explain(path, error) from None
        version = [stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(repr([path, [str(v) for v in version]]).encode()).hexdigest()[:12]


def default_cache() -> str:
    """The folder for downloaded shards and indexes: $MOF_CACHE, else the user's cache folder."""
    return expand(os.environ.get("MOF_CACHE", "")) or os.path.join(os.path.expanduser("~"), ".cache", "mof_jax")


def local_copy(path: str, cache_dir: str = "", retry: Retry = RETRY) -> str:
    """A local path with the file's bytes: `path` itself if local, else a copy under `cache_dir`.

    The copy appears whole or not at all, also when several processes fetch it at once, and a changed remote file gets
    a copy of its own.
    """
    if not is_remote(path):
        return path
    folder = cache_dir or default_cache()
    make_folder(folder)
    target = os.path.join(folder, f"{fingerprint(path, retry)}-{path.rsplit('/', 1)[-1][-200:]}")
    if not os.path.exists(target):
        write_atomic(target, stream(path, retry=retry))
    return target


def write_atomic(path: str, chunks: Iterable[bytes], retry: Retry = RETRY) -> None:
    """Writes a file so that no reader sees half of it.

    A local file goes through a temporary one beside it, and is as readable to others as the umask lets new files be; an object
    store shows an object once it is complete.

    Raises:
      UserError: it cannot be written (no such folder, no space left, …); the temporary file is gone then.
    """
    if is_remote(path):
        fs, inner = _fs(path)
        data = b"".join(chunks)
        retry(lambda: fs.pipe_file(inner, data), path)
        return
    try:
        temporary = os.path.join(os.path.dirname(os.path.abspath(path)), f"tmp{os.urandom(8).hex()}.part")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise _explain(path, error) from None
    try:
        with os.fdopen(handle, "wb") as f:
            for data in chunks:
                f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _explain(path, error) from None
        raise
