"""JobSets: their schema, what they say of slices and restarts, and whole lives against a `kubectl` that runs the pods here."""

from __future__ import annotations

import copy
import json
import os
import pathlib
import re
import sys
import time

import pytest

from launch import gke
from launch import job as jobs
from mof_jax.errors import UserError

HERE = pathlib.Path(__file__).parent
SECTION = {"cluster": "pod", "location": "us-central1", "image": "us-docker.pkg.dev/my-project/images/mof:1"}


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((HERE / "jobset.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def a_job(topology: str, **changes) -> jobs.Job:
    values = {"name": "run", "project": "my-project", "zone": "us-central1-a", "topology": topology, "backend": "gke",
              "workdir": "gs://bucket/run", "train": {"config": "configs/x.py"}, "guard": {"max_hours": 24.0}, "gke": SECTION,
              **changes}
    return jobs.make(values, "job")


@pytest.mark.parametrize("topology, slices, hosts, chips, accelerator, shape", [
    ("v5e:16x16", 1, 64, "4", "tpu-v5-lite-podslice", "16x16"), ("2*v6e:16x16", 2, 64, "4", "tpu-v6e-slice", "16x16"),
    ("tpu7x:4x4x4", 1, 16, "4", "tpu7x", "4x4x4"), ("tpu7x:4x8x8", 1, 64, "4", "tpu7x", "4x8x8"),
    ("4*v5p:4x4x8", 4, 32, "4", "tpu-v5p-slice", "4x4x8"), ("v4:2x2x1", 1, 1, "4", "tpu-v4-podslice", "2x2x1"),
    ("v6e:1x1", 1, 1, "1", "tpu-v6e-slice", "1x1")])
def test_slices_are_replicas_and_hosts_are_pods(validator, topology, slices, hosts, chips, accelerator, shape):
    found = gke.manifest(a_job(topology))
    validator.validate(found)
    (replicated,) = found["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    assert (replicated["replicas"], job["completions"], job["parallelism"]) == (slices, hosts, hosts)
    assert pod["nodeSelector"] == {"cloud.google.com/gke-tpu-accelerator": accelerator,
                                   "cloud.google.com/gke-tpu-topology": shape}
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert ("--distributed" in pod["containers"][0]["command"]) == (slices * hosts > 1)
    assert found["metadata"]["annotations"] == {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}


def test_everything_that_a_job_can_say_fits_the_schema(validator):
    job = a_job("2*v5e:4x4", capacity="spot", env={"A": "b"},
                secrets={"HF_TOKEN": "env:HF_TOKEN", "W": "kubernetes:wandb/api.key"},
                gke={**SECTION, "queue": "team", "service_account": "trainer"}, retry={"policy": {"hang": "stop"}})
    found = gke.manifest(job)
    validator.validate(found)
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true" and pod["serviceAccountName"] == "trainer"
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    refs = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in pod["containers"][0]["env"] if "valueFrom" in e}
    assert refs == {"HF_TOKEN": {"name": "run-hf-token", "key": "value"}, "W": {"name": "wandb", "key": "api.key"}}
    reserved = gke.manifest(a_job("v5e:4x4", capacity="reserved", gke={**SECTION, "reservation": "ours"}))
    validator.validate(reserved)
    assert "ours" in json.dumps(reserved)


def test_the_schema_refuses_what_an_api_server_would_drop(validator):
    """Each single slip in a manifest is found: a schema that takes anything would prove nothing."""
    good = gke.manifest(a_job("v5e:4x4"))

    def slip(path: list, value) -> dict:
        bad = copy.deepcopy(good)
        node = bad
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        return bad

    job = ["spec", "replicatedJobs", 0, "template", "spec"]
    container = [*job, "template", "spec", "containers", 0]
    for path, value in [
            (["apiVersion"], "jobset.x-k8s.io/v1alpha1"), (["metadata", "name"], "Run"), (["spec", "maxRestarts"], 3),
            ([*job, "completionMode"], "NonIndexed"), ([*job, "paralelism"], 4), ([*container, "comand"], ["mof"]),
            ([*container, "resources", "limits", "google.com/tpu"], 4), ([*container, "env", 0], {"name": "A", "value": 1}),
            ([*job, "podFailurePolicy", "rules", 0, "onExitCodes", "values"], [0]),
            (["spec", "failurePolicy", "rules", 0, "action"], "Fail")]:
        assert not validator.is_valid(slip(path, value)), path


def test_what_a_restart_cannot_mend_ends_the_set():
    spec = gke.manifest(a_job("v5e:4x4", retry={"policy": {"hang": "stop", "oom": "recreate"}}))["spec"]
    (rule,) = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 76, 77, 124, 126, 127]


def test_words_with_dollars_are_not_variables_of_kubernetes():
    found = gke.manifest(a_job("v5e:4x4", preflight=False,
                               train={"config": "configs/x.py", "overrides": {"note": "$(HOME) $$x"}}))
    command = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[-1] == "--config.note=$$(HOME) $$$$x"


def test_slices_of_one_host_do_not_join():
    with pytest.raises(UserError, match="GKE joins slices of several hosts only"):
        a_job("2*v5e:2x2")
    with pytest.raises(UserError, match="characters too long for a JobSet of 2\\*v6e:16x16"):
        a_job("2*v6e:16x16", name="a" * 48)


@pytest.fixture
def pods(cloud, tmp_path, monkeypatch):
    """A cloud whose containers find `mof` and `python` on the PATH."""
    programs = tmp_path / "image"
    programs.mkdir()
    (programs / "mof").write_text(f'#!/bin/bash\nexec {sys.executable} -E -s -S {HERE / "fake_run.py"} "$@"\n')
    (programs / "mof").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return cloud


def gke_job(cloud, **changes) -> str:
    return cloud.job(**{"topology": "v5e:2x4", "backend": "gke", "preflight": False, "gke": SECTION, **changes})


def test_preempted_restarted_resumed_deleted(pods, launch, monkeypatch):
    pods.plan(run_ends=[{"at": 8, "code": 75}], step_seconds=0.005)
    monkeypatch.setenv("HF_TOKEN", "hf_very$secret'value\n")
    code, text = launch("up", "--job", gke_job(pods, secrets={"HF_TOKEN": "env:HF_TOKEN"}))
    assert code == 0, text
    assert pods.steps() == list(range(1, 21)) and pods.lines("starts.jsonl") == [0, 5]
    assert json.loads((pods.root / "state.json").read_text())["jobsets"] == {}
    assert all(run["env"]["HF_TOKEN"] == "hf_very$secret'value\n" for run in pods.lines("runs.jsonl"))
    assert not (pods.root / "secrets" / "run-hf-token").exists()  # it goes with the job
    everything = text + (pods.root / "kubectl.jsonl").read_text() + (pods.root / "calls.jsonl").read_text()
    assert "very" not in everything


def test_a_set_that_was_completed_without_a_launcher_is_done(pods, launch):
    pods.plan(step_seconds=0.001)
    job = gke_job(pods)
    assert launch("create", "--yes", "--job", job)[0] == 0 and launch("wait", "--job", job)[0] == 0
    end = time.monotonic() + 20
    while "Completed" not in launch("status", "--job", job)[1] and time.monotonic() < end:
        time.sleep(0.1)
    code, text = launch("up", "--job", job)
    assert code == 0 and "run: done: the run is complete" in text and pods.lines("starts.jsonl") == [0]


@pytest.mark.parametrize("plan, code, line", [
    ({"run_ends": [{"at": 3, "code": 78, "log": "RESOURCE_EXHAUSTED"}]}, 78,
     r"run: oom: run-slice-0-\d-0 ended with 78: RESOURCE_EXHAUSTED"),
    ({"run_ends": [{"at": 3, "code": 76, "log": "watchdog"}] * 2}, 76, r"run: hang: run-slice-0-\d-1 ended with 76: watchdog"),
    ({"apply_error": 'error: resource mapping not found for name: "run": no matches for kind "JobSet"'}, 1,
     "run: user: .*no matches for kind"),
])
def test_failures_end_in_one_line(pods, launch, plan, code, line):
    pods.plan(step_seconds=0.001, **plan)
    found, text = launch("up", "--job", gke_job(pods, retry={"attempts": 2, "policy": {"hang": "rerun"}}))
    assert found == code, text
    assert len([said for said in text.splitlines() if re.match(line, said)]) == 1, text
    assert not json.loads((pods.root / "state.json").read_text())["jobsets"]


def test_manifest_is_what_create_applies(pods, launch):
    code, text = launch("manifest", "--job", gke_job(pods))
    assert code == 0 and json.loads(text)["kind"] == "JobSet"
    printed = launch("create", "--dry-run", "--job", gke_job(pods))[1]
    assert text.strip() in printed
    assert "kubectl --context=gke_my-project_us-central1_pod --namespace=default apply --filename=- <<'EOF'\n{" in printed
