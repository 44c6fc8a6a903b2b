"""Checkpoints and whole work dirs at `gs://`, against an emulator of the store's API: what is saved, harmed, refused and resumed.

The checkpoints of this process meet the class of gcsfs that a user gets, told that the bucket is flat; the processes that it
starts meet the plain one.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
import itertools
import multiprocessing
import os
import signal
import sys
from types import SimpleNamespace

import fsspec
import gcs_emulator
import jax
import numpy as np
import pytest
from run_samples import ROOT, finish, mof, start_two
from test_checkpoint import abstract, equal, later, state
from tiny_run import losses

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.jsonl import read_lines
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from mof_jax.train.checkpoint.streamer import Streamer
from mof_jax.train.start import open_checkpoint

gcsfs = pytest.importorskip("gcsfs")


@pytest.fixture(scope="module")
def store():
    """The emulator, for this process and those that it starts. One for all tests: TensorStore reads its address once."""
    from gcsfs.extended_gcsfs import BucketType, ExtendedGcsFileSystem

    async def flat(self, bucket):
        return BucketType.NON_HIERARCHICAL

    with gcs_emulator.serve() as (store, url), pytest.MonkeyPatch.context() as patch:
        for name, value in gcs_emulator.environment(url).items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "test"})
        patch.setattr(ExtendedGcsFileSystem, "_get_bucket_type", flat)  # asked by gRPC
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield store
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def bucket(store, _count=itertools.count()):
    """A bucket of its own: google-cloud-storage is asked about one once a process."""
    name = f"bucket-{next(_count)}"
    yield name
    store.faults.clear()
    store.page = 1000


@pytest.fixture
def impatient(monkeypatch):
    """The clients' retries without their pauses, and fewer of TensorStore's (32)."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    monkeypatch.setattr(sys.modules["gcsfs.retry"], "min", lambda *_: 0.001, raising=False)  # seconds, of its `min(…, 32)`
    monkeypatch.setattr(storage, "time", SimpleNamespace(sleep=lambda seconds: None))
    for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
        monkeypatch.setitem(context, "gcs_request_retries", {"max_retries": 4, "initial_delay": "1ms", "max_delay": "2ms"})


def save(bucket: str, *steps: int, **config) -> Checkpointer:
    """These steps, saved and sealed."""
    checkpointer = Checkpointer(f"gs://{bucket}/run/checkpoints", CheckpointConfig(**{"keep": 5} | config))
    for step in steps:
        checkpointer.save(step, state(step), {"note": f"step {step}"})
    checkpointer.wait()
    return checkpointer


def fresh(function, *args):
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result(120)


def restored(directory: str) -> tuple[list[np.ndarray], dict]:
    found, meta = Checkpointer(directory).restore(abstract(state(0)))
    return jax.device_get(jax.tree.leaves(found)), meta


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_comes_back_in_another_process(bucket, asynchronous):
    checkpointer = save(bucket, 1, 2, 3, asynchronous=asynchronous)
    leaves, meta = fresh(restored, checkpointer.directory)
    assert equal(leaves, jax.tree.leaves(state(3))) and meta == checkpointer.meta(3) and meta["note"] == "step 3"
    params = open_checkpoint(f"gs://{bucket}/run/checkpoints/2")[0].restore_params(2)
    assert equal(params, {**state(2).params, **state(2).frozen})


def test_a_streamed_state(bucket):
    arrays = {f"layer/{i}": np.full((4, 8), i, np.float32) for i in range(3)}
    Streamer(f"gs://{bucket}/c").save(0, {"params": later(arrays), "frozen": {}}, {})
    assert equal(Checkpointer(f"gs://{bucket}/c", read_only=True).restore_params(0), arrays)


def test_what_is_not_kept_is_deleted_to_the_last_object(store, bucket):
    """Also the empty objects that mounts and consoles leave as folders; and those of no step stay."""
    checkpointer = save(bucket, 1, 2, keep=2)
    root = f"{bucket}/run/checkpoints"
    for folder in ("", "1/", "1/state/", "1/state/d/"):
        store.put(f"{root}/{folder}", b"")
    for step in (3, 4):
        checkpointer.save(step, state(step), {})
    checkpointer.wait()
    assert checkpointer.steps() == [4, 3]
    assert {name.split("/")[3] for name in store.names(root)} == {"", "3", "4"}


def harm(store, root: str, how: str) -> None:
    """Does something to step 2."""
    arrays = max((name for name in store.names(f"{root}/2/") if "/d/" in name), key=lambda name: len(store.objects[name].data))
    data = store.objects[arrays].data
    middle = len(data) // 2
    match how:
        case "flip":
            store.put(arrays, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:])
        case "cut":
            store.put(arrays, data[:middle])
        case "remove":
            store.delete(arrays)
        case "unsealed":
            store.delete(f"{root}/2/manifest.json")
        case "uncommitted":
            store.delete(f"{root}/2/manifest.json")
            store.delete(f"{root}/2/commit_success.txt")
        case "placeholder":
            for name in store.names(f"{root}/2/"):
                store.delete(name)
            store.put(f"{root}/2/", b"")


@pytest.mark.parametrize(("how", "said"), [
    ("flip", "differs from what was written"), ("cut", "bytes, written were"), ("remove", "is missing"),
    ("unsealed", "not complete"), ("uncommitted", None), ("placeholder", None)])
def test_a_damaged_step_is_passed_over_and_can_be_had_again(store, bucket, how, said, caplog):
    checkpointer = save(bucket, 1, 2)
    harm(store, f"{bucket}/run/checkpoints", how)
    assert Checkpointer(checkpointer.directory).newest() == 1
    lines = [text for text in caplog.messages if "checkpoints/2 passed over: " in text]
    assert said in lines[0] if said else not lines, "what lacks Orbax's own last file counts as no step"
    checkpointer.save(2, state(2), {})
    checkpointer.wait()
    found, meta = Checkpointer(checkpointer.directory).restore(abstract(state(0)))
    assert meta["step"] == 2 and equal(found, state(2))
    assert f"{bucket}/run/checkpoints/2/" not in store.objects


def test_a_reader_sees_what_another_process_saves_and_deletes(store, bucket):
    """gcsfs remembers listings for ever unless told otherwise; the sizes of listed data are still not asked for again."""
    save(bucket, 1, 2)
    reader = Checkpointer(f"gs://{bucket}/run/checkpoints", read_only=True)
    assert reader.steps() == [2, 1] and not storage.exists(f"{reader.directory}/3")
    assert storage.glob(f"{reader.directory}/*") == [f"{reader.directory}/{step}" for step in (1, 2)]
    assert {name.split("/")[0] for name in storage.find(reader.directory)} == {"1", "2"}
    for name in store.names(f"{bucket}/run/checkpoints/2/"):
        store.put(name.replace("/2/", "/3/", 1), store.objects[name].data)
        store.delete(name)
    assert reader.steps() == [3, 1] and reader.newest() == 3
    assert storage.exists(f"{reader.directory}/3") and not storage.exists(f"{reader.directory}/2")
    assert storage.glob(f"{reader.directory}/*") == [f"{reader.directory}/{step}" for step in (1, 3)]
    assert {name.split("/")[0] for name in storage.find(reader.directory)} == {"1", "3"}
    files, asked = storage.glob(f"{reader.directory}/3/*.json"), len(store.log)
    assert [storage.size(file) for file in files] == [len(store.objects[file.removeprefix("gs://")].data) for file in files] != []
    assert len(store.log) == asked


def test_listings_of_many_pages(store, bucket):
    store.page = 3
    checkpointer = save(bucket, 1, 2, 3, keep=2)
    assert checkpointer.steps() == [3, 2] and checkpointer.newest() == 3
    assert len(storage.find(f"{checkpointer.directory}/3")) == len(store.names(f"{bucket}/run/checkpoints/3/")) > 9
    assert not store.names(f"{bucket}/run/checkpoints/1/")


def test_some_refusals_are_survived(store, bucket, impatient):
    for kind in ("list", "stat", "read", "write", "delete"):
        store.fail(kind, bucket, skip=1, times=2)
    for name in ("/d/", "manifest.ocdbt", "meta/metadata", "manifest.json"):
        store.fail("write", f"{bucket}.*{name}", times=3)
    checkpointer = save(bucket, 1, 2, keep=1)
    assert all(fault.hits > fault.skip + fault.times for fault in store.faults)
    found, meta = checkpointer.restore(abstract(state(0)))
    assert meta["step"] == 2 and equal(found, state(2))
    assert not store.names(f"{bucket}/run/checkpoints/1/")


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(("kind", "name", "status"), [
    ("write", "/d/", 503), ("write", "/d/", 403), ("write", "meta/metadata", 503), ("write", "3/manifest.json", 503),
    ("list", "", 503), ("stat", "", 503)])
def test_a_store_that_keeps_refusing_is_one_line(store, bucket, impatient, kind, name, status, asynchronous):
    """It says what is intact, which holds; and once the store answers again, so does the same checkpointer."""
    checkpointer = save(bucket, 1, 2, asynchronous=asynchronous)
    store.fail(kind, f"{bucket}.*{name}", status=status, times=None)
    with pytest.raises(UserError, match=r"checkpoints: saving step 3 failed: .+; the checkpoint of step 2 is intact$") as error:
        checkpointer.save(3, state(3), {})
        checkpointer.wait()
    assert "\n" not in str(error.value) and ("Forbidden" if status == 403 else "Service Unavailable") in str(error.value)
    store.faults.clear()
    assert Checkpointer(checkpointer.directory).newest() == 2
    assert equal(checkpointer.restore(abstract(state(0)))[0], state(2))
    checkpointer.save(3, state(3), {})
    checkpointer.wait()
    assert equal(checkpointer.restore(abstract(state(0)))[0], state(3))


@pytest.mark.parametrize("name", ["2/manifest.json", "2/state/.*/d/", "2/meta/metadata"])
def test_an_outage_is_no_damage(store, bucket, impatient, name):
    """To go on from an older step would overwrite the newest one."""
    checkpointer = save(bucket, 1, 2)
    store.fail("read", f"{bucket}.*{name}", times=None)
    with pytest.raises(UserError, match="Service Unavailable"):
        Checkpointer(checkpointer.directory).newest()
    store.faults.clear()
    later = Checkpointer(checkpointer.directory)
    assert later.newest() == 2
    store.fail("read", f"{bucket}.*{name}", times=None)
    if "manifest" not in name:  # verified before
        with pytest.raises(UserError, match="Service Unavailable"):
            later.restore(abstract(state(0)))


def test_no_leave_to_ask_about_the_bucket(store, bucket):
    """Orbax does (`storage.buckets.get`), once there is something to list."""
    save(bucket, 1)
    for name in store.names(f"{bucket}/"):
        store.put(f"other-{name}", store.objects[name].data)
    store.fail("bucket", status=403, times=None)
    with pytest.raises(UserError, match=f"gs://other-{bucket}/run/checkpoints: 403 GET .*: Forbidden"):
        Checkpointer(f"gs://other-{bucket}/run/checkpoints").newest()


def opened_without_gcsfs(directory: str) -> str:
    sys.modules["gcsfs"] = None
    lines = []
    for read_only in (True, False):
        with pytest.raises(UserError) as error:
            Checkpointer(directory, read_only=read_only)
        lines.append(str(error.value))
    return "\n".join(lines)


def test_without_the_package_one_line_says_which(bucket):
    lines = fresh(opened_without_gcsfs, f"gs://{bucket}/run/checkpoints").splitlines()
    assert len(lines) == 2 and all(f"gs://{bucket}/run/checkpoints: " in line and "mof_jax[cloud]" in line for line in lines)


def test_a_reader_of_nothing(bucket):
    with pytest.raises(UserError, match="no such checkpoint directory"):
        open_checkpoint(f"gs://{bucket}/none")


def test_files_large_and_small(store, bucket):
    """Uploads in one request and in pieces, ranges, patterns, folders that are objects."""
    data = os.urandom(1 << 20) * 51  # gcsfs uploads in pieces of 50 MiB
    for name, content in {"a/x.bin": data, "a/y.bin": b"y", "a/b/z.txt": b"", "%2F a+b.txt": b"odd"}.items():
        storage.write_atomic(f"gs://{bucket}/{name}", [content])
        assert store.objects[f"{bucket}/{name}"].data == content and storage.read(f"gs://{bucket}/{name}") == content
    store.put(f"{bucket}/a/b/", b"")
    assert storage.find(f"gs://{bucket}/a") == {"b/z.txt": 0, "x.bin": len(data), "y.bin": 1}
    assert storage.glob(f"gs://{bucket}/a/*.bin") == [f"gs://{bucket}/a/x.bin", f"gs://{bucket}/a/y.bin"]
    assert storage.read(f"gs://{bucket}/a/x.bin", 5, 50) == data[5:50]
    assert b"".join(storage.stream(f"gs://{bucket}/a/x.bin")) == data
    with pytest.raises(UserError, match="none: no such file"):
        storage.read(f"gs://{bucket}/a/none")


def test_the_emulator_answers_google_s_client_as_the_store_does(store, bucket):
    """Preconditions, pages, ranges, uploads in pieces, copies and batches."""
    from google.api_core import exceptions
    from google.cloud.storage import Client

    there = Client().bucket(bucket)
    blob = there.blob("a/x")
    blob.upload_from_string(b"0123456789", if_generation_match=0)
    first = blob.generation
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string(b"again", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.delete(if_generation_match=first + 1)
    with pytest.raises(exceptions.NotFound):
        there.blob("a/none").reload()
    assert blob.download_as_bytes(start=2, end=4) == b"234" and blob.download_as_bytes(start=8) == b"89"
    blob.upload_from_string(b"b" * 10, if_generation_match=first)
    assert blob.generation > first and blob.size == 10
    large = there.blob("a/large", chunk_size=1 << 18)
    large.upload_from_string(bytes(range(256)) * 3000)
    assert store.objects[f"{bucket}/a/large"].data == bytes(range(256)) * 3000
    there.copy_blob(blob, there, "b/copied")
    there.blob("b/copy").rewrite(there.blob("b/copied"))
    there.delete_blob("b/copied")
    store.page = 2
    assert [found.name for found in there.list_blobs()] == ["a/large", "a/x", "b/copy"]
    assert [found.name for found in there.list_blobs(start_offset="a/m", end_offset="b/copy")] == ["a/x"]
    listing = there.list_blobs(delimiter="/")
    assert list(listing) == [] and listing.prefixes == {"a/", "b/"}
    with there.client.batch():
        for name in ("a/x", "b/copy"):
            there.blob(name).delete()
    assert store.names(f"{bucket}/") == [f"{bucket}/a/large"]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A tiny run, but for its work dir."""
    cache = tmp_path_factory.mktemp("xla")
    return ("train", "--config", ROOT / "tiny_run.py", f"--config.compilation_cache={cache}", "--config.steps=12", "--workdir")


@pytest.fixture(scope="module")
def whole(store, command):
    """The work dir of one that nobody interrupts."""
    code, _, err = finish(mof(*command, "gs://bucket-whole/runs/tiny"))
    assert code == 0, err
    return "bucket-whole/runs/tiny"


def test_the_whole_work_dir_is_in_the_store(store, whole):
    names = {name.removeprefix(f"{whole}/").split("/")[0] for name in store.names(f"{whole}/")}
    assert names == {"checkpoints", "config.json", "ended.json", "metrics.jsonl", "parameters.txt", "summary.json", "tensorboard"}
    assert open_checkpoint(f"gs://{whole}")[2] == 12


def test_a_run_killed_while_it_saves_goes_on_as_if_it_had_not(store, bucket, whole, command):
    """At the first array of step 8, which stays half-written."""
    workdir = f"{bucket}/runs/tiny"
    started = []
    store.fail("write", f"{workdir}/checkpoints/8/state/.*/d/", status=None, action=lambda _: started[0].kill())
    started.append(mof(*command, f"gs://{workdir}"))
    code, _, err = finish(started[0])
    assert code == -signal.SIGKILL, err
    assert store.names(f"{workdir}/checkpoints/8/") and f"{workdir}/checkpoints/8/manifest.json" not in store.objects
    assert f"{workdir}/checkpoints/4/manifest.json" in store.objects and f"{workdir}/summary.json" not in store.objects
    code, out, err = finish(mof(*command, f"gs://{workdir}"))
    assert code == 0 and "resuming after step 4" in out, err
    ours, theirs = (losses(read_lines(f"gs://{folder}/metrics.jsonl")) for folder in (workdir, whole))
    assert ours == theirs and [line["step"] for line in ours] == list(range(1, 13))
    for name in ("summary.json", "config.json", "parameters.txt"):
        assert store.objects[f"{workdir}/{name}"].data == store.objects[f"{whole}/{name}"].data, name
    prints = [open_checkpoint(f"gs://{folder}")[1]["fingerprints"] for folder in (workdir, whole)]
    assert prints[0] == prints[1]


@pytest.mark.slow
def test_two_hosts_of_which_one_is_killed_while_it_saves(store, bucket, command):
    """Both write arrays; the other one says who is gone, and together they go on."""
    started = []
    store.fail("write", f"{bucket}/killed/checkpoints/8/state/.*/d/", status=None, action=lambda _: started[1].kill())
    shared = (*command[:-1], "--config.mesh.data=1", "--config.mesh.fsdp=-1", command[-1])  # each has its own
    started += start_two(*shared, f"gs://{bucket}/killed")
    assert [finish(process)[0] for process in started] == [79, -signal.SIGKILL]
    for workdir in ("killed", "whole"):
        ends = [finish(process) for process in start_two(*shared, f"gs://{bucket}/{workdir}")]
        assert [code for code, _, _ in ends] == [0, 0], ends
        assert ("resuming after step 4" in ends[0][1]) == (workdir == "killed")
    killed, whole = (losses(read_lines(f"gs://{bucket}/{workdir}/metrics.jsonl")) for workdir in ("killed", "whole"))
    assert killed == whole and [line["step"] for line in killed] == list(range(1, 13))
    for process in (0, 1):
        assert store.names(f"{bucket}/killed/checkpoints/12/state/ocdbt.process_{process}/d/")


def test_a_run_that_may_not_write_ends_with_one_line(store, bucket, command):
    store.fail("write", f"{bucket}/run/checkpoints/8/.*/d/", status=403, times=None)
    code, _, err = finish(mof(*command, f"gs://{bucket}/run"))
    assert code == 1 and err.splitlines()[-1].startswith(f"error: gs://{bucket}/run/checkpoints: saving step 8 failed: ")
    assert err.rstrip().endswith("Forbidden; the checkpoint of step 4 is intact")


def test_a_bucket_that_is_not_there_is_named(store, bucket):
    """At once; and where the plain class of gcsfs lets that pass, by the first file of the run."""
    for kind in ("bucket", "list", "stat", "read", "write", "delete"):
        store.fail(kind, f"^{bucket}", status=404, times=None)
    with pytest.raises(UserError, match=f"^gs://{bucket}/run/checkpoints: no such bucket or object .*: {bucket}"):
        Checkpointer(f"gs://{bucket}/run/checkpoints")
    with pytest.raises(UserError, match=f"^gs://{bucket}/run/config.json: no such file or bucket$"):
        storage.write_atomic(f"gs://{bucket}/run/config.json", [b"{}"])
