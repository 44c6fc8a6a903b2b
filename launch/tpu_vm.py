"""Slices of the Cloud TPU API, by queued resources.

The commands are those of cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/{create,describe,delete,ssh,scp};
`ssh --node=all --worker=all` reaches every worker of every slice.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
import json
import os
import re
import shlex

from launch.cloud import Stage, State, Step, Worker
from launch.job import RUNTIMES, Job
from launch.shell import Command

HERE = os.path.dirname(os.path.abspath(__file__))
_TOOL = ".mof/launch"
_HOUR = 3600

# google.cloud.tpu_v2.types.QueuedResourceState.State; ACCEPTED is the older name of WAITING_FOR_RESOURCES.
_STAGES = {
    "CREATING": Stage.WAITING, "ACCEPTED": Stage.WAITING, "WAITING_FOR_RESOURCES": Stage.WAITING, "PROVISIONING": Stage.WAITING,
    "ACTIVE": Stage.READY, "SUSPENDING": Stage.LOST, "SUSPENDED": Stage.LOST, "DELETING": Stage.LOST, "FAILED": Stage.FAILED,
}


class TpuVmCloud:
    """Commands of one job on TPU VMs.

    Args:
      job: see `launch.job`.
      secrets_file: path on this machine where the values of `env:` secrets lie while they are copied.
    """

    restarts_itself = False

    def __init__(self, job: Job, secrets_file: str):
        self.job, self._secrets_file = job, secrets_file

    def _gcloud(self, verb: str, *words: str, limit: float = 600) -> Command:
        job = self.job
        return Command(("gcloud", "compute", "tpus", "queued-resources", verb, *words, f"--zone={job.zone}",
                        f"--project={job.project}", "--quiet"), limit=limit)

    def _ssh(self, *words: str, limit: float = 600, where: Sequence[str] = ("--node=all", "--worker=all")) -> Command:
        # gcloud hands --command to ssh as it is, and the worker's shell splits it: quoted once for that shell.
        return self._gcloud("ssh", self.job.name, *where, *self._iap(), f"--command={shlex.join(words)}", limit=limit)

    def _scp(self, *files: str, to: str, recurse: bool = False) -> Command:
        return self._gcloud("scp", *files, f"{self.job.name}:{to}", "--node=all", "--worker=all", *self._iap(),
                            *(["--recurse"] if recurse else []))

    def _iap(self) -> list[str]:
        return ["--tunnel-through-iap"] if self.job.tpu_vm.iap else []

    def _worker(self, command: str, *words: str, limit: float = 600) -> Command:
        return self._ssh("bash", f"{_TOOL}/worker.sh", command, self.job.name, *words, limit=limit)

    def create(self) -> list[Step]:
        job, vm, t = self.job, self.job.tpu_vm, self.job.slices
        nodes = [f"--node-id={job.name}"] if t.slices == 1 else [f"--node-count={t.slices}", f"--node-prefix={job.name}"]
        words = [f"--accelerator-type={t.accelerator_type}", f"--runtime-version={vm.runtime or RUNTIMES[t.generation]}",
                 *nodes]
        words += {"spot": ["--spot"], "reserved": ["--reserved"], "on-demand": []}[job.capacity]
        words.append(f"--valid-until-duration={max(1, round(job.guard.max_wait_hours * _HOUR))}s")
        for flag, value in (("service-account", vm.service_account), ("network", vm.network), ("subnetwork", vm.subnetwork)):
            words += [f"--{flag}={value}"] if value else []
        words += ["--internal-ips"] if vm.internal_ips else []
        return [Step(f"asking for {t} ({job.capacity})", (self._gcloud("create", job.name, *words),))]

    def delete(self) -> list[Step]:
        return [Step("giving the slices back", (self._gcloud("delete", self.job.name, "--force", limit=1800),))]

    def describe(self) -> list[Command]:
        return [self._gcloud("describe", self.job.name, "--format=json", limit=120)]

    def state(self, answers: Sequence[str]) -> State:
        found = json.loads(answers[0]).get("state") or {}
        word = found.get("state", "STATE_UNSPECIFIED")
        detail = ((found.get("failedData") or {}).get("error") or {}).get("message", "")
        return State(_STAGES.get(word, Stage.WAITING), word, detail)

    def setup(self) -> list[Step]:
        job, source = self.job, self.job.source
        home = f".mof/{job.name}"
        steps = [
            Step("making folders", (self._ssh("mkdir", "-p", "-m", "700", ".mof", _TOOL, home, f"{home}/repo", limit=900),)),
            Step("copying the launcher's part", (self._scp(*(os.path.join(HERE, name) for name in (
                "worker.sh", "preflight.py", "__init__.py")), to=f"{_TOOL}/"),)),
        ]
        if any(reference.startswith("env:") for reference in job.secrets.values()):
            steps.append(Step("copying secrets", (self._scp(self._secrets_file, to=f"{home}/secrets"),), secrets=True))
        if source.git:
            words = ["git", source.git, source.rev]
        else:
            steps.append(Step("copying the wheel", (self._scp(source.wheel, to=f"{home}/"),)))
            steps.append(Step("copying files", tuple(self._scp(file, to=f"{home}/repo/", recurse=True)
                                                     for file in source.files)))
            words = ["wheel", os.path.basename(source.wheel)]
        steps.append(Step("installing", (self._worker("setup", source.python, ",".join(source.extras), *words, limit=1800),)))
        return steps

    def _references(self) -> list[str]:
        return [f"{key}={reference}" for key, reference in self.job.secrets.items() if reference.startswith("secret-manager:")]

    def preflight(self) -> list[Step]:
        words = [*self._references(), "--", *self.job.preflight_arguments()]
        return [Step("checking the workers", (self._worker("preflight", *words, limit=1200),))]

    def start(self, seconds: float) -> list[Step]:
        # The workers keep the deadline too: this machine may sleep, be closed or lose the net. Theirs comes a little later.
        retry = self.job.retry
        whole = max(1, round(seconds + 2 * retry.poll_seconds + retry.save_seconds))
        guard = self._worker("guard", str(whole + 900), self.job.zone, self.job.project)
        words = [str(whole), *self._references(), "--", *self.job.train_command()]
        return [Step("starting the run", (guard, self._worker("start", *words)))]

    def poll(self) -> Command:
        return self._worker("poll", limit=300)

    def workers(self, answer: str) -> list[Worker]:
        found = {}
        for name, state, code, log in re.findall(r"^@mof\t(\S+)\t(\w+)\t(\S+)\t(\S*)$", answer, re.MULTILINE):
            text = base64.b64decode(log).decode(errors="replace")
            found[name] = Worker(name, int(code) if state == "exited" else None, text, started=state != "idle")
        return [found[name] for name in sorted(found)]

    def stop(self) -> list[Step]:
        seconds = self.job.retry.save_seconds
        return [Step("asking the run to save", (self._worker("stop", str(seconds), limit=seconds + 300),))]

    def logs(self, lines: int) -> Command:
        return self._worker("logs", str(lines), limit=300)


def secrets_text(values: dict[str, str]) -> str:
    """What the workers source: variables and their values, quoted for bash."""
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())
