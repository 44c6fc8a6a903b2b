"""What can go wrong on the way, each against a `gcloud` that fails so: one line says what to do, and nothing stays behind."""

from __future__ import annotations

import json
import re

import pytest

from launch import job as jobs
from launch import session

QUOTA = ("ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: Quota limit "
         "'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-central2-b.")
STOCK = 'There is no more capacity in the zone "us-central2-b"; you can try in another zone'


@pytest.mark.parametrize("plan, code, line", [
    ({"create_errors": [QUOTA]}, 1, 
     "run: user: gcloud compute tpus queued-resources create: RESOURCE_EXHAUSTED: Quota limit .*ask for more"),
    ({"provision_failures": [STOCK] * 5}, 75,
     "run: no capacity: queued resource run FAILED: There is no more capacity .*another zone.*2 attempts in a row"),
    ({"ssh_broken": [[0, 1, 1000]]}, 79, "run: lost host: .*on worker 0 failed with exit status 255.*2 attempts in a row"),
    ({"credentials_expire": [12, 1000]}, 1,
     "run: user: .*gcloud's credentials are missing or expired; run `gcloud auth login`: mend"),
    ({"install_error": "no such version"}, 1, "run: user: .*a worker ended with status 1: no such version"),
    ({"preflight": ["preflight: bucket: denied: may the account write?", 1]}, 1,
     "run: user: preflight: bucket: denied: may the account"),
    ({"preflight": ["preflight: devices: 3: a new slice", 79]}, 79,
     "run: lost host: preflight: devices: 3.*2 attempts in a row"),
    ({"run_ends": [{"at": 3, "code": 1, "log": "error: config.lr: unknown key"}]}, 1,
     "run: user: t1v-n-0-w-0 ended with 1: error: config.lr: unknown key: mend"),
    ({"run_ends": [{"at": 3, "code": 70, "log": "jaxlib: RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"}]}, 78, 
     "run: oom: t1v-n-0-w-0 ended with 70: jaxlib: RESOURCE_EXHAUSTED.*: see `mof plan"),
    ({"run_ends": [{"at": 3, "code": -6, "log": "UNAVAILABLE: coordination service"}] * 2}, 79,
     "run: lost host: t1v-n-0-w-0 ended with 134: UNAVAILABLE: coordination service: 2 attempts in a row"),
])
def test_each_failure_is_one_line_and_leaves_nothing(cloud, launch, plan, code, line):
    cloud.plan(step_seconds=0.001, **plan)
    found, text = launch("up", "--job", cloud.job(retry={"attempts": 2}))
    assert found == code, text
    assert len([said for said in text.splitlines() if re.match(line, said)]) == 1, text
    assert "Traceback" not in text
    if "credentials_expire" in plan:  # nothing can be given back without them: the line to do it by hand
        assert cloud.held() == ["run"] and "MAY STILL BE HELD AND PAID FOR" in text
        assert "then run: gcloud compute tpus queued-resources delete run --force" in text
    else:
        assert cloud.held() == [] and "given back" in text


def test_credentials_that_expired_before_anything_was_made_raise_no_alarm(cloud, launch):
    cloud.plan(credentials_expire=[1, 1000])
    code, text = launch("up", "--job", cloud.job())
    assert code == 1 and "run `gcloud auth login`" in text and "HELD" not in text and cloud.verbs() == ["describe"]


def test_credentials_renewed_in_time_cost_nothing(cloud, launch):
    cloud.plan(credentials_expire=[12, 13], step_seconds=0.03)
    code, text = launch("up", "--job", cloud.job(retry={"patience_minutes": 1.0}))
    assert code == 0 and cloud.verbs().count("create") == 1 and cloud.held() == []
    assert text.count("run `gcloud auth login` (waiting 1 min 00 s for it to pass)") == 1



def test_stock_out_passes(cloud, launch):
    cloud.plan(provision_failures=[STOCK], create_errors=[None, "ERROR: (gcloud) code 8: " + STOCK], step_seconds=0.001)
    code, text = launch("up", "--job", cloud.job())
    assert code == 0 and cloud.verbs().count("create") == 3 and "attempt 3 of 5" in text


JOB = {"name": "run", "project": "my-project", "zone": "us-central2-b", "topology": "v5e:2x4", "workdir": "gs://b/run",
       "train": {"config": "c.py"}, "guard": {"max_hours": 1.0}}
PODS = {"items": [{"metadata": {"name": "run-0"}, "status": {"containerStatuses": [
    {"name": "train", "state": {"terminated": {"exitCode": 3, "message": "end"}}}]}}]}


@pytest.mark.parametrize("change", [
    None, "", "[]", "{", "3", "null", "[" * 100_000, '{"items": 3}', '{"items": [3]}', "{}", '{"items": [{}]}',
    "updates are available\n{}",
    *(json.dumps({"items": [PODS["items"][0] | c]}) for c in (
        {"metadata": {}}, {"metadata": {"name": 3}}, {"status": 3}, {"status": {"containerStatuses": [3]}},
        {"status": {"containerStatuses": [{"name": "train", "state": {"terminated": {"exitCode": "3"}}}]}},
        {"status": {"containerStatuses": [{"name": "train", "state": {"terminated": {"exitCode": 3, "message": {}}}}]}}))])
def test_an_answer_that_is_not_understood_is_waited_out_like_one_that_fails(monkeypatch, change):
    """Slices may be held: what ends the launcher with a traceback leaves them so."""
    job = jobs.make(JOB | {"backend": "gke", "gke": {"cluster": "pod", "location": "us-central1", "image": "i"}}, "job")
    monkeypatch.setattr(session, "run", lambda command: session.Result(0, json.dumps(PODS) if change is None else change, ""))
    found = session.Session(job)
    if change is None:
        assert [(worker.name, worker.code, worker.log) for worker in found.workers()] == [("run-0", 3, "end")]
        return
    with pytest.raises(session.CloudError, match="an answer about the slices is not understood .*; try again") as caught:
        found.workers()
    assert caught.value.fault is session.Fault.PASSING and str(caught.value).isprintable()


@pytest.mark.parametrize("answer", ["", "[]", "{", "3", '{"state": 3}', '{"state": {"state": []}}', '{"state": {"state": 3}}',
                                    '{"state": {"state": "FAILED", "failedData": {"error": {"message": {"a": 1}}}}}'])
def test_a_state_that_is_not_understood_is_waited_out(monkeypatch, answer):
    job = jobs.make(JOB | {"source": {"git": "https://host/a.git", "rev": "main"}}, "job")
    monkeypatch.setattr(session, "run", lambda command: session.Result(0, answer, ""))
    with pytest.raises(session.CloudError, match="an answer about the slices is not understood") as caught:
        session.Session(job).state()
    assert caught.value.fault is session.Fault.PASSING
