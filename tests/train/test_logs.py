"""What a run has written is read back as far as it is whole, and a disk that takes no more ends a run in one line."""

import json
import logging
import os

import pytest

from mof_jax.errors import UserError
from mof_jax.jsonl import JsonLines, read_lines
from mof_jax.train.metrics import TensorBoard
from mof_jax.train.reliability import goodput
from mof_jax.train.reliability.watchdog import Watchdog, WatchdogConfig

LINES = [{"step": n, "loss": float(n), "seconds": {"step": 1.0 * n, "start": 2.0}, "unix_time": 100.0 + n} for n in (1, 2, 3, 4)]
DAMAGED = ["7", "[]", "null", '"x"', '{"step": "2"}', '{"step": -1}', '{"step": 1.5}', '{"step": 2, "lo', "[" * 50_000,
           '{"step": ' + "9" * 5000 + "}", "\xff\xfe", '{"step": 2, "step": 3}']


@pytest.fixture
def log(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, *texts):
    path.write_bytes("".join(texts).encode("latin-1"))


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_line_is_said_and_kept_and_what_stands_behind_it_counts(log, damaged, caplog):
    whole = [json.dumps(line) + "\n" for line in LINES]
    write(log, *whole[:2], damaged + "\n", *whole[2:])
    with caplog.at_level(logging.WARNING):
        assert read_lines(str(log)) == LINES
    assert "metrics.jsonl line 3 is damaged" in caplog.text
    lines = JsonLines(str(log), keep_until=3)
    lines.write({"step": 4, "loss": 0.0})
    assert log.read_bytes().decode("latin-1") == "".join([*whole[:2], damaged + "\n", whole[2], '{"step": 4, "loss": 0.0}\n'])


def test_a_line_that_a_kill_cut_off_is_dropped_without_a_word(log, caplog):
    write(log, json.dumps(LINES[0]) + "\n", json.dumps(LINES[1])[:20])
    assert read_lines(str(log)) == LINES[:1] and not caplog.text
    JsonLines(str(log), keep_until=9).write(LINES[1])
    assert read_lines(str(log)) == LINES[:2]


def test_a_line_separator_inside_a_text_is_no_end_of_a_line(log):
    write(log, json.dumps({"step": 1, "name": "x"}) + "\n")
    with open(log, "a", encoding="utf-8") as f:
        f.write('{"step": 2, "name": "a\u2028b\x85c"}\n')
    assert [line["name"] for line in read_lines(str(log))] == ["x", "a\u2028b\x85c"]


@pytest.mark.parametrize("change", [
    {"seconds": None}, {"seconds": 3}, {"seconds": {"step": "1"}}, {"seconds": {"step": 10**400}}, {"seconds": []},
    {"unix_time": "now"}, {"unix_time": None}, {"unix_time": [1]}, {"seconds": {"step": float("nan")}},
    {"seconds": {"other": 2.0}}, {"seconds": {"step": -5.0}}])
def test_a_ledger_that_is_none_costs_its_line_only(log, change):
    write(log, *(json.dumps(line) + "\n" for line in [*LINES[:3], LINES[3] | change]))
    ledger = goodput.Ledger(goodput.lines(str(log.parent)), start=4)
    found = ledger.read()
    assert found["step"] >= 3.0 and all(isinstance(x, float) for x in found.values())
    assert goodput.read(str(log.parent))


@pytest.mark.parametrize("word", [
    "7", "{", '{"step": 4}', '{"step": "4", "seconds": {"step": 1}, "unix_time": 1}', "[" * 50_000,
    '{"step": 4, "seconds": [], "unix_time": 1}', '{"step": 4, "seconds": {"step": 1}, "unix_time": {}}'])
def test_a_word_that_cannot_be_read_is_as_good_as_none(log, word):
    write(log, *(json.dumps(line) + "\n" for line in LINES))
    (log.parent / goodput.ENDED).write_text(word)
    assert goodput.lines(str(log.parent)) == LINES


full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full: Linux")


@full
def test_a_full_disk_is_one_line(tmp_path):
    lines = JsonLines(str(tmp_path / "metrics.jsonl"))
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="metrics.jsonl: no space left on the disk"):
        lines.write({"step": 1})


def test_without_tensorboard_a_run_goes_on(tmp_path, caplog):
    """Its own writer waits for ever behind a thread that a full disk has ended."""
    (tmp_path / "file").write_text("")
    board = TensorBoard(str(tmp_path / "file" / "tensorboard"))
    for step in range(50):
        board.write(step, {"loss": 1.0})
    board.close()
    assert caplog.text.count("the run goes on without TensorBoard") == 1


def test_tensorboard_reads_what_is_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format below is its own)

    board = TensorBoard(str(tmp_path))
    board.write(3, {"loss": 0.5, "step": 3, "name": "x", "mfu": None})
    board.close()
    data, found = next(tmp_path.glob("events.out.tfevents.*")).read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12:12 + size]))
        data = data[16 + size:]
    assert [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value] == [(3, "train/loss", 0.5)]


def test_a_watchdog_that_stood_still_itself_counts_nothing(monkeypatch, tmp_path):
    """SIGSTOP, a machine that sleeps or is moved: the clock went on, the run did not."""
    dog = Watchdog(WatchdogConfig(least_s=1.0, dump=2.0, exit=4.0), str(tmp_path))
    clock = iter([0.0, 500.0, 500.1, 500.1])
    waits = iter([False, True])
    monkeypatch.setattr("mof_jax.train.reliability.watchdog.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(dog._over, "wait", lambda _: next(waits))
    monkeypatch.setattr("mof_jax.train.reliability.watchdog.os._exit", lambda code: pytest.fail("it gave up on a healthy run"))
    dog._since = 0.0
    dog._watch()
    assert 499 <= dog._since <= 500 and not list(tmp_path.iterdir())
