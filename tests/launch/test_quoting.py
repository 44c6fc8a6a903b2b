"""Words with anything in them reach the run on a worker as they are, by way of gcloud, ssh, two shells and `timeout`."""

from __future__ import annotations

import pathlib
import re
import subprocess
import time

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
import pytest

from launch import job as jobs
from launch.session import Session
from launch.tpu_vm import TpuVmCloud, secrets_text

HOSTILE = ["", " ", "a b", "  two  spaces ", "'", '"', "$(touch owned)", "`touch owned`", "; touch owned", "&& false", "| cat",
           "\\", "\\n",
           "line\nline", "\n", "\ttab", "*", "~", "!!", "#", "-n", "--", "=", "$HOME", "${PATH}", "%s%n", "é ü 漢字 🙂",
           "\x1b[31m", "'\"'\"'",
           "EOF", "@mof\tx", "\r"]
words = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
                                                    max_size=30))
_ANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(text: str, other: str) -> jobs.Job:
    """What a job refuses by name (patterns in a work dir, a key without a name, a config that is a flag) is left out."""
    key = f"k.{text}".replace("=", "").rstrip(".") if all(text.split(".")) else "k.x"
    return jobs.make({
        "name": "run", "project": "my-project", "zone": "us-central2-b", "topology": "v5e:2x4",
        "workdir": workdir(other),
        "source": {"git": "x", "rev": "r"}, "train": {"config": f"c{text}", "overrides": {"note": other, key: [text, other]}},
        "guard": {"max_hours": 1}, "env": {"ANYTHING": text}, "retry": {"poll_seconds": 0.01}}, "job")


def workdir(text: str) -> str:
    return "gs://bucket/" + re.sub(r"[*?\[]", "", text)


@pytest.fixture
def worker(cloud, launch) -> pathlib.Path:
    """A worker that is set up, by a run of nothing."""
    cloud.plan(record_only=True)
    job = cloud.job()
    for command in ("create", "wait", "setup"):
        assert launch(command, "--job", job)[0] == 0
    return next(cloud.root.glob("machines/*/*"))


@settings(_ANY, max_examples=8)
@given(words, words)
@example("a b'\"$(touch owned)`touch owned`;\n\\ é漢🙂 *", "$HOME && '\n\t~ !! # =")
def test_the_run_gets_the_very_words(cloud, worker, text, other):
    session = Session(make(text, other), say=lambda line: None)
    for name in ("exit", "pid"):
        (worker / ".mof" / "run" / name).unlink(missing_ok=True)
    before = len(cloud.lines("runs.jsonl"))
    session.steps(session.cloud.start(3600))
    end = time.monotonic() + 20
    while not (worker / ".mof" / "run" / "exit").exists() and time.monotonic() < end:
        time.sleep(0.01)
    (run,) = cloud.lines("runs.jsonl")[before:]
    assert run["argv"] == ["train", f"--config=c{text}", f"--workdir={workdir(other)}",
                           *session.job.train_command()[-2:]]
    assert run["env"]["ANYTHING"] == text
    assert not list(cloud.root.rglob("owned"))


@pytest.fixture
def recorder(tmp_path, monkeypatch) -> pathlib.Path:
    """A `gcloud` that writes its words down, NUL between them."""
    programs = tmp_path / "recorder"
    programs.mkdir()
    (programs / "gcloud").write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" >{tmp_path}/words\n")
    (programs / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return tmp_path / "words"


@settings(_ANY, max_examples=25)
@given(words, words)
def test_a_printed_line_says_the_same_when_pasted(recorder, text, other):
    cloud = TpuVmCloud(make(text, other), "s")
    for command in cloud.start(60)[0].commands:
        subprocess.run(["bash", "-c", str(command)], check=True, cwd=recorder.parent)
        assert tuple(recorder.read_bytes().decode().split("\0")[:-1]) == command.argv[1:]


@settings(_ANY, max_examples=30)
@given(words.filter(lambda text: "\r" not in text))
def test_secrets_come_back_from_their_file(text):
    line = secrets_text({"A_TOKEN": text}) + "printenv -0 A_TOKEN"
    found = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert found.decode() == text + "\0"
