"""`python -m tests.fuzz [TARGET …]`: many seeded cases of every reader, a table of what they came to.

python -m tests.fuzz --cases 100000 --out runs/fuzz          all targets, shares of 10^5 cases
python -m tests.fuzz tar --seed 0 --case 1234                one case again, with its files left in runs/fuzz-case
"""

from __future__ import annotations

import argparse
from collections import Counter
import json
import os
import pathlib
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"

from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402

from .harness import FINDINGS, KINDS, Limits, Outcome, Target, build_seeds, make_case, run  # noqa: E402
from .targets import TARGETS  # noqa: E402

_FEWEST = 30  # cases of a target


def main() -> int:
    """Exit code 1 where there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--cases", type=int, default=100_000, help="in all, divided among the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one of one target")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--out", default="", help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in arguments.targets or TARGETS]
    if arguments.case is not None:
        if len(chosen) != 1:
            parser.error("--case: of which target?")
        return _again(chosen[0], arguments.seed, arguments.case)
    rows = _all(chosen, arguments)
    print(_table(rows))
    if arguments.out:
        path = pathlib.Path(arguments.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
        path.with_suffix(".md").write_text(_table(rows))
    return int(any(row["findings"] for row in rows))


def _all(chosen: list[Target], arguments: argparse.Namespace) -> list[dict]:
    whole = sum(target.share for target in chosen)
    counts = {target.name: max(_FEWEST, round(arguments.cases * target.share / whole)) for target in chosen}
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        task = bar.add_task("fuzz", total=sum(counts.values()))
        for target in chosen:
            bar.update(task, description=target.name)
            begun, outcomes = time.perf_counter(), []
            cases = range(arguments.first, arguments.first + counts[target.name])
            try:
                for outcome in run(target, build_seeds(target), cases, arguments.seed):
                    outcomes.append(outcome)
                    bar.advance(task)
            except RuntimeError as error:  # seeds that are not valid any more: the other targets go on
                outcomes.append(Outcome(-1, "crash", str(error)))
            rows.append(_row(target.name, outcomes, time.perf_counter() - begun, arguments.seed))
            for finding in rows[-1]["findings"]:
                print(
                    f"{finding['kind']} {finding['times']}x: {finding['text']}\n    {finding['again']}",
                    file=sys.stderr,
                    flush=True,
                )
    return rows


def _row(name: str, outcomes: list[Outcome], seconds: float, seed: int) -> dict:
    """A target's line of the table; findings of one kind and place are one, with their first case."""
    counts = Counter(outcome.kind for outcome in outcomes)
    findings: dict[tuple[str, str], dict] = {}
    for o in outcomes:
        if o.kind in FINDINGS:
            key = (
                o.kind,
                f"{o.text.partition(':')[0]} {o.text.rpartition(' at ')[2] if ' at ' in o.text else o.text[:80]}",
            )
            there = findings.setdefault(
                key,
                {
                    "kind": o.kind,
                    "text": o.text,
                    "times": 0,
                    "again": f"python -m tests.fuzz {name} --seed {seed} --case {o.case}",
                },
            )
            there["times"] += 1
    return {
        "target": name,
        "cases": len(outcomes),
        **{kind: counts[kind] for kind in KINDS},
        "longest_s": round(max((o.seconds for o in outcomes), default=0.0), 2),
        "peak_mib": round(max((o.mib for o in outcomes), default=0.0)),
        "seconds": round(seconds, 1),
        "findings": list(findings.values()),
    }


def _table(rows: list[dict]) -> str:
    """Markdown; the last line is the sum."""
    names = ("target", "cases", *KINDS, "longest_s", "peak_mib", "seconds")
    last = {
        "target": "**all**",
        **{name: sum(row[name] for row in rows) for name in ("cases", *KINDS, "seconds")},
        **{name: max((row[name] for row in rows), default=0) for name in ("longest_s", "peak_mib")},
    }
    lines = [
        " | ".join(names),
        " | ".join("---" for _ in names),
        *(
            " | ".join(
                f"{row[n]:,}" if isinstance(row[n], int) else f"{row[n]:.10g}" if isinstance(row[n], float) else row[n]
                for n in names
            )
            for row in (*rows, last)
        ),
    ]
    return "".join(f"| {line} |\n" for line in lines)


def _again(target: Target, seed: int, case: int) -> int:
    """One case again; its files stay, to be looked at."""
    seeds = build_seeds(target)
    folder = pathlib.Path("runs") / "fuzz-case"
    for name, data in make_case(target.name, seeds, seed, case).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    outcome = next(run(target, seeds, [case], seed, Limits()))
    print(f"{outcome.kind}: {outcome.text}\n{outcome.seconds:.3f} s, {outcome.mib:.1f} MiB; files: {folder}")
    return int(outcome.kind in FINDINGS)


if __name__ == "__main__":
    sys.exit(main())
