"""What a user writes: configs, overrides, sweeps, jobs, topologies, plans, points of scaling laws."""

from __future__ import annotations

import gzip
import json
import os
import pathlib

from ml_collections import ConfigDict

from launch import job, ledger, session, sweep
from mof_jax import config as configs
from mof_jax import run
from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.plan import records
from mof_jax.plan.cache import cached
from mof_jax.scaling import frontier, table
from mof_jax.scaling.registry import LAWS
from mof_jax.sweep import ledger as points_ledger
from mof_jax.sweep import points
from mof_jax.sweep.table import read_summary

from ..harness import Seed, Target, say
from .samples import dumped, lines

_CONFIG = dict(
    task="contrastive",
    seed=3,
    steps=40,
    batch_size=16,
    precision="highest",
    log_every=1,
    eval_every=None,
    model=dict(
        embed_dim=16,
        image=dict(width=16, depth=2, heads=2, patch_size=8, image_size=16, pool="gap", cls_token=False),
        text=dict(width=16, depth=1, heads=2, causal=False, mask_padding=True, pool="gap", dropout=0.1),
    ),
    objective=dict(multi_positive=True),
    tokenizer=dict(kind="bpe", vocab_size=400, context_length=8),
    data=dict(
        sources=[dict(kind="emoji5", weight=2.0, captions=dict(probabilities=dict(alt=0.5, tags=0.5)))],
        threads=2,
        augment=dict(affine=dict(zoom=0.2, shift=0.1)),
    ),
    optimizer=dict(name="muon", lr=1e-3, ema=0.9, schedule=dict(warmup=2)),
    checkpoint=dict(every=4, keep=3),
    hardware=dict(topology="v5e:2x2", price=1.0),
    evals=[dict(kind="retrieval", source=dict(kind="emoji5", split="val"))],
)
_FILE = (
    "from ml_collections import ConfigDict\n\n\ndef get_config(arg=None):\n    return ConfigDict("
    + repr(_CONFIG)
    + ")\n"
)


def _json(path: pathlib.Path):
    """What is no JSON never gets as far as a config."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None


def _read_config(folder: pathlib.Path) -> None:
    """A config of any values: what is resolved can be written down and resolved again, to the same."""
    values = _json(folder / "x.json")
    if not isinstance(values, dict):
        return
    found = run.resolve(values)
    assert run.resolve(configs.to_dict(found)) == found, "a config that does not come back"


_OVERRIDES = [
    "steps=3",
    "optimizer.lr=1e-3",
    "data.sources.0.weight=2",
    "model.image.width=32",
    "evals.0.kind=retrieval",
    "hardware.topology=none",
    "data.sources.0.locales=('en', 'de')",
    "objective.multi_positive=True",
    "checkpoint={'every': 2, 'keep': 1}",
    "precision=None",
]


def _read_overrides(folder: pathlib.Path) -> None:
    words = (folder / "x").read_bytes().replace(b"\0", b"").decode(errors="surrogateescape").split("\n")
    run.resolve(configs.override(ConfigDict(_CONFIG), [word.replace("= ", "=", 1) for word in words if word]))


def _seeds_of_sweeps() -> list[Seed]:
    grid = [{"optimizer.lr": lr, "steps": steps} for lr in (1e-3, 1e-2) for steps in (4, 8)]
    return [Seed({"c.py": _FILE.encode(), "x.json": dumped(grid)}, {"x.json": "json"})]


def _read_sweep(folder: pathlib.Path) -> None:
    grid = _json(folder / "x.json")
    if isinstance(grid, list) and all(isinstance(entry, dict) for entry in grid):
        points.expand(str(folder / "c.py"), (), grid)


_JOB = dict(
    name="run",
    project="my-project",
    zone="us-central2-b",
    topology="v5e:2x4",
    capacity="spot",
    workdir="gs://bucket/run",
    source=dict(git="https://host/a.git", rev="main"),
    train=dict(config="c.py", overrides=dict(steps=20, optimizer=dict(lr=0.1))),
    guard=dict(max_hours=1.0, price_per_chip_hour=0.5, max_dollars=3.0, confirm=False),
    retry=dict(poll_seconds=5.0, policy=dict(oom="stop")),
    env=dict(A="b"),
    secrets=dict(KEY="env:KEY"),
)
_TOML = """name = "run"
project = "my-project"
zone = "us-central2-b"
topology = "v5e:2x4"
workdir = "gs://bucket/run"
backend = "gke"
[train]
config = "c.py"
overrides = {steps = 20, "optimizer.lr" = 1e-3}
[guard]
max_hours = 1.0
price_per_chip_hour = 0.5
[gke]
cluster = "a"
location = "us-central1"
image = "host/image:1"
queue = "q"
"""


def _seeds_of_jobs() -> list[Seed]:
    return [
        Seed({"c.py": _FILE.encode(), "x.json": dumped(_JOB)}, {"x.json": "json"}),
        Seed({"c.py": _FILE.encode(), "x.toml": _TOML.encode()}, {"x.toml": "toml"}),
    ]


def _read_job(folder: pathlib.Path) -> None:
    os.chdir(folder)
    path = "x.json" if os.path.exists("x.json") else "x.toml"
    found = job.load(path)
    job.check(found, path)
    words = found.train_command() + found.preflight_arguments()
    assert all(isinstance(word, str) and "\0" not in word for word in words)
    assert found.hours >= 0 and found.hosts >= 1 and (found.dollars_per_hour or 0) >= 0


def _seeds_of_job_sweeps() -> list[Seed]:
    runs = lines(
        {"id": "lr-3", "overrides": {"optimizer.lr": 0.1}},
        {"id": 4, "config": "c.py", "overrides": {"optimizer": {"lr": 0.2}}},
    )
    return [Seed({"c.py": _FILE.encode(), "job.json": dumped(_JOB), "x.jsonl": runs}, {"x.jsonl": "jsonl"})]


def _read_job_sweep(folder: pathlib.Path) -> None:
    os.chdir(folder)
    sweep.read_runs("x.jsonl", "job.json")


def _seeds_of_job_ledgers() -> list[Seed]:
    events = [
        {"event": name, "time": 100.0 + n, "uptime": 10.0 + n, "boot": "a", **more}
        for n, (name, more) in enumerate(
            (
                ("begin", {}),
                ("create", {}),
                ("held", {"held": True}),
                ("start", {}),
                ("exit", {"ending": "oom", "reason": "x"}),
                ("gone", {}),
                ("held", {"held": True}),
            )
        )
    ]
    return [Seed({"run.jsonl": lines(*events)}, {"run.jsonl": "jsonl"})]


def _read_job_ledger(folder: pathlib.Path) -> None:
    found = ledger.Ledger.open(str(folder), "run")
    assert found.seconds() >= 0 and found.held in (True, False) and all(isinstance(word, str) for word in found.exits())


def _seeds_of_point_ledgers() -> list[Seed]:
    end = {"id": "a", "event": "end", "kind": "done", "status": "done", "seconds": 3.5, "reason": "", "time": 1.0}
    return [
        Seed(
            {
                "sweep.jsonl": lines(
                    {"id": "a", "event": "start", "attempt": 1, "pid": 3, "time": 1.0},
                    end,
                    {"id": "b", **{key: value for key, value in end.items() if key != "id"}},
                    {"id": "b", "event": "reopen", "time": 2.0},
                )
            },
            {"sweep.jsonl": "jsonl"},
        )
    ]


def _read_point_ledger(folder: pathlib.Path) -> None:
    found = points_ledger.Ledger(str(folder))
    for name, record in found.read().items():
        assert isinstance(name, str) and record.settled in (True, False) and f"{record.seconds:.1f} {record.reason}"
        assert record.status in (None, "done", "failed", "diverged", "again", "stopped"), record.status
    found.record("a")


_PODS = {
    "items": [
        {
            "metadata": {"name": f"run-slice-0-{n}-x"},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "no nodes"}],
                "containerStatuses": [
                    {"name": "train", "state": {"terminated": {"exitCode": 1, "message": "end"}} if n else {}}
                ],
            },
        }
        for n in range(2)
    ]
}


def _seeds_of_answers() -> list[Seed]:
    state = {"name": "run", "state": {"state": "FAILED", "failedData": {"error": {"message": "no capacity"}}}}
    workers = "@mof\trun-0\texited\t1\tZW5k\n@mof\trun-1\trunning\t-\t\nother words\n"
    conditions = {
        "status": {
            "conditions": [
                {"type": "Suspended", "status": "True"},
                {"type": "Failed", "status": "False", "message": "x"},
            ]
        }
    }
    return [
        Seed(
            {"tpu-vm/0": dumped(state), "tpu-vm/workers": workers.encode()},
            {"tpu-vm/0": "json", "tpu-vm/workers": "bytes"},
        ),
        Seed(
            {"gke/0": dumped(conditions), "gke/1": dumped(_PODS), "gke/workers": dumped(_PODS)},
            {"gke/0": "json", "gke/1": "json", "gke/workers": "json"},
        ),
    ]


def _read_answers(folder: pathlib.Path) -> None:
    """What `gcloud` and `kubectl` say of slices and workers, cut off or of another form."""
    (backend,) = folder.iterdir()
    more = {"tpu-vm": {}, "gke": {"gke": dict(cluster="a", location="us-central1", image="i")}}[backend.name]
    found = session.Session(
        job.make(_JOB | more | {"backend": backend.name, "secrets": {}}, "job"), folder=str(folder / "state")
    )
    answer = lambda name: session.Result(0, (backend / name).read_bytes().decode(errors="replace"), "")
    waiting = [answer(path.name) for path in sorted(backend.glob("[01]"))]
    found.run = lambda command: waiting.pop(0)
    session.run = lambda command: answer("workers")
    attempts = (
        lambda: f"{found.state().word.upper()} {len(found.cloud.describe())}",
        lambda: [worker.log for worker in found.workers()],
    )
    errors = []
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            errors.append(error)
    say(errors)


def _seeds_of_topologies() -> list[Seed]:
    return [
        Seed({"x": text.encode()}, {"x": "bytes"}) for text in ("v5p:8x8x8", "2*v6e:16x16", "v5p-1024", "v5litepod-256")
    ]


def _read_topology(folder: pathlib.Path) -> None:
    text = (folder / "x").read_bytes().decode(errors="surrogateescape")
    found = Topology.parse(text)
    assert Topology.parse(str(found)) == found and found.chips > 0 and found.hosts > 0 and found.accelerator_type


def _seeds_of_plans() -> list[Seed]:
    plan = {
        "name": "a",
        "topology": "v5e:4x4",
        "step_s": 0.5,
        "flops": {"model": 1e15},
        "seconds": 0.5,
        "chips": 16,
        "fits": True,
    }
    return [Seed({"p.jsonl": lines(plan, {"other": 1}, plan | {"name": "b"})}, {"p.jsonl": "jsonl"})]


def _read_plans(folder: pathlib.Path) -> None:
    path = str(folder / "p.jsonl")
    records.read(path)
    records.by_name(path)
    for name in ("a", "b"):
        try:
            records.throughput(f"{path}#{name}")
        except UserError as error:
            assert str(error).isprintable()


def _seeds_of_points() -> list[Seed]:
    rows = [
        {
            "N": n,
            "D": d,
            "C": 6 * n * d,
            "loss": 2 + 100 / n**0.3 + 100 / d**0.3,
            "lr": 1e-3,
            "epochs": 1,
            "unique_tokens": d,
        }
        for n in (1e6, 1e7, 1e8)
        for d in (1e8, 1e9)
    ]
    cells = "N,D,C,loss\n" + "".join(f"{r['N']:g},{r['D']:g},{r['C']:g},{r['loss']}\n" for r in rows)
    return [
        Seed({"x.csv": cells.encode()}, {"x.csv": "csv"}),
        Seed({"x.jsonl": lines(*rows)}, {"x.jsonl": "jsonl"}),
        Seed({"x.json": dumped(rows)}, {"x.json": "json"}),
    ]


def _read_points(folder: pathlib.Path) -> None:
    path = str(next(folder.glob("x.*")))
    source, names, rows = table.read(path, {})
    for law in (LAWS["chinchilla"], LAWS["power"]):
        found = table.points(source, rows, law.needs, law.optional, law.target, names=names)
        for column in found.columns.values():
            assert len(column) == len(found) and (column > 0).all() and (column < float("inf")).all()
    table.write_csv(found, str(folder / "out.csv"))


def _seeds_of_rates() -> list[Seed]:
    return [
        Seed(
            {"fit.json": dumped({"params": {name: {"value": 0.5} for name in ("p", "q", "wd_per_lr")}, "batch": 256})},
            {"fit.json": "json"},
        )
    ]


def _read_caches(folder: pathlib.Path) -> None:
    """What was kept is given again or made anew; a summary is read or said to be damaged."""
    (folder / "key.json.gz").write_bytes(gzip.compress((folder / "key.json").read_bytes()))
    assert isinstance(cached("key", lambda: {"made": 1}, str(folder)), dict)
    read_summary(str(folder))


TARGETS = [
    Target(
        "caches",
        lambda: [
            Seed(
                {name: dumped({"needed": None, "loss": 2.5}) for name in ("key.json", "summary.json")},
                {"key.json": "json", "summary.json": "json"},
            )
        ],
        _read_caches,
        0.5,
    ),
    Target("config", lambda: [Seed({"x.json": dumped(_CONFIG)}, {"x.json": "json"})], _read_config, 0.5),
    Target(
        "config-file",
        lambda: [Seed({"c.py": _FILE.encode()}, {"c.py": "bytes"})],
        lambda folder: run.resolve(configs.load(str(folder / "c.py"))) and None,
        0.3,
    ),
    Target(
        "overrides",
        lambda: [Seed({"x": "\n".join(_OVERRIDES[n::3]).encode()}, {"x": "toml"}) for n in range(3)],
        _read_overrides,
    ),
    Target("sweep", _seeds_of_sweeps, _read_sweep, 0.1),
    Target("launch-job", _seeds_of_jobs, _read_job, 0.5),
    Target("launch-sweep", _seeds_of_job_sweeps, _read_job_sweep, 0.3),
    Target("launch-answers", _seeds_of_answers, _read_answers, 0.5),
    Target("launch-ledger", _seeds_of_job_ledgers, _read_job_ledger),
    Target("sweep-ledger", _seeds_of_point_ledgers, _read_point_ledger),
    Target("topology", _seeds_of_topologies, _read_topology),
    Target("plans", _seeds_of_plans, _read_plans),
    Target("fit-points", _seeds_of_points, _read_points),
    Target("fit-rates", _seeds_of_rates, lambda folder: frontier.load_rates(str(folder / "fit.json")) and None, 0.5),
]
