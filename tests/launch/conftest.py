"""A cloud in a folder: fake `gcloud`, `kubectl` and `uv` first on the PATH, a repository to install, job files."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


class Cloud:
    """The folder of one test. `plan` says how the fakes behave; all that they got is written down there."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def plan(self, **values: Any) -> None:
        """Hosts a slice, looks until it is there (`waits`), errors of each create, steps at which each slice is taken
        (`preempt_at`), how each start of the run ends (`run_ends`), ssh calls in which workers are out of reach …"""
        (self.root / "plan.json").write_text(json.dumps(values))

    def lines(self, name: str) -> list[Any]:
        """A file of JSON lines that a fake wrote."""
        path = self.root / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """The verbs of all `gcloud compute tpus queued-resources` calls."""
        return [argv[3] for argv in self.lines("calls.jsonl") if argv[:2] == ["compute", "tpus"]]

    def held(self) -> list[str]:
        """Queued resources that are still there."""
        path = self.root / "state.json"
        return list(json.loads(path.read_text())["queued"]) if path.exists() else []

    def steps(self, run: str = "bucket/run") -> list[int]:
        """Steps in the run's metrics."""
        return [line["step"] for line in self.lines(f"bucket/{run}/metrics.jsonl")]

    def job(self, **changes: Any) -> str:
        """A job file; `changes` go over its content, sections key by key."""
        values: dict[str, Any] = {
            "name": "run", "project": "my-project", "zone": "us-central2-b", "topology": "v5e:2x4", "capacity": "spot",
            "workdir": "gs://bucket/run", "source": {"git": f"file://{self.root / 'origin'}", "rev": "main"},
            "train": {"config": "tests/launch/plain.py", "overrides": {"steps": 20}},
            "guard": {"max_hours": 1.0, "price_per_chip_hour": 0.5, "confirm": False},
            "retry": {"poll_seconds": 0.05, "backoff_seconds": 0.05, "patience_minutes": 0.005, "save_seconds": 5}}
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        path = self.root / "job.json"
        path.write_text(json.dumps(values))
        return str(path)

    def launch(self, *words: str) -> subprocess.Popen:
        """`python -m launch …` as a process of its own."""
        return subprocess.Popen([sys.executable, "-m", "launch", *words, "--state", str(self.root / "state")], text=True,
                                cwd=ROOT,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A git repository with one commit."""
    folder = tmp_path_factory.mktemp("origin")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet", "-b", "main", str(folder)], check=True)
    (folder / "setup.py").write_text("")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    return folder


@pytest.fixture
def cloud(tmp_path: pathlib.Path, origin: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A fresh cloud; whatever still runs on its machines ends with the test."""
    root = tmp_path / "cloud"
    root.mkdir()
    (root / "origin").symlink_to(origin)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gcloud", "kubectl", "uv"):
        (programs / name).write_text(f'#!/bin/bash\nexec {sys.executable} -E -s -S {HERE / f"fake_{name}.py"} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_CLOUD", str(root))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = Cloud(root)
    found.plan()
    yield found
    for pid in (*root.glob("machines/*/*/.mof/*/pid"), *root.glob("machines/*/*/.mof/*/guard"), *root.glob("pods/*/pid")):
        subprocess.run(["pkill", "-KILL", "--session", pid.read_text().strip()], check=False)


@pytest.fixture
def launch(cloud: Cloud, capsys: pytest.CaptureFixture):
    """Runs a command here; gives exit code and all that it printed."""
    from launch.cli import main

    def call(*words: str) -> tuple[int, str]:
        code = main([*words, "--state", str(cloud.root / "state")])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call
