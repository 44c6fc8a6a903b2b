"""Every file of a checkpoint, damaged in every way: noticed, said, and the newest intact step taken instead."""

from __future__ import annotations

import os
import pathlib
import shutil

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest
from test_checkpoint import abstract, equal, state

from mof_jax.errors import UserError
from mof_jax.train.checkpoint import manifest
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from mof_jax.train.start import open_checkpoint


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> pathlib.Path:
    """A work dir with steps 1 and 2, not to be touched."""
    workdir = tmp_path_factory.mktemp("clean")
    checkpointer = Checkpointer(str(workdir / "checkpoints"), CheckpointConfig(keep=5))
    for step in (1, 2):
        checkpointer.save(step, state(step), {"note": "é" * 40})
    checkpointer.close()
    return workdir


@pytest.fixture
def copy(clean, tmp_path) -> pathlib.Path:
    """One to damage."""
    return shutil.copytree(clean, tmp_path / "copy")


def files(workdir: pathlib.Path, step: int = 2) -> list[pathlib.Path]:
    return sorted(path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file())


def falls_back(workdir: pathlib.Path, caplog) -> str:
    """Step 1 is restored, bit for bit, by training and by evaluation alike; the line that says why."""
    caplog.clear()
    checkpointer = Checkpointer(str(workdir / "checkpoints"))
    restored, meta = checkpointer.restore(abstract(state(0)))
    assert meta["step"] == 1 and equal(restored, state(1))
    assert open_checkpoint(str(workdir))[2] == 1
    said = next(line for line in caplog.messages if "checkpoints/2 passed over: " in line)
    return said.partition("passed over: ")[2]


def test_the_manifest_names_every_file(clean):
    named = manifest.read(str(clean / "checkpoints" / "2"))["files"]
    assert {str(path.relative_to(clean / "checkpoints" / "2")) for path in files(clean)} == {*named, "manifest.json"}
    assert any("/d/" in name for name in named) and "meta/metadata" in named


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_noticed(copy, data):
    path = data.draw(st.sampled_from(files(copy)))
    good = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1:])
    try:
        assert Checkpointer(str(copy / "checkpoints"), read_only=True).newest() == 1
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("harm", ["flip", "cut", "lengthen", "empty", "remove"])
def test_each_file_harmed_in_turn(copy, harm, caplog):
    """For every one the step is passed over; for one with arrays and one without, both ways of restoring are gone through."""
    for path in files(copy):
        good = path.read_bytes()
        if harm == "remove":
            path.unlink()
        else:
            middle = len(good) // 2
            path.write_bytes({"flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1:], "cut": good[:middle],
                              "lengthen": good + b"\0", "empty": b""}[harm])
        caplog.clear()
        assert Checkpointer(str(copy / "checkpoints"), read_only=True).newest() == 1, path
        assert "passed over" in caplog.text
        if path.name in ("metadata", "manifest.json") or path == max(files(copy), key=lambda p: p.stat().st_size):
            assert falls_back(copy, caplog)
        path.write_bytes(good)
    assert Checkpointer(str(copy / "checkpoints"), read_only=True).newest() == 2


@pytest.mark.parametrize("gone", ["state", "meta", "state/d", "."])
def test_a_missing_part(copy, gone, caplog):
    folder = copy / "checkpoints" / "2"
    shutil.rmtree(folder / gone)
    folder.mkdir(exist_ok=True)
    said = falls_back(copy, caplog)
    assert "is missing" in said if gone == "state/d" else "not complete" in said


def test_a_half_written_step_is_none_and_its_number_can_be_had_again(copy, caplog):
    """A kill after the last array and before the manifest, and another that left an empty folder of a later step."""
    (copy / "checkpoints" / "2" / "manifest.json").unlink()
    (copy / "checkpoints" / "50").mkdir()
    falls_back_to = Checkpointer(str(copy / "checkpoints"), CheckpointConfig(keep=1))
    assert falls_back_to.newest() == 1
    for step in (2, 50):
        falls_back_to.save(step, state(step), {})
        falls_back_to.wait()
        assert falls_back_to.steps() == [step], "the policy counts whole steps only"
    assert equal(falls_back_to.restore(abstract(state(0)))[0], state(50))


def test_damaged_and_empty_steps_do_not_push_out_a_whole_one(copy):
    """keep=1: Orbax itself would keep the empty folder 50 and delete what was just saved."""
    (copy / "checkpoints" / "50").mkdir()
    checkpointer = Checkpointer(str(copy / "checkpoints"), CheckpointConfig(keep=1))
    checkpointer.save(3, state(3), {})
    checkpointer.wait()
    assert checkpointer.steps() == [3] and checkpointer.newest() == 3


def test_a_step_asked_for_by_number_is_refused_if_damaged(copy):
    path = copy / "checkpoints" / "2" / "meta" / "metadata"
    path.write_bytes(path.read_bytes().replace(b'"step"', b'"stop"'))
    with pytest.raises(UserError, match=r"checkpoints/2: meta/metadata differs from what was written; take another step"):
        open_checkpoint(f"{copy}/checkpoints/2")
    assert open_checkpoint(f"{copy}/checkpoints/1")[2] == 1


def test_a_checkpoint_of_the_first_schema_still_opens(copy):
    """Those had no manifest; their fingerprints have to do."""
    for step in (1, 2):
        meta = copy / "checkpoints" / str(step) / "meta" / "metadata"
        meta.write_text(meta.read_text().replace('"schema": 2', '"schema": 1').replace('"schema":2', '"schema":1'))
        os.unlink(copy / "checkpoints" / str(step) / "manifest.json")
    checkpointer = Checkpointer(str(copy / "checkpoints"))
    assert checkpointer.newest() == 2 and equal(checkpointer.restore(abstract(state(0)))[0], state(2))


@pytest.mark.parametrize("meta", [
    b"", b"7", b"[]", b"{", b"\xff", b"[" * 50_000, b"9" * 5000, b'{"schema": 2}', b'{"schema": "2"}',
    b'{"schema": -1, "leaves": {}}', b'{"schema": 2, "leaves": {"params:a": 3}, "fingerprints": {}}',
    b'{"schema": 2, "leaves": {"a": [["x"], "float32"]}}', b'{"schema": 2, "leaves": {"a": [[2], "1e+22"]}, "fingerprints": {}}',
    b'{"schema": 2, "leaves": {}, "fingerprints": []}', b'{"schema": 2, "leaves": {}, "fingerprints": {"params:a": "1"}}',
    b'{"schema": 2, "leaves": {"a": [[-1], "int8"]}}', b'{"schema": 2, "config": [], "leaves": {}, "fingerprints": {}}'])
def test_a_meta_that_is_none_sealed_again_is_passed_over(copy, meta, caplog):
    """The checksums hold: who seals after an edit vouches for it. What a reader makes of it is a line all the same."""
    folder = copy / "checkpoints" / "2"
    (folder / "meta" / "metadata").write_bytes(meta)
    os.unlink(folder / "manifest.json")
    manifest.write(str(folder), 2)
    assert "meta" in falls_back(copy, caplog)
    with pytest.raises(UserError, match="checkpoints/2: .*meta.*take another step"):
        open_checkpoint(f"{folder}")


def test_leaves_that_the_arrays_lack_are_a_line(copy):
    folder = copy / "checkpoints" / "2"
    path = folder / "meta" / "metadata"
    path.write_text(path.read_text().replace('"fingerprints": {', '"fingerprints": {"params:zz": 1, ').replace(
        '"leaves": {', '"leaves": {"params:zz": [[3], "float32"], '))
    os.unlink(folder / "manifest.json")
    manifest.write(str(folder), 2)
    reader, _, step = open_checkpoint(str(copy))
    with pytest.raises(UserError, match="checkpoints/2: zz is named in its meta, and there is no such array"):
        reader.restore_params(step)


def test_what_orbax_has_not_joined_is_not_sealed(copy):
    """A seal means that a restore works."""
    from etils import epath

    from mof_jax.train.checkpoint.checkpointer import _check_merged

    state = copy / "checkpoints" / "2" / "state"
    _check_merged(epath.Path(state))
    (state / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="no manifest.ocdbt there; it could not be restored, and is not sealed"):
        _check_merged(epath.Path(state))
