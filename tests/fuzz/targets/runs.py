"""What a run leaves and reads again: logs, work dirs, checkpoints."""

from __future__ import annotations

import json
import os
import pathlib

from mof_jax.explore.runs import Run
from mof_jax.jsonl import JsonLines, read_lines
from mof_jax.train.checkpoint import manifest, place
from mof_jax.train.reliability import goodput, history

from ..harness import Seed, Target
from .jobs import _CONFIG
from .samples import dumped, lines, written

_SECONDS = dict.fromkeys(goodput.KINDS, 1.5)


def _logs() -> dict[str, bytes]:
    log = [
        {"step": n, "loss": 2.0 / n, "grad_norm": "nan", "seconds": _SECONDS, "unix_time": 1e9 + n} for n in (1, 2, 3)
    ]
    evals = [{"step": n, "name": "retrieval", "time": 1.0, "version": "a", "recall": 50.0} for n in (1, 3)]
    changes = [{"step": 1, "examples": 16, "flops": 1e9, "keys": {"optimizer.lr": [0.1, 0.2]}}]
    return {
        "metrics.jsonl": lines(*log),
        "evals.jsonl": lines(*evals),
        "config.json": dumped(_CONFIG | {history.KEY: changes}),
        "ended.json": dumped({"step": 3, "seconds": _SECONDS, "unix_time": 1e9 + 9}),
        "parameters.txt": b"image/kernel  (16, 24)  trained  lr\xc3\x971  decay\xc3\x971  \n",
    }


def _seeds_of_logs() -> list[Seed]:
    files = _logs()
    return [
        Seed(
            files,
            {name: "jsonl" if name.endswith("l") else "json" if name.endswith("n") else "bytes" for name in files},
        ),
        Seed(
            {
                "stages.json": dumped({"stages": ["one", "two"]}),
                **{f"two/{name}": data for name, data in files.items()},
            },
            {"stages.json": "json"},
        ),
    ]


def _read_logs(folder: pathlib.Path) -> None:
    found = Run.read(str(folder))
    for key in found.keys:
        found.series(key)
        found.series(key, "examples")
    config = next(folder.rglob("config.json"))
    if found.keys and config.read_bytes() != _logs()["config.json"]:  # a plan of the model takes a while
        found.series(found.keys[0], "flops")
    found.evaluations()
    found.last()
    if os.path.exists(folder / "parameters.txt"):
        found.parameters()
    assert all(isinstance(x, float) and x == x for x in found.seconds.values())
    place.split(str(folder))


def _read_ledger(folder: pathlib.Path) -> None:
    """A start that goes on where the logs stand, at several steps; no line of the log is lost."""
    found = goodput.lines(str(folder))
    for start in (0, 2, 9):
        ledger = goodput.Ledger(found, start)
        ledger.started()
        assert all(x >= 0 for x in ledger.read().values())
    goodput.report(goodput.read(str(folder)))
    before = read_lines(str(folder / "metrics.jsonl"))
    JsonLines(str(folder / "metrics.jsonl"), keep_until=2).write({"step": 3})
    assert read_lines(str(folder / "metrics.jsonl")) == [line for line in before if line.get("step", 0) <= 2] + [
        {"step": 3}
    ]


def _checkpoint() -> dict[str, bytes]:
    """One step, saved by Orbax and sealed."""
    import jax.numpy as jnp

    from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer
    from mof_jax.train.state import TrainState

    state = TrainState(
        jnp.int32(1), {"a": jnp.ones((2, 3))}, {"b": jnp.ones(4)}, {"mu": {"a": jnp.ones((2, 3))}}, None, jnp.int32(-1)
    )

    def write(root: pathlib.Path) -> None:
        checkpointer = Checkpointer(str(root / "checkpoints"), CheckpointConfig(keep=5))
        checkpointer.save(1, state, {"config": _CONFIG, "note": "x"})
        checkpointer.close()

    return written(write)


def _seeds_of_checkpoints() -> list[Seed]:
    return [Seed(_checkpoint(), {"checkpoints/1/meta/metadata": "json"})]


def _read_checkpoint(folder: pathlib.Path) -> None:
    """The meta, sealed again after the edit."""
    from mof_jax.train.checkpoint.checkpointer import Checkpointer

    step = folder / "checkpoints" / "1"
    (step / manifest.NAME).unlink()
    manifest.write(str(step), 1)
    found = Checkpointer(str(folder / "checkpoints"), read_only=True)
    try:
        if found.newest() is not None:
            history.saved(found.meta(1))
            found.restore_params(1)
    finally:
        found.close()


def _seeds_of_manifests() -> list[Seed]:
    def write(root: pathlib.Path) -> None:
        (root / "a").write_bytes(b"abc")
        (root / "d").mkdir()
        (root / "d" / "b").write_bytes(b"def")
        manifest.write(str(root), 1)

    return [Seed(written(write), {"manifest.json": "json", "a": "bytes"})]


def _read_manifest(folder: pathlib.Path) -> None:
    """As it lies there, and with a digest that is right."""
    path = folder / manifest.NAME
    try:
        found = json.loads(path.read_bytes())
        found.pop("sha256")
        sealed = dumped(found | {"sha256": manifest._digest(found)})
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        sealed = None
    if sealed is not None:
        path.write_bytes(sealed)
    words = manifest.damage(str(folder), manifest.read(str(folder)))
    assert words.isprintable()


TARGETS = [
    Target("logs", _seeds_of_logs, _read_logs),
    Target("run-ledger", lambda: _seeds_of_logs()[:1], _read_ledger),
    Target("checkpoint", _seeds_of_checkpoints, _read_checkpoint, 0.03),
    Target("manifest", _seeds_of_manifests, _read_manifest),
]
