"""Slices of a GKE cluster, as one JobSet.

The manifest is JSON: `kubectl` takes it as it takes YAML, it needs no library, and no text in it can be mistaken for a number or
a flag of YAML's. Fields: kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go; node labels and resources:
docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice. GKE itself sets the variables of slices and workers
(MEGASCALE_*, TPU_WORKER_*) in pods of a JobSet that ask for google.com/tpu.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
import re
from typing import Any

from launch import exits
from launch.cloud import Stage, State, Step, Worker
from launch.job import Job
from launch.shell import Command

ACCELERATORS = {"v4": "tpu-v4-podslice", "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice",
                "tpu7x": "tpu7x"}
_LABEL = "jobset.sigs.k8s.io/jobset-name"


def manifest(job: Job) -> dict[str, Any]:
    """The JobSet of a job: one replicated job, a slice each replica, a pod each host."""
    metadata: dict[str, Any] = {
        "name": job.name, "namespace": job.gke.namespace,
        # One slice, one node pool: pods of two slices never share one.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}}
    if job.gke.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": job.gke.queue}
    hosts = job.slices.hosts // job.slices.slices
    template = {
        "backoffLimit": 0, "completionMode": "Indexed", "completions": hosts, "parallelism": hosts,
        "activeDeadlineSeconds": max(1, round(job.hours * 3600)),  # the cluster keeps the deadline if this machine does not
        # What a restart cannot mend fails the job for this reason, and the JobSet with it.
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {
            "containerName": "train", "operator": "In", "values": exits.stop_codes(job.retry.policy)}}]},
        "template": {"spec": _pod(job)}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata,
        "spec": {
            "ttlSecondsAfterFinished": 86400,
            "failurePolicy": {"maxRestarts": job.retry.attempts - 1, "rules": [
                {"name": "useless", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"]}]},
            "replicatedJobs": [{"name": "slice", "replicas": job.slices.slices, "template": {"spec": template}}]}}


def _pod(job: Job) -> dict[str, Any]:
    t, gke = job.slices, job.gke
    selector = {"cloud.google.com/gke-tpu-accelerator": ACCELERATORS[t.generation],
                "cloud.google.com/gke-tpu-topology": "x".join(map(str, t.shape))}
    if job.capacity == "spot":
        selector["cloud.google.com/gke-spot"] = "true"
    if job.capacity == "reserved" and gke.reservation:
        selector["cloud.google.com/reservation-name"] = gke.reservation
    chips = str(min(t.chip.chips_per_host, math.prod(t.shape)))
    command = job.train_command()
    if job.preflight:
        command = ["python", "-m", "launch.preflight", *job.preflight_arguments(), "--then", *command]
    environment: list[dict[str, Any]] = [{"name": "PYTHONUNBUFFERED", "value": "1"}]
    for key, reference in job.secrets.items():
        name, field = _secret(job, key) if reference.startswith("env:") else reference.removeprefix("kubernetes:").split("/")
        environment.append({"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": field}}})
    return {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": gke.grace_seconds, "nodeSelector": selector,
        **({"serviceAccountName": gke.service_account} if gke.service_account else {}),
        # The host's network, as the multislice page has it: the slices talk over the data-centre network.
        "hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet",
        "containers": [{
            # Kubernetes expands $(NAME) in words of a command; $$ is a dollar.
            "name": "train", "image": gke.image, "command": [word.replace("$", "$$") for word in command], "env": environment,
            "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
            "terminationMessagePolicy": "FallbackToLogsOnError",  # the end of the log stays with the pod's status
            "resources": {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}}}]}


def _secret(job: Job, key: str) -> tuple[str, str]:
    """Name and field of the Kubernetes secret of one variable of this machine."""
    return f"{job.name}-{key.lower().replace('_', '-').strip('-')}", "value"


class GkeCloud:
    """Commands of one job on GKE.

    Args:
      job: see `launch.job`.
      secrets: values of its `env:` secrets; they go through stdin only.
    """

    restarts_itself = True

    def __init__(self, job: Job, secrets: dict[str, str]):
        self.job, self._secrets = job, secrets

    def _kubectl(self, *words: str, stdin: str | None = None, shown: str | None = None, limit: float = 600) -> Command:
        gke = self.job.gke
        context = f"gke_{self.job.project}_{gke.location}_{gke.cluster}"  # named, so that no other cluster is touched
        return Command(("kubectl", f"--context={context}", f"--namespace={gke.namespace}", *words), stdin, shown, limit)

    def create(self) -> list[Step]:
        job, gke = self.job, self.job.gke
        login = Command(("gcloud", "container", "clusters", "get-credentials", gke.cluster, f"--location={gke.location}",
                         f"--project={job.project}", "--quiet"))
        steps = [Step("finding the cluster", (login,))]
        for key, reference in job.secrets.items():
            if reference.startswith("env:"):
                name, field = _secret(job, key)
                shown = f'printf %s "${reference.removeprefix("env:")}"'
                steps.append(Step(f"handing over {key}", (
                    self._kubectl("delete", "secret", name, "--ignore-not-found"),
                    self._kubectl("create", "secret", "generic", name, f"--from-file={field}=/dev/stdin",
                                  stdin=self._secrets.get(key, ""), shown=shown))))
        text = json.dumps(manifest(job), indent=2)
        return [*steps, Step(f"asking for {job.slices} ({job.capacity})", (self._kubectl("apply", "--filename=-", stdin=text),
                                                                      ))]

    def delete(self) -> list[Step]:
        names = [_secret(self.job, key)[0] for key, reference in self.job.secrets.items() if reference.startswith("env:")]
        secrets = [self._kubectl("delete", "secret", *names, "--ignore-not-found")] if names else []
        gone = self._kubectl("delete", "jobset", self.job.name, "--ignore-not-found", "--wait=true", limit=1800)
        return [Step("giving the slices back", (gone, *secrets))]

    def describe(self) -> list[Command]:
        return [self._kubectl("get", "jobset", self.job.name, "--output=json", limit=120), self.poll()]

    def state(self, answers: Sequence[str]) -> State:
        found, pods = json.loads(answers[0]), json.loads(answers[1])["items"]
        conditions = {c["type"]: c for c in (found.get("status") or {}).get("conditions", []) if c["status"] == "True"}
        if "Completed" in conditions:
            return State(Stage.DONE, "Completed")
        if "Failed" in conditions:
            return State(Stage.DONE, "Failed", conditions["Failed"].get("message", ""))
        phases = [pod.get("status", {}).get("phase") for pod in pods]
        if len(phases) == self.job.slices.hosts and all(phase == "Running" for phase in phases):
            return State(Stage.READY, "Running")
        waits = {c.get("message", "") for pod in pods for c in pod.get("status", {}).get("conditions", [])
                 if c["type"] == "PodScheduled" and c["status"] == "False"}
        return State(Stage.WAITING, "Suspended" if "Suspended" in conditions else "Pending", "; ".join(sorted(waits - {""})))

    def setup(self) -> list[Step]:
        return []  # the image has everything

    def preflight(self) -> list[Step]:
        return []  # the container's command begins with it

    def start(self, seconds: float) -> list[Step]:
        return []  # `create` has it

    def poll(self) -> Command:
        return self._kubectl("get", "pods", f"--selector={_LABEL}={self.job.name}", "--output=json", limit=300)

    def workers(self, answer: str) -> list[Worker]:
        found = []
        for pod in json.loads(answer)["items"]:
            containers = [c for c in pod.get("status", {}).get("containerStatuses", []) if c["name"] == "train"]
            ended = containers[0].get("state", {}).get("terminated") if containers else None
            found.append(Worker(pod["metadata"]["name"], ended["exitCode"] if ended else None, (ended or {}).get("message", ""),
                                started=bool(containers)))
        return sorted(found, key=lambda worker: [int(n) for n in re.findall(r"\d+", worker.name)])

    def stop(self) -> list[Step]:
        return []  # deleting the JobSet tells every pod and waits `terminationGracePeriodSeconds`

    def logs(self, lines: int) -> Command:
        return self._kubectl("logs", f"--selector={_LABEL}={self.job.name}", "--prefix", f"--tail={lines}",
                             f"--max-log-requests={max(5, self.job.slices.hosts)}", limit=300)
