"""Stands in for `kubectl` on the PATH: JobSets whose pods are processes here, restarted by the rules of the manifest.

$FAKE_CLOUD/kubectl.jsonl has every argv. The failure policy is followed as JobSet's controller does: an exit code in the pod
failure policy fails the job for the reason PodFailurePolicy, any other restarts the set `maxRestarts` times.
"""

import json
import os
import pathlib
import subprocess
import sys

from fake_gcloud import Store, fail

ROOT = pathlib.Path(os.environ["FAKE_CLOUD"])
CONTEXT = "--context=gke_my-project_us-central1_pod"


def start(manifest: dict, restarts: int) -> None:
    for job in manifest["spec"]["replicatedJobs"]:
        spec = job["template"]["spec"]
        container = spec["template"]["spec"]["containers"][0]
        for replica in range(job["replicas"]):
            for index in range(spec["completions"]):
                folder = ROOT / "pods" / f"{manifest['metadata']['name']}-{job['name']}-{replica}-{index}-{restarts}"
                folder.mkdir(parents=True)
                words = [word.replace("$$", "$") for word in container["command"]]
                environment = {**os.environ, "MOF_WORKER": f"t1v-n-{replica}-w-{index}"}
                for variable in container["env"]:
                    reference = variable.get("valueFrom", {}).get("secretKeyRef")
                    environment[variable["name"]] = (variable["value"] if reference is None else
                                                     (ROOT / "secrets" / reference["name"] / reference["key"]).read_text())
                with open(folder / "log", "w") as log:
                    process = subprocess.Popen(["bash", "-c", '"$@"; echo $? > "$0.part"; mv "$0.part" "$0"',
                                                str(folder / "exit"), *words],
                                               env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
                (folder / "pid").write_text(str(process.pid))


def pods(entry: dict) -> list[pathlib.Path]:
    name = entry["manifest"]["metadata"]["name"]
    return sorted((ROOT / "pods").glob(f"{name}-*-{entry['restarts']}"))


def kill(entry: dict) -> None:
    for folder in pods(entry):
        subprocess.run(["pkill", "-KILL", "--session", (folder / "pid").read_text()], check=False)


def code(folder: pathlib.Path) -> int | None:
    return int((folder / "exit").read_text()) if (folder / "exit").exists() else None


def settle(entry: dict) -> None:
    """What the controller does when it looks."""
    if entry["terminal"]:
        return
    codes = [code(folder) for folder in pods(entry)]
    if codes and all(c == 0 for c in codes):
        entry["terminal"] = "Completed"
    failed = [c for c in codes if c]
    if not failed:
        return
    spec = entry["manifest"]["spec"]
    (rule,) = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    useless = any(c in rule["onExitCodes"]["values"] for c in failed)
    stops = any("PodFailurePolicy" in r["onJobFailureReasons"] and r["action"] == "FailJobSet"
                for r in spec["failurePolicy"]["rules"])
    if useless and stops or entry["restarts"] >= spec["failurePolicy"]["maxRestarts"]:
        entry["terminal"] = "Failed"
        return
    kill(entry)
    entry["restarts"] += 1
    start(entry["manifest"], entry["restarts"])


def pod(folder: pathlib.Path) -> dict:
    ended = code(folder)
    state = {"running": {}} if ended is None else {"terminated": {"exitCode": ended,
                                                                  "message": (folder / "log").read_text()[-2000:]}}
    phase = "Running" if ended is None else "Failed" if ended else "Succeeded"
    return {"metadata": {"name": folder.name}, "status": {"phase": phase,
                                                          "containerStatuses": [{"name": "train", "state": state}]}}


def main(argv: list[str]) -> int:
    stdin = sys.stdin.read() if "--filename=-" in argv or any("/dev/stdin" in word for word in argv) else None
    with open(ROOT / "kubectl.jsonl", "a") as f:
        f.write(json.dumps(argv) + "\n")
    if argv[0] != CONTEXT or argv[1] != "--namespace=default":
        fail(f"error: context was not found for specified context: {argv[0]}")
    verb, *words = argv[2:]
    with Store() as store:
        sets = store.state.setdefault("jobsets", {})
        if verb == "apply" and words == ["--filename=-"]:
            if error := store.plan.get("apply_error"):
                fail(error)
            manifest = json.loads(stdin)
            name = manifest["metadata"]["name"]
            sets[name] = {"manifest": manifest, "restarts": 0, "terminal": ""}
            start(manifest, 0)
        elif verb == "create" and words[:2] == ["secret", "generic"]:
            key, _, source = words[3].removeprefix("--from-file=").partition("=")
            assert source == "/dev/stdin", words
            (ROOT / "secrets" / words[2]).mkdir(parents=True)
            (ROOT / "secrets" / words[2] / key).write_text(stdin)
        elif verb == "delete" and words[0] == "secret":
            for name in words[1:-1]:
                subprocess.run(["rm", "-rf", str(ROOT / "secrets" / name)], check=True)
        elif verb == "delete" and words[0] == "jobset":
            if words[1] in sets:
                kill(sets.pop(words[1]))
        elif verb == "get" and words[0] == "jobset":
            if words[1] not in sets:
                fail(f'Error from server (NotFound): jobsets.jobset.x-k8s.io "{words[1]}" not found')
            entry = sets[words[1]]
            settle(entry)
            conditions = [{"type": entry["terminal"], "status": "True",
                           "message": "by the policy"}] if entry["terminal"] else []
            print(json.dumps({"metadata": {"name": words[1]}, "status": {"restarts": entry["restarts"],
                                                                      "conditions": conditions}}))
        elif verb in ("get", "logs"):
            selector = next(word for word in words if word.startswith("--selector="))
            name = selector.removeprefix("--selector=jobset.sigs.k8s.io/jobset-name=")
            found = pods(sets[name]) if name in sets else []
            if verb == "logs":
                for folder in found:
                    print("".join(f"[pod/{folder.name}/train] {line}\n" for line in (folder / "log").read_text().splitlines()),
                          end="")
            else:
                print(json.dumps({"items": [pod(folder) for folder in found]}))
        else:
            fail(f"error: unknown command {argv}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
