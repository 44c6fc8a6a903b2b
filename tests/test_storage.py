"""Object stores: range reads, retries, read-ahead, cache."""

import os

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import pytest

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.storage import Retry

FAST = Retry(attempts=4, pause=0.001, longest=0.002)


class Flaky(MemoryFileSystem):
    """A store that fails, or returns too little, at chosen calls."""

    protocol = "flaky"
    cachable = False
    store, pseudo_dirs = {}, [""]
    calls, fail, short = 0, set(), set()

    def cat_file(self, path, start=None, end=None, **kwargs):
        cls = type(self)
        cls.calls += 1
        if cls.calls in cls.fail:
            raise ConnectionResetError("the store hung up")
        data = super().cat_file(path, start=start, end=end, **kwargs)
        return data[:-1] if cls.calls in cls.short else data


@pytest.fixture
def store():
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.store.clear()
    Flaky.calls, Flaky.fail, Flaky.short = 0, set(), set()
    with fsspec.open("flaky://bucket/x.bin", "wb") as f:
        f.write(bytes(range(256)) * 40)
    return "flaky://bucket/x.bin"


WHOLE = bytes(range(256)) * 40


def test_local_and_remote_answer_alike(store, tmp_path):
    local = tmp_path / "x.bin"
    local.write_bytes(WHOLE)
    for path in (store, str(local)):
        assert storage.size(path) == len(WHOLE) and storage.exists(path)
        assert storage.read(path, retry=FAST) == WHOLE and storage.read(path, 100, 300, FAST) == WHOLE[100:300]
        assert b"".join(storage.stream(path, chunk=999, retry=FAST)) == WHOLE
        assert [p.rsplit("/", 1)[-1] for p in storage.glob(path.replace("x.bin", "*.bin"))] == ["x.bin"]
        with pytest.raises(UserError, match="x.bin"):
            storage.read(path, 0, len(WHOLE) + 5, FAST)
        with pytest.raises(UserError, match="nothing.bin: no such file"):
            storage.read(path.replace("x.bin", "nothing.bin"), retry=FAST)


def test_failures_and_short_reads_are_retried(store):
    Flaky.fail, Flaky.short = {1, 2}, {3}
    assert storage.read(store, 5, 50, FAST) == WHOLE[5:50] and Flaky.calls == 4
    Flaky.calls, Flaky.fail, Flaky.short = 0, {2, 5, 6}, {3}
    assert b"".join(storage.stream(store, chunk=1000, retry=FAST)) == WHOLE


def test_lasting_failure_is_one_line(store):
    Flaky.fail = set(range(100))
    with pytest.raises(UserError, match="flaky://bucket/x.bin: still failing after 4 attempts: the store hung up"):
        storage.read(store, retry=FAST)
    assert Flaky.calls == 4


def test_a_missing_file_is_not_retried(store):
    with pytest.raises(UserError, match="no such file"):
        storage.read("flaky://bucket/none", retry=FAST)
    assert Flaky.calls == 1


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(("error", "line"), [
    (OSError(28, "No space left on device"), "no space left on the disk"),
    (caused(Exception("wrapped"), OSError("write: ENOSPC")), "no space left on the disk"),
    (ValueError("PERMISSION_DENIED: Error writing \"x\": Forbidden [http_response_code='403'] [tensorstore_spec='…']"),
     'PERMISSION_DENIED: Error writing "x": Forbidden'),
    (ValueError("ABORTED: " + "x" * 400 + ": Service Unavailable\nmore"),
     "ABORTED: " + "x" * 141 + " … " + "x" * 126 + ": Service Unavailable"),
    (FileNotFoundError("b/nowhere/o"), "no such bucket or object (b/nowhere/o)"),
    (caused(Exception("wrapped"), ModuleNotFoundError("No module named 'gcsfs'")),
     "this kind of address needs another package (No module named 'gcsfs'); pip install 'mof_jax[cloud]'"),
    (storage.Unavailable("gs://x: still failing"), "gs://x: still failing"),
    (ValueError("no such axis in the workspace"), ""),
    (UserError("config.x: wrong"), "")])
def test_failures_of_stores_and_disks_are_told_from_others(error, line):
    assert storage.failure(error) == line
    for path in ("gs://bucket/x", "/local/x"):
        with pytest.raises(storage.Unavailable if line and path[0] == "g" and not isinstance(error, UserError) else type(error)):
            with storage.explained(path):
                raise error


def test_pauses_grow_and_are_bounded(monkeypatch):
    pauses = []
    monkeypatch.setattr(storage.time, "sleep", pauses.append)

    def fail():
        raise TimeoutError("slow")

    with pytest.raises(UserError):
        Retry(attempts=6, pause=1, longest=5)(fail, "x")
    assert len(pauses) == 5 and all(w <= p <= 1.25 * w for p, w in zip(pauses, [1, 2, 4, 5, 5]))


def test_stream_file_reads_front_to_back(store):
    Flaky.fail = {2}
    with storage.open_stream(store, FAST) as f:
        assert f.read(300) == WHOLE[:300] and f.read() == WHOLE[300:]


def test_cache_copies_once_atomically_and_notices_changes(store, tmp_path):
    first = storage.local_copy(store, str(tmp_path), FAST)
    calls = Flaky.calls
    assert open(first, "rb").read() == WHOLE
    assert storage.local_copy(store, str(tmp_path), FAST) == first and Flaky.calls == calls
    with fsspec.open(store, "wb") as f:
        f.write(b"new")
    second = storage.local_copy(store, str(tmp_path), FAST)
    assert second != first and open(second, "rb").read() == b"new"
    Flaky.fail = set(range(1000))
    with fsspec.open("flaky://bucket/y.bin", "wb") as f:
        f.write(b"y")
    with pytest.raises(UserError):
        storage.local_copy("flaky://bucket/y.bin", str(tmp_path), FAST)
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(p) for p in (first, second))  # no half file


def test_unknown_protocol_is_named():
    with pytest.raises(UserError, match="nostore://x"):
        storage.size("nostore://x")


def test_writing(store, tmp_path):
    for path in ("flaky://bucket/new.bin", str(tmp_path / "new.bin")):
        storage.write_atomic(path, iter([b"ab", b"c"]))
        assert storage.read(path, retry=FAST) == b"abc"
    with pytest.raises(UserError, match="none/x.bin: no such file"):
        storage.write_atomic(str(tmp_path / "none" / "x.bin"), [b""])
