"""What failing tools mean, and lines to copy and paste."""

from __future__ import annotations

import subprocess
import time

import pytest

from launch.shell import CloudError, Command, Fault, diagnose, run


@pytest.mark.parametrize("text, fault", [
    ("ERROR: (gcloud.compute.tpus) There was a problem refreshing your current auth tokens: invalid_grant", Fault.CREDENTIALS),
    ("ERROR: (gcloud) You do not currently have an active account selected.\nPlease run:\n  $ gcloud auth login",
     Fault.CREDENTIALS),
    ("Unable to connect to the server: getting credentials: exec: executable gke-gcloud-auth-plugin failed", Fault.CREDENTIALS),
    ("ERROR: (gcloud.x) HttpError 429: Quota limit 'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. Limit: 0",
     Fault.QUOTA),
    ('Error code 8, message: There is no more capacity in the zone "us-central1-c"', Fault.STOCK),
    ("'Insufficient reserved capacity. Contact customer support to increase your reservation.", Fault.STOCK),
    ("ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", Fault.PERMISSION),
    ("ERROR: (gcloud.x) NOT_FOUND: Resource 'q' was not found", Fault.ABSENT),
    ("ERROR: (gcloud.x) ALREADY_EXISTS: Resource 'q' already exists", Fault.EXISTS),
    ("me@10.0.0.1: Permission denied (publickey).", Fault.SSH),
    ("##### Command execution on worker 3 failed with exit status 255. Continuing.", Fault.SSH),
    ("ERROR: (gcloud.x) UNAVAILABLE: The service is currently unavailable.", Fault.PASSING),
    ("ERROR: gcloud crashed (AttributeError): x", Fault.OTHER)])
def test_faults(text, fault):
    assert diagnose(text)[0] is fault


def test_a_tool_that_is_not_there_hangs_or_is_interrupted():
    with pytest.raises(CloudError, match="no-such-gcloud is not installed here"):
        run(Command(("no-such-gcloud", "x")))
    start = time.monotonic()
    with pytest.raises(CloudError, match="no answer for 0 s") as caught:
        run(Command(("bash", "-c", "sleep 60 & sleep 60"), limit=0.3))
    assert caught.value.fault is Fault.PASSING and time.monotonic() - start < 10


def test_a_line_with_input_can_be_pasted():
    text = 'a $(b) `c`\nEOF\n\'"'
    line = str(Command(("cat",), stdin=text))
    assert subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout == text + "\n"


def test_input_that_is_secret_is_not_shown():
    assert str(Command(("kubectl", "create"), stdin="hunter2",
                       shown='printf %s "$TOKEN"')) == 'printf %s "$TOKEN" | kubectl create'
