"""Plans every config that names a topology, each in a process of its own, and writes the table: `make plan-all`.

    python scripts/plan_all.py docs/plans.md [configs/clip/vit_l14.py …]

Results lie in `docs/plans.jsonl`, one line a config and stage; a run with names replaces those and keeps the others.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import subprocess
import sys

from mof_jax import config as configs
from mof_jax.plan.cost import stages
from mof_jax.plan.records import by_name

# Beside the configs as they are: attention that keeps its scores, and what is too large, by how much.
VERSUS = (
    "configs/clip/vit_l14.py --config.model.image.kernel=xla",
    "configs/llm/llama2_7b.py --config.model.llm.kernel=xla",
    "configs/llm/llama2_7b.py --topology v5e:2x4 --config.mesh.fsdp=8 --config.batch_size=8",
    "configs/mm1/pretrain_30b.py --topology v5e:16x16 --config.mesh.fsdp=64",
)
ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = """# What the configs need on their slices

Compiled by the TPU's own compiler on a machine without a TPU: `make plan-all` (libtpu of the installed JAX). GiB are of one
device; `bound` is the fastest step that the chips allow, `exposed` one that hides no communication (`mof_jax/plan/roofline.py`);
days and chip-hours are at the MFU that the config expects (0.4 unless it says another). Nothing here was run on a TPU.

"""
BESIDE = """
Beside them: attention that keeps its scores (`kernel=xla`) instead of the splash kernel, and what is too large for its slices.

"""
COLUMNS = """\
| config | slices | mesh | GiB needed | of | spare | bound, s | limit | exposed, s | MFU at most | days | chip-hours |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def planned() -> list[str]:
    """Config files that name a topology, with each of the arguments in their `PLANS`; without arguments where they have none."""
    found = []
    for path in sorted(ROOT.glob("configs/*/*.py")):
        if path.name not in ("common.py", "against.py", "reproduce.py") and any(
                run.hardware.topology for run in stages(configs.load(str(path))).values()):
            name = str(path.relative_to(ROOT))
            found += [f"{name}:{arg}" if arg else name for arg in getattr(configs.load_module(str(path)), "PLANS", ("",))]
    return found


def row(p: dict) -> str:
    """A line of the table."""
    gib = lambda x: "?" if x is None else f"{x / 2**30:.2f}"
    mesh = " × ".join(f"{axis} {size}" for axis, size in p["mesh"].items() if size > 1)
    spare = "?" if p["needs"] is None else f"{1 - p['needs'] / p['hbm']:.0%}"
    cells = [f"`{p['name'].removeprefix('configs/')}`", p["topology"], mesh, gib(p["needs"]), gib(p["hbm"]), spare]
    if "roofline" in p:
        r, days = p["roofline"], p["seconds"] * p["steps"] / 86400
        cells += [f"{r['bound']:.3f}", p["limit"], f"{r['exposed']:.3f}", f"{p['mfu_bound']:.0%}", f"{days:.1f}",
                  f"{p['chip_hours']:,.0f}"]
    else:
        cells += ["the compiler failed" if "fault" in p else "does not fit", "", "", "", "", ""]
    return f"| {' | '.join(cells)} |"


def main(out: str, names: list[str]) -> None:
    """Plans, remembers, writes."""
    table, log = pathlib.Path(out), pathlib.Path(out).with_suffix(".jsonl")
    known = by_name(str(log))
    for name in names or [*planned(), *VERSUS]:
        done = subprocess.run([sys.executable, "-m", "mof_jax.cli", "plan", "--config", *name.split(), "--json"], cwd=ROOT,
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        for line in done.stdout.splitlines():
            p = json.loads(line)
            known[p["name"]] = p
            print(row(p), flush=True)
        log.write_text("".join(json.dumps(known[key]) + "\n" for key in sorted(known)))
    table.write_text(written(known))


def written(known: Mapping[str, dict]) -> str:
    """The page: the configs as they are, then what stands beside them."""
    rows = lambda beside: "".join(row(known[key]) + "\n" for key in sorted(known) if (" --" in key) == beside)
    return HEAD + COLUMNS + rows(False) + BESIDE + COLUMNS + rows(True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
