"""The workers' script and the lines that are printed: shellcheck, secrets, the workers' own deadline."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WORKER = ROOT / "launch" / "worker.sh"
SECRET = "hf_do-not-show'me $(x)"


@pytest.fixture(scope="module")
def shellcheck() -> str:
    found = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip("shellcheck is not installed (extra `dev`)")
    return found


def test_the_script_passes_shellcheck(shellcheck):
    found = subprocess.run([shellcheck, "--severity=style", str(WORKER)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("changes", [
    {}, {"backend": "gke", "gke": {"cluster": "pod", "location": "us-central1", "image": "i"},
         "secrets": {"HF_TOKEN": "env:HF_TOKEN"}},
    {"source": {"git": None, "rev": None, "wheel": "dist/a b.whl"}, "secrets": {"HF_TOKEN": "env:HF_TOKEN"},
     "train": {"overrides": {"branch_from": "it's $(x) `y`\n\"z\""}}}])
def test_the_printed_lines_pass_shellcheck_and_nothing_runs(shellcheck, cloud, launch, monkeypatch, changes):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    code, text = launch("up", "--dry-run", "--job", cloud.job(**changes))
    assert code == 0 and SECRET not in text and "do-not-show" not in text
    # SC2016: the words for the worker's shell are meant to stay as they are.
    found = subprocess.run([shellcheck, "--shell=bash", "--exclude=SC2016", "-"], input=text, capture_output=True, text=True,
                           check=False)
    assert found.returncode == 0, found.stdout + text
    assert cloud.lines("calls.jsonl") == cloud.lines("kubectl.jsonl") == [] and not (cloud.root / "state").exists()


@pytest.mark.parametrize("command", ["create", "wait", "setup", "preflight", "run", "status", "logs", "stop", "delete", "up"])
def test_every_command_can_be_rehearsed(cloud, launch, command):
    code, text = launch(command, "--dry-run", "--job", cloud.job())
    assert code == 0 and cloud.lines("calls.jsonl") == []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines and all(line.startswith("gcloud compute tpus queued-resources ") for line in lines)


def test_secrets_are_in_no_line_and_no_log(cloud, launch, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    cloud.plan(step_seconds=0.001)
    code, text = launch("up", "--keep", "--job", cloud.job(secrets={
        "HF_TOKEN": "env:MY_TOKEN", "WANDB_API_KEY": "secret-manager:projects/p/secrets/wandb"}))
    assert code == 0, text
    (run,) = cloud.lines("runs.jsonl")
    assert run["env"]["HF_TOKEN"] == SECRET
    assert run["env"]["WANDB_API_KEY"] == "value of projects/p/secrets/wandb/versions/latest"
    shown = text + (cloud.root / "calls.jsonl").read_text() + "".join(p.read_text() for p in cloud.root.rglob("log"))
    assert "do-not-show" not in shown and "value of" not in shown
    (copy,) = cloud.root.glob("machines/*/*/.mof/run/secrets")
    assert copy.stat().st_mode & 0o077 == 0 and not list((cloud.root / "state").glob("*.secrets"))
    assert launch("delete", "--job", cloud.job())[0] == 0


def test_a_secret_that_is_not_set_is_missed_before_anything_is_created(cloud, launch, monkeypatch):
    monkeypatch.delenv("MY_TOKEN", raising=False)
    code, text = launch("up", "--job", cloud.job(secrets={"HF_TOKEN": "env:MY_TOKEN"}))
    assert code == 1 and "MY_TOKEN is not set in this environment" in text and cloud.lines("calls.jsonl") == []


def test_a_wheel_that_is_not_there_is_missed_before_anything_is_created(cloud, launch):
    code, text = launch("up", "--job", cloud.job(source={"git": None, "rev": None, "wheel": "dist/none.whl"}))
    assert code == 1 and "dist/none.whl is not here" in text and cloud.lines("calls.jsonl") == []


def test_a_wheel_and_its_files_are_installed(cloud, launch, tmp_path):
    wheel, configs = tmp_path / "mof-1.whl", tmp_path / "my configs"
    wheel.write_text("")
    configs.mkdir()
    config = (ROOT / "tests/launch/plain.py").read_text()
    (configs / "x.py").write_text(config)
    cloud.plan(step_seconds=0.001)
    code, text = launch("up", "--keep", "--job", cloud.job(source={
        "git": None, "rev": None, "wheel": str(wheel), "files": [str(configs)]}, train={"config": "my configs/x.py"}))
    assert code == 0, text
    (run,) = cloud.lines("runs.jsonl")
    assert (pathlib.Path(run["cwd"]) / "my configs" / "x.py").read_text() == config
    assert cloud.lines("installs.jsonl")[0][-1].endswith("/.mof/run/mof-1.whl[tpu,cloud]")


def call(home: pathlib.Path, *words: str, worker: str = "t1v-n-0-w-0") -> str:
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "MOF_WORKER": worker}
    return subprocess.run(["bash", str(WORKER), *words], env=environment, capture_output=True, text=True, check=True).stdout


def test_workers_give_the_slices_back_if_the_launcher_does_not(cloud, launch, tmp_path):
    assert launch("create", "--job", cloud.job())[0] == 0 and cloud.held() == ["run"]
    call(tmp_path / "b", "guard", "run", "0", "us-central2-b", "my-project", worker="t1v-n-0-w-1")
    assert not (tmp_path / "b" / ".mof" / "run" / "guard").exists()  # one of them is enough
    call(tmp_path / "a", "guard", "run", "0", "us-central2-b", "my-project")
    end = time.monotonic() + 20
    while cloud.held() and time.monotonic() < end:
        time.sleep(0.05)
    assert cloud.held() == []


def test_a_run_that_does_not_listen_is_ended(tmp_path, cloud):
    home = tmp_path / "worker"
    (home / ".mof" / "run" / "repo").mkdir(parents=True)
    command = ["bash", "-c", "trap '' TERM; echo here; while :; do sleep 0.1; done"]
    assert "\trunning\t" in call(home, "start", "run", "600", "--", *command)
    assert "\trunning\t" in call(home, "start", "run", "600", "--", *command)  # once only
    end = time.monotonic() + 20
    while (log := home / ".mof" / "run" / "log").read_text() != "here\n" and time.monotonic() < end:
        time.sleep(0.02)
    assert log.read_text() == "here\n"
    assert re.match(r"@mof\tt1v-n-0-w-0\texited\t137\t", call(home, "stop", "run", "1"))


def test_a_run_that_ends_while_it_is_looked_at_is_not_taken_for_killed(tmp_path, cloud):
    home = tmp_path / "worker"
    (home / ".mof" / "run" / "repo").mkdir(parents=True)
    for _ in range(3):
        call(home, "start", "run", "600", "--", "sleep", "0.2")
        while (said := call(home, "poll", "run").split("\t"))[2] == "running":
            pass
        assert said[2:4] == ["exited", "0"]


def test_the_workers_deadline_is_a_class_of_its_own(tmp_path, cloud):
    home = tmp_path / "worker"
    (home / ".mof" / "run" / "repo").mkdir(parents=True)
    call(home, "start", "run", "0.2", "--", "sleep", "60")
    end = time.monotonic() + 20
    while "\texited\t124\t" not in (said := call(home, "poll", "run")) and time.monotonic() < end:
        time.sleep(0.05)
    assert "\texited\t124\t" in said


def test_sweep_makes_a_job_a_run(cloud, launch, tmp_path):
    runs, out = tmp_path / "runs.jsonl", tmp_path / "jobs"
    runs.write_text('{"id": "LR 3", "overrides": {"steps": 5, "optimizer.lr": 0.001}}\n\n'
                    '{"id": 4, "config": "tests/launch/plain.py"}\n')
    job = cloud.job()
    code, text = launch("sweep", str(runs), "--job", job, "--dry-run")
    assert code == 0 and text.count("queued-resources create run-lr-3 ") == 1 and "gs://bucket/run/4" in text and not out.exists()
    code, text = launch("sweep", str(runs), "--job", job, "--out", str(out))
    assert code == 0 and text.splitlines() == [f"python -m launch up --job {out}/run-lr-3.json",
                                               f"python -m launch up --job {out}/run-4.json"]
    assert json.loads((out / "run-lr-3.json").read_text())["train"] == {
        "config": "tests/launch/plain.py", "overrides": {"steps": 5, "optimizer.lr": 0.001}}
    cloud.plan(step_seconds=0.001)
    code, text = launch("sweep", str(runs), "--job", job, "--out", str(out), "--parallel", "2", "--yes")
    assert code == 0, text + "".join(p.read_text() for p in out.glob("*.log"))
    assert cloud.steps("bucket/run/lr-3") == list(range(1, 6)) and cloud.steps("bucket/run/4") == list(range(1, 21))
    assert cloud.held() == [] and "run-4: done" in text


@pytest.mark.parametrize("line, message", [
    ("{", ":1: "), ('{"id": "a", "overides": {}}', ":1: a run looks like"),
    ('{"id": "a"}\n{"id": "A"}', ":2: a second run called run-a"),
    ('{"id": "?"}', ":1: id '\\?' has no letter"), ("", "no runs"), ('{"id": "' + "x" * 70 + '"}', "63 at most")])
def test_wrong_sweeps_name_the_line(cloud, launch, tmp_path, line, message):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    code, text = launch("sweep", str(tmp_path / "runs.jsonl"), "--job", cloud.job())
    assert code == 1 and re.search(message, text)


def test_the_printed_lines_of_a_secret_make_the_same_file(cloud, launch, monkeypatch):
    """Pasted one by one, up to the copy, they leave what the launcher itself would copy."""
    monkeypatch.setenv("MY_TOKEN", SECRET)
    text = launch("setup", "--dry-run", "--job", cloud.job(secrets={"HF_TOKEN": "env:MY_TOKEN"}))[1]
    lines = [line for line in text.splitlines() if line.startswith(("mkdir ", "(umask"))]
    assert len(lines) == 2 and SECRET not in text
    lines += [f"source {cloud.root}/state/run.secrets", "printenv HF_TOKEN", f"stat -c %a {cloud.root}/state/run.secrets"]
    found = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert found.stdout == SECRET + "\n600\n"
