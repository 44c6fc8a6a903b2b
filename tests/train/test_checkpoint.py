"""Checkpoints: what is saved comes back bit for bit on any mesh; what is damaged is noticed and passed over."""

from __future__ import annotations

import functools
import gc
import pathlib
import shutil
import weakref

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from mof_jax.train.checkpoint.fingerprints import fingerprints
from mof_jax.train.checkpoint.streamer import Later, Streamer
from mof_jax.train.state import TrainState


def state(seed: int, mesh=None, spec=P()) -> TrainState:
    rng = np.random.default_rng(seed)
    put = lambda x: jnp.asarray(x) if mesh is None else jax.device_put(x, NamedSharding(mesh, spec if np.ndim(x) else P()))
    params = {"image/kernel": put(rng.standard_normal((16, 24)).astype(np.float32)), "logit_scale": put(np.float32(2.5))}
    frozen = {"text/kernel": put(rng.standard_normal((8, 8)).astype(np.float32))}
    return TrainState(put(np.int32(seed)), params, frozen, {"mu": {k: v * 2 for k, v in params.items()}},
                      {k: v + 1 for k, v in params.items()}, put(np.int32(-1)))


def abstract(like: TrainState):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture
def saved(tmp_path) -> Checkpointer:
    """Steps 1, 2 and 3 on disk."""
    checkpointer = Checkpointer(str(tmp_path / "c"), CheckpointConfig(keep=5))
    for step in (1, 2, 3):
        checkpointer.save(step, state(step), {"note": f"step {step}"})
    checkpointer.wait()
    return checkpointer


def test_round_trip(saved):
    restored, meta = saved.restore(abstract(state(0)))
    assert equal(restored, state(3))
    assert meta["note"] == "step 3" and meta["step"] == 3


def test_keep_policy(tmp_path):
    checkpointer = Checkpointer(str(tmp_path), CheckpointConfig(keep=2, keep_every=4))
    for step in range(1, 8):
        checkpointer.save(step, state(step), {})
    checkpointer.wait()
    assert checkpointer.steps() == [7, 6, 4]


def test_what_a_signal_had_saved_takes_no_place_of_the_rhythms(tmp_path):
    checkpointer = Checkpointer(str(tmp_path), CheckpointConfig(every=4, keep=2))
    for step in (4, 8, 9, 10, 12, 13, 14, 15):
        checkpointer.save(step, state(step), {})
    checkpointer.wait()
    assert checkpointer.steps() == [15, 14, 12, 8]
    assert checkpointer.newest(lambda step: step % 4 == 0) == 12
    checkpointer.drop_after(12)
    assert checkpointer.steps() == [12, 8] and checkpointer.newest() == 12


def test_another_mesh(tmp_path):
    first, second = make_mesh(MeshConfig(data=2, fsdp=4)), make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    checkpointer = Checkpointer(str(tmp_path))
    checkpointer.save(1, state(1, first, P("fsdp")), {})
    checkpointer.wait()
    restored, _ = checkpointer.restore(abstract(state(0, second, P("tensor", "fsdp"))))
    assert equal(restored, state(1))
    assert restored.params["image/kernel"].sharding.spec == P("tensor", "fsdp")


def test_fingerprints_do_not_depend_on_the_mesh_and_notice_any_bit():
    mesh = make_mesh(MeshConfig(fsdp=8, data=1))
    plain, sharded = fingerprints(state(1)), fingerprints(state(1, mesh, P("fsdp")))
    assert {k: int(v) for k, v in plain.items()} == {k: int(v) for k, v in sharded.items()}
    bits = np.asarray(state(1).params["image/kernel"]).view(np.uint32)
    for bit in (0, 13, 31):
        flipped = bits.copy()
        flipped[7, 11] ^= np.uint32(1 << bit)
        a, b = (int(fingerprints({"x": jnp.asarray(x.view(np.float32))})["x"]) for x in (bits, flipped))
        assert a != b
    swapped = bits[::-1].copy()
    assert int(fingerprints({"x": jnp.asarray(bits)})["x"]) != int(fingerprints({"x": jnp.asarray(swapped)})["x"])


def data_files(checkpointer: Checkpointer, step: int) -> list[pathlib.Path]:
    root = pathlib.Path(checkpointer.directory) / str(step) / "state"
    return sorted((p for p in root.rglob("*") if p.is_file() and p.parent.name == "d"), key=lambda p: -p.stat().st_size)


def test_a_flipped_byte_is_noticed(saved, caplog):
    """Wherever it is: each data file in turn, at several places."""
    path = data_files(saved, 3)[0]
    clean = path.read_bytes()
    for at in np.linspace(0, len(clean) - 1, 9).astype(int):
        path.write_bytes(clean[:at] + bytes([clean[at] ^ 0x10]) + clean[at + 1:])
        restored, meta = saved.restore(abstract(state(0)))
        assert equal(restored, state(meta["step"])), f"byte {at}"
    path.write_bytes(clean)
    assert saved.restore(abstract(state(0)))[1]["step"] == 3


def test_truncated_and_empty_steps_are_passed_over(saved, caplog):
    path = data_files(saved, 3)[0]
    path.write_bytes(path.read_bytes()[:10])
    (pathlib.Path(saved.directory) / "50").mkdir()
    restored, meta = saved.restore(abstract(state(0)))
    assert meta["step"] == 2 and equal(restored, state(2))
    assert "passed over" in caplog.text


def test_nothing_verifies(saved):
    for step in (1, 2, 3):
        for path in data_files(saved, step):
            path.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint verifies"):
        saved.restore(abstract(state(0)))


def test_another_model_is_refused_by_name(saved):
    like = state(0)
    like.params["image/kernel"] = jnp.zeros((16, 25))
    with pytest.raises(UserError, match=r"params:image/kernel is float32\[16, 24\] in the checkpoint and float32\[16, 25\]"):
        saved.restore(abstract(like))
    like.params["image/kernel"] = jnp.zeros((16, 24), jnp.bfloat16)
    with pytest.raises(UserError, match="bfloat16"):
        saved.restore(abstract(like))


def test_parameters_alone(saved):
    params = saved.restore_params(2)
    assert equal(params, {**state(2).frozen, **state(2).params})
    averaged = saved.restore_params(2, ema=True)
    assert np.array_equal(averaged["logit_scale"], state(2).ema["logit_scale"])
    assert np.array_equal(averaged["text/kernel"], state(2).frozen["text/kernel"])


def test_a_reader_beside_the_writer(saved):
    reader = Checkpointer(saved.directory, read_only=True)
    assert reader.steps() == [3, 2, 1]
    saved.save(4, state(4), {})
    saved.wait()
    assert reader.steps()[0] == 4
    with pytest.raises(UserError, match="no such checkpoint directory"):
        Checkpointer(saved.directory + "x", read_only=True)


def test_a_full_disk_leaves_the_last_checkpoint(saved, monkeypatch):
    """The writer fails with ENOSPC, as on a full disk (a real one is tried in `test_a_really_full_disk`)."""
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved._manager, "save", full)
    with pytest.raises(UserError, match="saving step 4 failed: no space left on the disk; the checkpoint of step 3 is intact"):
        saved.save(4, state(4), {})
    monkeypatch.undo()
    assert equal(saved.restore(abstract(state(0)))[0], state(3))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where the system lets us have one."""
    import subprocess

    target = tmp_path / "small"
    target.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(target)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs privileges")
    yield target
    subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize("free", [0, 8192], ids=["nothing free", "a little free"])  # Orbax fails in different places
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_really_full_disk(small_disk, asynchronous, free):
    checkpointer = Checkpointer(str(small_disk / "c"), CheckpointConfig(keep=5, asynchronous=asynchronous))
    checkpointer.save(1, state(1), {})
    checkpointer.wait()
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - free))
    with pytest.raises(UserError, match="saving step 2 failed: no space left on the disk; the checkpoint of step 1 is intact"):
        big = state(2)
        big.params["image/kernel"] = jnp.asarray(np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32))
        checkpointer.save(2, big, {})
        checkpointer.wait()
    assert equal(checkpointer.restore(abstract(state(0)))[0], state(1))


def later(arrays: dict[str, np.ndarray], live: list | None = None) -> dict[str, Later]:
    """Leaves that note how many of the arrays handed out before are still held when one is read."""
    given = []

    def read(name):
        gc.collect()
        if live is not None:
            live.append(sum(alive() is not None for alive in given))
        x = arrays[name].copy()
        given.append(weakref.ref(x))
        return x

    return {name: Later(x.shape, x.dtype, functools.partial(read, name)) for name, x in arrays.items()}


def test_a_streamed_state_is_one_like_any_other(tmp_path):
    """Restored onto a mesh, whole and in parts, and verified; and no two leaves are held while the next is read."""
    rng = np.random.default_rng(0)
    arrays = {f"layer/{i}": rng.standard_normal((16, 8 + i)).astype(np.float32) for i in range(5)}
    live: list[int] = []
    Streamer(str(tmp_path / "c")).save(0, {"params": later(arrays, live), "frozen": {}}, {"note": "streamed"})
    checkpointer = Checkpointer(str(tmp_path / "c"))
    assert len(live) == 5 and max(live) <= 1, "the one before may still be on its way to the disk"
    assert checkpointer.steps() == [0] and checkpointer.meta(0)["note"] == "streamed"
    mesh = make_mesh(MeshConfig(fsdp=4, data=2))
    rows = {name: NamedSharding(mesh, P("fsdp")) for name in arrays}
    for got in (checkpointer.restore_params(0), checkpointer.restore_params(0, rows)):
        assert all(np.array_equal(got[name], x) for name, x in arrays.items())
    assert got["layer/0"].sharding == rows["layer/0"]
    whole = {"params": {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows[k]) for k, x in arrays.items()}, "frozen": {}}
    assert equal(checkpointer.restore(whole)[0]["params"], arrays)
    plain = Checkpointer(str(tmp_path / "plain"), CheckpointConfig(asynchronous=False))
    plain.save(0, {"params": {name: jnp.asarray(x) for name, x in arrays.items()}, "frozen": {}}, {"note": "streamed"})
    assert plain.meta(0) == checkpointer.meta(0)


def test_a_streamed_state_that_cannot_be_read_to_its_end_is_no_checkpoint(tmp_path):
    leaves = later({"a": np.ones(3, np.float32)}) | {"b": Later((3,), np.dtype("float32"), lambda: 1 / 0)}
    checkpointer = Streamer(str(tmp_path / "c"))
    with pytest.raises(ZeroDivisionError):
        checkpointer.save(0, {"params": leaves, "frozen": {}}, {})
    assert checkpointer.steps() == []
