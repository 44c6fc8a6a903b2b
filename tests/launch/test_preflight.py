"""Checks of the workers, for real: on eight CPU devices here, and on two processes that find each other."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from launch import preflight
from launch.preflight import Check, Wanted

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--megabytes", "1"]


def test_all_is_well_on_eight_devices(tmp_path, capsys):
    code = preflight.main(["--devices", "8", "--workdir", f"file://{tmp_path}/run", "--json", *SMALL])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["ok"]
    checks = {check["name"]: check["found"] for check in found["checks"]}
    assert list(checks) == ["versions", "devices", "bucket", "host to device", "all-reduce", "clock"]
    assert checks["devices"] == "8 × cpu on 1 hosts" and "GB/s a device" in checks["all-reduce"] and "jax " in checks["versions"]
    assert list((tmp_path / "run").iterdir()) == []  # it cleans up


@pytest.mark.parametrize("flags, code, line", [
    (["--devices", "9", "--workdir", "memory://x"], 79,
     "preflight: devices: 8 × cpu on 1 hosts: expected 9: a host is missing"),
    (["--topology", "v5e:2x4", "--workdir", "memory://x"], 1,
     "preflight: devices: 8 × cpu on 1 hosts: expected TPU v5 lite: is libtpu"),
    (["--devices", "8", "--workdir", "file:///proc/none"], 1, "preflight: bucket: "),
    (["--devices", "8", "--workdir", "nosuch://x"], 1, "preflight: bucket: "),
])
def test_a_failing_check_is_one_line_that_says_what_to_do(capsys, flags, code, line):
    assert preflight.main([*flags, *SMALL]) == code
    said = [text for text in capsys.readouterr().out.splitlines() if text.startswith("preflight:")]
    assert len(said) == 1 and said[0].startswith(line)


def test_slow_links_fail(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "wanted", lambda args: Wanted(8, ("cpu",), "memory://x", transfer=1e15, reduce=1e15,
                                                                 megabytes=1))
    assert preflight.main(["--devices", "8", "--workdir", "memory://x"]) == 79
    said = capsys.readouterr().out
    assert said.count("expected at least 1000000.00 GB/s; a new slice") >= 2


def test_versions_must_be_the_same_everywhere():
    here = {"python": "3.12.1", "jax": "0.10.2"}
    assert not preflight.check_versions(["a", "b"], [here, dict(here)]).advice
    found = preflight.check_versions(["a", "b", "c"], [here, here, {**here, "jax": "0.10.1"}])
    assert found.found == "jax: a 0.10.2, c 0.10.1" and "source.rev" in found.advice


class _Store:
    """A store whose clock is off."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def modified(self, path: str):
        import datetime

        return datetime.datetime.fromtimestamp(1000 + self.seconds, datetime.UTC)


@pytest.mark.parametrize("offset, skew", [(0.5, 0.0), (-30.0, -30.0), (31.0, 30.0)])
def test_the_buckets_clock(offset, skew):
    assert preflight._bucket_skew(_Store(offset), "x", 1000.0, 1001.0) == skew
    check = preflight.check_clock(Wanted(8, ("cpu",), "x"), ["here"], skew)
    assert bool(check.advice) == (abs(skew) > 5) and check.host == bool(check.advice)


def test_codes():
    good, host, mine = Check("a", ""), Check("b", "", "new", host=True), Check("c", "", "mend")
    assert [preflight.verdict(c) for c in ([good], [good, host], [host, mine], [mine])] == [0, 79, 1, 1]


@pytest.mark.parametrize("devices, code", [(8, "ran"), (9, 79)])
def test_then_runs_only_if_all_is_well(tmp_path, monkeypatch, devices, code):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    argv = ["--devices", str(devices), "--workdir", f"file://{tmp_path}", *SMALL, "--then", "mof", "train", "--config=a b"]
    ran = []
    found = preflight.main(argv, execute=lambda file, words: ran.append((file, words)) or "ran")
    assert found == code and ran == ([("mof", ["mof", "train", "--config=a b"])] if code == "ran" else [])


def test_two_processes_check_each_other(tmp_path):
    """Both must be there; both come to the same verdict, one prints it."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    flags = ["--devices", "4", "--workdir", f"file://{tmp_path}", "--json", *SMALL, "--coordinator", f"localhost:{port}",
             "--processes", "2"]
    started = [subprocess.Popen([sys.executable, "-m", "launch.preflight", *flags, "--process-id", str(i)], env=environment,
                                cwd=ROOT,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]
    answers = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], answers
    first, second = ([line for line in out.splitlines() if line.startswith("{")] for out, _ in answers)
    assert len(first) == 1 and second == [] and "4 × cpu on 2 hosts" in json.loads(first[0])["checks"][1]["found"]
