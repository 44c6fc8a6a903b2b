"""Stands in for `gcloud` on the PATH: keeps queued resources in a folder, refuses flags that the real one has not, runs workers.

$FAKE_CLOUD/plan.json says how it behaves (see `conftest.Cloud`), $FAKE_CLOUD/calls.jsonl has every argv it got. A worker is a
home folder here; `ssh` runs the command there with bash, as sshd does: gcloud splits --command at spaces and ssh joins it again,
so the worker's shell gets the text as it is.
"""

import fcntl
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(os.environ["FAKE_CLOUD"])
COMMON = {"--zone", "--project", "--quiet"}
# cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/{create,describe,delete,ssh,scp}: the flags of GA
FLAGS = {
    "create": {"--accelerator-type", "--runtime-version", "--node-id", "--node-count", "--node-prefix", "--spot", "--reserved",
               "--valid-until-duration", "--service-account", "--network", "--subnetwork", "--internal-ips", "--async",
               "--labels"},
    "describe": {"--format"}, "delete": {"--force", "--async"},
    "ssh": {"--node", "--worker", "--command", "--tunnel-through-iap"},
    "scp": {"--node", "--worker", "--recurse", "--tunnel-through-iap"},
}
SWITCHES = {"--spot", "--reserved", "--internal-ips", "--async", "--force", "--recurse", "--quiet", "--tunnel-through-iap"}


def fail(text: str, code: int = 1):
    print(text, file=sys.stderr)
    sys.exit(code)


def parse(verb: str, words: list[str]) -> tuple[list[str], dict[str, str]]:
    plain, flags = [], {}
    for word in words:
        if not word.startswith("--"):
            plain.append(word)
            continue
        name, eq, value = word.partition("=")
        if name not in FLAGS[verb] | COMMON or bool(eq) == (name in SWITCHES) or name in flags:
            fail(f"ERROR: (gcloud.compute.tpus.queued-resources.{verb}) unrecognized arguments: {word}", 2)
        flags[name] = value
    if not {"--zone", "--project"} <= set(flags):
        fail(f"ERROR: (gcloud.compute.tpus.queued-resources.{verb}) argument --zone and --project: Must be specified.", 2)
    return plain, flags


class Store:
    """The folder, locked while one command looks at it."""

    def __enter__(self):
        self._lock = open(ROOT / "lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.plan = json.loads((ROOT / "plan.json").read_text())
        path = ROOT / "state.json"
        self.state = json.loads(path.read_text()) if path.exists() else {"queued": {}, "created": 0, "count": {}}
        return self

    def __exit__(self, *exception):
        part = ROOT / "state.part"  # in one piece: a test looks without the lock, and the launcher may have been killed just now
        part.write_text(json.dumps(self.state))
        os.replace(part, ROOT / "state.json")
        self._lock.close()

    def count(self, what: str) -> int:
        self.state["count"][what] = self.state["count"].get(what, 0) + 1
        return self.state["count"][what]


def kill(home: pathlib.Path) -> None:
    """Ends what runs on a worker, as a machine that is switched off does."""
    for pid in (*home.glob(".mof/*/pid"), *home.glob(".mof/*/guard")):
        subprocess.run(["pkill", "-KILL", "--session", pid.read_text().strip()], check=False)


def step() -> int:
    found = list((ROOT / "bucket").rglob("checkpoint.json"))
    return max((json.loads(path.read_text())["step"] for path in found), default=0)


def workers(entry: dict) -> list[tuple[str, pathlib.Path]]:
    return [(f"t1v-n-{node}-w-{i}", ROOT / "machines" / str(entry["number"]) / f"{node}-{i}")
            for node in range(entry["nodes"]) for i in range(entry["hosts"])]


def create(store: Store, name: str, flags: dict[str, str]) -> None:
    errors = store.plan.get("create_errors", [])
    number = store.state["created"]
    store.state["created"] += 1
    if number < len(errors) and errors[number]:
        fail(errors[number])
    if name in store.state["queued"]:
        fail(f"ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource '{name}' already exists")
    if ("--node-id" in flags) == ("--node-count" in flags) or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        fail("ERROR: (gcloud.compute.tpus.queued-resources.create) INVALID_ARGUMENT", 2)
    entry = {"number": number, "state": "WAITING_FOR_RESOURCES", "nodes": int(flags.get("--node-count", 1)), "looks": 0,
             "hosts": store.plan.get("hosts", 1), "flags": flags}
    for _, home in workers(entry):
        home.mkdir(parents=True)
    store.state["queued"][name] = entry


def describe(store: Store, name: str) -> None:
    entry = find(store, name)
    entry["looks"] += 1
    failures = store.plan.get("provision_failures", [])
    message = failures[entry["number"]] if entry["number"] < len(failures) else None
    if entry["looks"] > store.plan.get("waits", 1) and entry["state"] == "WAITING_FOR_RESOURCES":
        entry["state"] = "FAILED" if message else "ACTIVE"
    preempt = store.plan.get("preempt_at", [])
    if entry["state"] == "ACTIVE" and entry["number"] < len(preempt) and preempt[entry["number"]] is not None \
            and step() >= preempt[entry["number"]]:
        entry["state"] = "SUSPENDED"
        for _, home in workers(entry):
            kill(home)
    answer = {"name": name, "state": {"state": entry["state"]}}
    if entry["state"] == "FAILED":
        answer["state"]["failedData"] = {"error": {"code": 8, "message": message}}
    print(json.dumps(answer))


def find(store: Store, name: str) -> dict:
    if name not in store.state["queued"]:
        fail("ERROR: (gcloud.compute.tpus.queued-resources) NOT_FOUND: Resource "
             f"'projects/p/locations/z/queuedResources/{name}' was not found")
    return store.state["queued"][name]


def delete(store: Store, name: str, flags: dict[str, str]) -> None:
    entry = find(store, name)
    if entry["state"] == "ACTIVE" and "--force" not in flags:
        fail("ERROR: (gcloud.compute.tpus.queued-resources.delete) FAILED_PRECONDITION: nodes are still running")
    for _, home in workers(entry):
        kill(home)
    del store.state["queued"][name]


def ssh(entry: dict, broken: list[int], command: str) -> int:
    started, code = [], 0
    for i, (name, home) in enumerate(workers(entry)):
        if i in broken:
            print(f"ssh: connect to host 10.0.0.{i} port 22: Connection timed out\n"
                  f"##### Command execution on worker {i} failed with exit status 255. Continuing.", file=sys.stderr)
            code = code or 255
            continue
        environment = {**os.environ, "HOME": str(home), "MOF_WORKER": name}
        line = " ".join(command.split(" "))  # as gcloud and ssh do
        started.append((i, subprocess.Popen(["bash", "-c", line], cwd=home, env=environment)))
    for i, process in started:
        if status := process.wait():
            if len(workers(entry)) > 1:
                print(f"##### Command execution on worker {i} failed with exit status {status}. Continuing.", file=sys.stderr)
            code = code or status
    return code


def scp(entry: dict, files: list[str], flags: dict[str, str]) -> None:
    *sources, target = files
    for _, home in workers(entry):
        where = home / target.partition(":")[2]
        for source in sources:
            if os.path.isdir(source):
                if "--recurse" not in flags:
                    fail(f"scp: {source}: not a regular file")
                shutil.copytree(source, where / os.path.basename(source), dirs_exist_ok=True)
            else:
                shutil.copy(source, where)


def main(argv: list[str]) -> int:
    with open(ROOT / "calls.jsonl", "a") as f:
        f.write(json.dumps(argv) + "\n")
    if argv[:3] == ["container", "clusters", "get-credentials"]:
        return 0
    if argv[:3] == ["secrets", "versions", "access"]:
        print(f"value of {argv[3]}", end="")
        return 0
    if argv[:3] != ["compute", "tpus", "queued-resources"] or len(argv) < 5 or argv[3] not in FLAGS:
        fail(f"ERROR: (gcloud) Invalid choice: {shlex.join(argv)}", 2)
    verb = argv[3]
    plain, flags = parse(verb, argv[4:])
    with Store() as store:
        calls = store.count("calls")
        first, last = store.plan.get("credentials_expire", [None, 0])
        if first is not None and first <= calls <= last:
            fail(f"ERROR: (gcloud.compute.tpus.queued-resources.{verb}) There was a problem refreshing your current auth tokens: "
                 "Reauthentication failed. cannot prompt during non-interactive execution.\n"
                 "Please run:\n\n  $ gcloud auth login\n")
        if verb == "create":
            create(store, plain[0], flags)
            return 0
        if verb == "describe":
            describe(store, plain[0])
            return 0
        if verb == "delete":
            delete(store, plain[0], flags)
            return 0
        name = (plain[-1].partition(":")[0] if verb == "scp" else plain[0])
        entry = find(store, name)
        if entry["state"] != "ACTIVE" or flags.get("--node") != "all" or flags.get("--worker") != "all":
            fail(f"ERROR: (gcloud.compute.tpus.queued-resources.{verb}) INVALID_ARGUMENT: {name} is {entry['state']}")
        calls = store.count("ssh")
        broken = [worker for worker, start, stop in store.plan.get("ssh_broken", []) if start <= calls <= stop]
    if verb == "scp":
        scp(entry, plain, flags)
        return 0
    return ssh(entry, broken, flags["--command"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
