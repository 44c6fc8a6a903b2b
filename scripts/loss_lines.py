"""The loss lines of every shipped quickstart, cut short: what a refactor must leave as it is, bit for bit.

    python scripts/loss_lines.py before.jsonl          (in the tree before)
    python scripts/loss_lines.py after.jsonl           (in the tree after, on the same machine)
    python scripts/loss_lines.py --compare before.jsonl after.jsonl

One line a run and step: every number of `metrics.jsonl` that is no reading of a clock, as the run wrote it. Runs on several
devices lie on a mesh of data 2 × fsdp 2 × tensor 2. About 12 minutes on two CPU cores; `--only NAME …` takes some of the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile

CLOCKS = {"time", "examples_per_s", "examples_per_s_per_device", "mfu", "tflops_per_device", "data_wait", "hbm_gb", "goodput",
          "seconds", "unix_time", "step_s", "host_s", "tokens_per_s", "tokens_per_s_per_device"}
CUT = ["eval_every=None", "log_every=1", "compilation_cache=None", "checkpoint.every=0"]
MESH = ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"]
STAGES = [f"stages.{i}.{cut}" for i in range(3)
          for cut in ("steps=20", "eval_every=None", "log_every=1", "compilation_cache=None", "optimizer.schedule.warmup=5")]
TINY = ["steps=20", "optimizer.schedule.warmup=5", *CUT]

# name -> (config, overrides)
RUNS: dict[str, tuple[str, list[str]]] = {
    "clip": ("configs/clip/quickstart.py", ["steps=40", "optimizer.schedule.warmup=10", *CUT]),
    "clip/mesh": ("configs/clip/quickstart_tiny.py", ["batch_size=64", *TINY, *MESH]),
    "clip/microbatches": ("configs/clip/quickstart_tiny.py", ["objective.microbatches=4", *TINY]),
    "clip/microbatches/mesh": ("configs/clip/quickstart_tiny.py", ["batch_size=64", "objective.microbatches=4", *TINY, *MESH]),
    "clip/smoothed": ("configs/clip/quickstart_tiny.py", ["objective.label_smoothing=0.1", *TINY]),
    "sigmoid": ("configs/clip/quickstart_tiny.py", ["objective.loss=sigmoid", *TINY]),
    "sigmoid/mesh": ("configs/clip/quickstart_tiny.py", ["batch_size=64", "objective.loss=sigmoid", *TINY, *MESH]),
    "dcl": ("configs/clip/quickstart_tiny.py", ["objective.loss=dcl", *TINY]),
    "decoupled": ("configs/clip/quickstart_tiny.py", ["objective.loss=decoupled", *TINY]),
    "tiny": ("tests/tiny_run.py", ["steps=20", "log_every=1", "eval_every=None", "compilation_cache=None"]),
    "tiny/mesh": ("tests/tiny_run.py", ["steps=20", "log_every=1", "eval_every=None", "compilation_cache=None", *MESH]),
    "mae": ("configs/ssl/mae_quickstart.py", TINY),
    "mae/microbatches": ("configs/ssl/mae_quickstart.py", ["objective.microbatches=4", *TINY]),
    "mae/mesh": ("configs/ssl/mae_quickstart.py", ["batch_size=64", *TINY, *MESH]),
    "dino": ("configs/ssl/dino_quickstart.py", ["objective.warmup=10", "objective.frozen_prototypes=5", *TINY]),
    "dino/microbatches": ("configs/ssl/dino_quickstart.py", ["objective.microbatches=4", *TINY]),
    "dino/mesh": ("configs/ssl/dino_quickstart.py", ["batch_size=64", *TINY, *MESH]),
    "mllm": ("configs/mllm/quickstart.py", STAGES),
    "mllm/microbatches": ("configs/mllm/quickstart.py", [*STAGES, "stages.2.objective.microbatches=2"]),
    # The tokenizer that is trained has an odd number of entries, which `tensor` does not divide.
    "mllm/mesh": ("configs/mllm/quickstart.py", [
        *STAGES, *(f"stages.{i}.{x}" for i in range(3) for x in [*MESH, "mesh.rules={'': {'vocab': None}}"])]),
}
LIT = ("configs/clip/lit_real.py:{}", ["steps=10", "optimizer.schedule.warmup=5", *CUT])


def lines(name: str, config: str, overrides: list[str], workdir: str) -> list[dict]:
    """What a run logged, without clocks; of a staged run, stage after stage."""
    devices = 8 if name.endswith("/mesh") else 1
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([os.getcwd(), f"{os.getcwd()}/tests"]),
                                "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", "mof_jax.cli", "train", "--config", config, "--workdir", workdir]
    done = subprocess.run([*command, *(f"--config.{x}" for x in overrides)], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = []
    for folder, _, files in sorted(os.walk(workdir)):
        if "metrics.jsonl" in files:
            stage = os.path.relpath(folder, workdir)
            with open(f"{folder}/metrics.jsonl") as f:
                for line in map(json.loads, f):
                    found.append({"run": name if stage == "." else f"{name}:{stage}"}
                                 | {key: value for key, value in line.items() if key not in CLOCKS})
    return found


def compare(before: str, after: str) -> int:
    """Says which runs are equal in every number that both wrote; 1 if one is not."""
    tables = []
    for path in (before, after):
        with open(path, "rb") as f:
            content = f.read()
        print(f"{path}: sha256 {hashlib.sha256(content).hexdigest()}")
        rows = [json.loads(line) for line in content.splitlines()]
        tables.append({(row["run"], row["step"]): row for row in rows})
    first, second = tables
    bad = 0
    for run in dict.fromkeys(key[0] for key in first):
        steps = [key for key in first if key[0] == run]
        shared = [key for key in steps if key in second]
        apart = [(key[1], name, first[key][name], second[key][name]) for key in shared
                 for name in first[key] if name in second[key] and first[key][name] != second[key][name]]
        gone = sorted({name for key in shared for name in first[key].keys() - second[key].keys()})
        verdict = "equal" if not apart and len(shared) == len(steps) else "NOT equal"
        bad |= verdict != "equal"
        print(f"{run:28} {len(shared)} of {len(steps)} lines {verdict}{'; without ' + ', '.join(gone) if gone else ''}")
        for name in dict.fromkeys(name for _, name, _, _ in apart):
            worst = {step: abs(a - b) / max(abs(a), 1e-30) for step, other, a, b in apart if other == name}
            step = max(worst, key=worst.get)
            print(f"    {name}: apart from step {min(worst)} on, relatively at most {worst[step]:.1e} (step {step})")
    return int(bad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--lit", help="a converted EfficientNet-Lite0, see configs/clip/lit_real.py")
    parser.add_argument("--compare", nargs=2)
    given = parser.parse_args()
    if given.compare:
        sys.exit(compare(*given.compare))
    runs = RUNS | ({"lit": (LIT[0].format(given.lit), LIT[1])} if given.lit else {})
    with open(given.out, "w") as out:
        for name, (config, overrides) in runs.items():
            if given.only and name not in given.only:
                continue
            with tempfile.TemporaryDirectory() as folder:
                for line in lines(name, config, overrides, folder):
                    out.write(json.dumps(line, sort_keys=True) + "\n")
            print(name, flush=True)
            out.flush()


if __name__ == "__main__":
    main()
