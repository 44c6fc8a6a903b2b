"""Whole lives of jobs on TPU VMs, against a `gcloud` that runs the workers here."""

from __future__ import annotations

import re
import signal
import time

import pytest


def test_create_preempted_recreated_resumed_deleted(cloud, launch):
    cloud.plan(preempt_at=[7], step_seconds=0.03)
    code, text = launch("up", "--job", cloud.job())
    assert code == 0, text
    assert cloud.steps() == list(range(1, 21))  # none lost, none repeated
    assert cloud.lines("starts.jsonl")[0] == 0 and cloud.lines("starts.jsonl")[1] >= 5  # the second began at a checkpoint
    verbs = [verb for verb in cloud.verbs() if verb in ("create", "delete")]
    assert verbs == ["create", "delete", "create", "delete"] and cloud.held() == []
    assert "run: preempted: the slices were taken away (SUSPENDED): a new slice in 0 s, attempt 2 of 5" in text
    assert "the slices are given back" in text


def test_a_run_that_saved_and_left_is_resumed_elsewhere(cloud, launch):
    cloud.plan(run_ends=[{"at": 6, "code": 75, "log": "saved"}], step_seconds=0.001)
    code, text = launch("up", "--job", cloud.job())
    assert code == 0, text
    assert cloud.steps() == list(range(1, 21)) and cloud.lines("starts.jsonl") == [0, 5]
    assert "run: preempted: t1v-n-0-w-0 ended with 75: saved: a new slice in 0 s" in text and cloud.verbs().count("create") == 2


def test_hosts_that_are_not_there_are_missed(cloud, launch):
    cloud.plan(hosts=2)  # of the four that a 4x4 slice has
    code, text = launch("up", "--job", cloud.job(topology="v5e:4x4", retry={"attempts": 1, "patience_minutes": 0.002}))
    assert code == 79 and cloud.held() == []
    assert "2 of 4 workers answered (t1v-n-0-w-0, t1v-n-0-w-1)" in text


def test_four_hosts_run_the_same_words(cloud, launch):
    cloud.plan(hosts=4)
    code, text = launch("up", "--job", cloud.job(topology="v5e:4x4", retry={"patience_minutes": 0.5}))
    assert code == 0, text
    runs = cloud.lines("runs.jsonl")
    assert len(runs) == 4 and len({run["worker"] for run in runs}) == 4
    assert {tuple(run["argv"]) for run in runs} == {(
        "train", "--config=tests/launch/plain.py", "--workdir=gs://bucket/run", "--distributed", "--config.steps=20")}
    assert cloud.steps() == list(range(1, 21)) and cloud.held() == []


def test_slices_get_the_flags_of_their_topology(cloud, launch):
    cloud.plan(hosts=1)
    launch("up", "--job", cloud.job(topology="2*v6e:2x4", capacity="reserved", retry={"patience_minutes": 0.5}))
    create = next(argv for argv in cloud.lines("calls.jsonl") if argv[3] == "create")
    assert set(create[5:]) == {"--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e", "--node-count=2",
                               "--node-prefix=run",
                               "--reserved", "--valid-until-duration=86400s", "--zone=us-central2-b", "--project=my-project",
                               "--quiet"}
    assert {run["worker"] for run in cloud.lines("runs.jsonl")} == {"t1v-n-0-w-0", "t1v-n-1-w-0"}


def test_one_worker_out_of_reach_for_a_while(cloud, launch):
    """ssh fails on worker 2 while the run goes on: said once, then forgotten. Call 7 is the first poll."""
    cloud.plan(hosts=4, ssh_broken=[[2, 7, 7]], step_seconds=0.05)
    code, text = launch("up", "--job", cloud.job(topology="v5e:4x4", retry={"patience_minutes": 0.5}))
    assert code == 0, text
    assert text.count("worker 2 failed with exit status 255") == 1 and cloud.verbs().count("create") == 1


def test_unknown_endings_are_run_again_on_the_same_slice(cloud, launch):
    cloud.plan(run_ends=[{"at": 8, "code": 42}], step_seconds=0.001)
    code, text = launch("up", "--job", cloud.job())
    assert code == 0 and cloud.verbs().count("create") == 1 and "once more in" in text
    assert cloud.lines("starts.jsonl") == [0, 5] and cloud.steps() == list(range(1, 21))


def test_policy_of_the_job_goes_first(cloud, launch):
    cloud.plan(run_ends=[{"at": 8, "code": 78}], step_seconds=0.001)
    code, text = launch("up", "--job", cloud.job(retry={"policy": {"oom": "recreate"}}))
    assert code == 0 and cloud.verbs().count("create") == 2


def test_the_deadline_saves_and_tears_down(cloud, launch):
    cloud.plan(step_seconds=0.05)
    code, text = launch("up", "--job", cloud.job(train={"overrides": {"steps": 10000}},
                                                 guard={"max_hours": 5 / 3600, "max_dollars": 100.0}))
    assert code == 75 and cloud.held() == []
    assert re.search(r"run: deadline: slices were held for [5-9] s, about \$0\.01, the most that \[guard\] allows", text)
    assert cloud.steps()[-1] == cloud.lines("bucket/bucket/run/checkpoint.json")[0]["step"]  # it saved where it was


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_tears_down(cloud, number):
    cloud.plan(step_seconds=0.05)
    process = cloud.launch("up", "--job", cloud.job(train={"overrides": {"steps": 10000}}))
    end = time.monotonic() + 30
    while not cloud.steps() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and cloud.held() == []
    assert "interrupted: asking the run to save" in text and "given back" in text and "Traceback" not in text
    assert cloud.steps()[-1] == cloud.lines("bucket/bucket/run/checkpoint.json")[0]["step"]


def test_a_launcher_that_is_killed_is_taken_over(cloud, launch):
    """kill -9 of the launcher: the run goes on, the next launcher watches it, and the hours count on."""
    cloud.plan(step_seconds=0.1)
    job = cloud.job(train={"overrides": {"steps": 25}})
    process = cloud.launch("up", "--job", job)
    end = time.monotonic() + 30
    while len(cloud.steps()) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert cloud.held() == ["run"]
    code, text = launch("up", "--job", job)
    assert code == 0 and cloud.lines("starts.jsonl") == [0] and cloud.steps() == list(range(1, 26))
    assert cloud.verbs().count("create") == 1 and cloud.held() == []


def test_slices_of_somebody_else_are_left_alone(cloud, launch):
    cloud.plan()
    job = cloud.job()
    assert launch("create", "--job", job)[0] == 0
    (cloud.root / "state" / "run.jsonl").unlink()
    code, text = launch("up", "--job", job)
    assert code == 1 and "exists (WAITING_FOR_RESOURCES), and not from this launcher's" in text and cloud.held() == ["run"]


def test_keep_leaves_the_slices_and_says_what_they_cost(cloud, launch):
    cloud.plan(step_seconds=0.001)
    code, text = launch("up", "--keep", "--job", cloud.job())
    assert code == 0 and cloud.held() == ["run"]
    assert "kept, and paid for until: gcloud compute tpus queued-resources delete run" in text
    assert launch("delete", "--job", cloud.job())[0] == 0 and cloud.held() == []


def test_step_by_step(cloud, launch):
    cloud.plan(step_seconds=0.001)
    job = cloud.job(source={"extras": ["tpu"]})
    for command in ("create", "wait", "setup", "preflight", "run"):
        code, text = launch(command, "--job", job)
        assert code == 0, text
    end = time.monotonic() + 20
    while "done: done" not in (text := launch("status", "--job", job)[1]) and time.monotonic() < end:
        time.sleep(0.1)
    assert "run: ACTIVE\n  t1v-n-0-w-0: done: done" in text
    assert launch("logs", "--job", job, "--lines", "1") == (0, "done\n")
    assert launch("delete", "--job", job)[0] == 0 and cloud.held() == []
    (install,) = cloud.lines("installs.jsonl")
    assert install[-1].endswith(".mof/run/repo[tpu]")


def test_nobody_is_asked_without_a_terminal(cloud, launch):
    code, text = launch("up", "--job", cloud.job(guard={"confirm": True}))
    assert code == 1 and "give --yes" in text and cloud.verbs() == []
    assert "run: v5e:2x4 (v5litepod-8, 8 chips, spot) for at most 1 h 00 min: $4.00 an hour, $4.00 at most" in text
