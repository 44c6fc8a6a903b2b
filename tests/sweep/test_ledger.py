"""The ledger: torn at any byte, written by many, and what its events add up to."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from mof_jax.errors import ExitCode, UserError
from mof_jax.folder_lock import FolderLock
from mof_jax.sweep.kinds import KILLED, KINDS, NO_TRUNK, kind_of
from mof_jax.sweep.ledger import NAME, Ledger
from mof_jax.sweep.table import read_summary


def test_a_line_torn_at_any_byte_counts_for_nothing_and_spoils_nothing(tmp_path):
    whole = Ledger(str(tmp_path / "whole"))
    whole.started("a", 1)
    whole.ended("a", KINDS[0], 2.0)
    before = (tmp_path / "whole" / NAME).read_bytes()
    whole.ended("b", KINDS[ExitCode.NON_FINITE], 1.0, "step 3: the loss is not finite – ∞")
    line = (tmp_path / "whole" / NAME).read_bytes()[len(before):]
    for cut in range(len(line)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / NAME).write_bytes(before + line[:cut])
        ledger = Ledger(str(folder))
        assert ledger.record("a").status == "done"
        assert ledger.record("b").settled == (cut == len(line) - 1), "only its line break is missing"
        ledger.ended("c", KINDS[0], 5.0)
        again = Ledger(str(folder)).read()
        assert again["a"].status == again["c"].status == "done" and again["c"].seconds == 5.0, cut


def test_ends_add_up_by_kind_and_are_final_once_the_retries_are_spent(tmp_path):
    ledger = Ledger(str(tmp_path))
    assert [ledger.ended("a", KILLED, 1.0) for _ in range(4)] == ["again"] * 3 + ["failed"]
    assert ledger.ended("b", KILLED) == "again" and ledger.ended("b", KINDS[ExitCode.HANG]) == "again", "each kind has its own"
    assert ledger.ended("b", KINDS[0], 0.5) == "done"
    record = ledger.record("a")
    assert record.settled and record.ends["killed"] == 4 and record.seconds == 4.0
    ledger.reopen("a")
    assert not ledger.record("a").settled and ledger.record("a").seconds == 4.0
    assert ledger.ended("a", KILLED) == "again"


def test_every_exit_code_has_a_kind():
    assert {code for code in ExitCode} == set(KINDS)
    assert kind_of(-9) is KILLED and kind_of(-15) is KILLED and kind_of(137).name == "crash" and kind_of(1).last == "failed"
    once = {kind.name for kind in (*KINDS.values(), NO_TRUNK) if not kind.retries}
    assert once == {"done", "user error", "not finite", "no trunk"}
    assert [kind.name for kind in KINDS.values() if kind.last == "diverged"] == ["not finite"]


WRITE = "import sys\nfrom mof_jax.sweep.ledger import Ledger\nfrom mof_jax.sweep.kinds import KINDS\n" \
        "ledger = Ledger(sys.argv[1])\nfor i in range(100): ledger.ended(f'{sys.argv[2]}-{i}', KINDS[0], 1.0, 'x' * 200)\n"


def test_processes_append_side_by_side(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path), str(n)]) for n in range(3)]
    assert [writer.wait(60) for writer in writers] == [0] * 3
    assert len(Ledger(str(tmp_path)).read()) == 300
    assert all(json.loads(line) for line in (tmp_path / NAME).read_text().splitlines())


def test_a_claim_lasts_as_long_as_whoever_inherited_it(tmp_path):
    """The parent lets go, the child still runs: nobody else gets it until the child is killed."""
    folder = str(tmp_path / "point")
    lock = FolderLock.take(folder)
    assert FolderLock.take(folder) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd])
    lock.release()
    assert FolderLock.take(folder) is None
    child.kill()
    child.wait()
    again = FolderLock.take(folder)
    assert again is not None and pathlib.Path(folder, "lock").exists()
    again.release()


END = {"id": "a", "event": "end", "kind": "done", "status": "done", "seconds": 2.0, "reason": "", "time": 1.0}


@pytest.mark.parametrize("line", [
    "7", "[]", "[" * 100_000, '{"id": ' + "9" * 5000 + "}", "\xff", *(json.dumps(END | change) for change in (
        {"id": ["b"]}, {"id": None}, {"id": 3}, {"status": "won"}, {"status": []}, {"status": None}, {"kind": {}}, {"kind": None},
        {"seconds": "2"}, {"seconds": True}, {"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": 10**400}, {"reason": 3},
        {"event": ["end"]}, {"event": "end", "id": "b", "seconds": None}))])
def test_a_damaged_line_counts_for_nothing(tmp_path, line):
    good = json.dumps(END)
    (tmp_path / NAME).write_bytes(f"{good}\n{line}\n{json.dumps(END | {'id': 'c'})}\n".encode("latin-1"))
    found = Ledger(str(tmp_path)).read()
    assert {name: (record.status, record.seconds, dict(record.ends)) for name, record in found.items()} == {
        "a": ("done", 2.0, {"done": 1}), "c": ("done", 2.0, {"done": 1})}


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"loss": ' + "9" * 5000 + "}", "\xff"])
def test_a_damaged_summary_is_said(tmp_path, text):
    (tmp_path / "summary.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match="summary.json: .*; delete it, and the run is finished again"):
        read_summary(str(tmp_path))
    (tmp_path / "summary.json").write_text('{"loss": 2.5}')
    assert read_summary(str(tmp_path)) == {"loss": 2.5}
