"""A search by formula whose best few are compiled: what is tried, pruned, compiled and chosen."""

from __future__ import annotations

import dataclasses
import itertools
import json
import types

import pytest
from run_samples import ROOT
import tiny_mllm
import tiny_run

from mof_jax import cli, run
from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.plan import report
from mof_jax.plan import search as searching
from mof_jax.plan.memory import FACTOR, abstract, estimate
from mof_jax.plan.report import ROOM
from mof_jax.plan.search import candidates, meshes, off_by, remat_keys, replaced, search, value_at

SLICE = Topology.parse("v5e:2x4")


def resolved(module=tiny_run, **changes) -> run.RunConfig:
    c = module.get_config()
    c.update(mesh=dict(data=8), **changes)
    return run.resolve(c)


def compiler(log: list, hbm: float = SLICE.chip.hbm, factor: float = 1.0, slow: float = 1.0):
    """A compiler whose memory is the formula's times a factor, and whose times are the formula's, by `slow` for all but the first."""

    def compile(name: str, config: run.RunConfig, topology: Topology):
        planned, program = abstract(config, topology)
        memory = estimate(planned, program)
        needs = memory.state + memory.batch + factor * memory.temporaries
        clocks = searching.clocks(planned, topology, memory)
        clocks = dataclasses.replace(clocks, compute=clocks.compute * (slow if log else 1))
        fits = needs <= (1 - ROOM) * hbm
        log.append(config)
        return types.SimpleNamespace(fits=fits, needs=needs, clocks=clocks if fits else None)

    return compile


def test_every_mesh_once():
    found = list(meshes(8, 1))
    assert len({tuple(m.values()) for m in found}) == len(found) == 10, "three ordered factors of 2³"
    assert all(m["data"] * m["fsdp"] * m["tensor"] == 8 for m in found)
    assert {m["data"] for m in meshes(8, 2)} == {2, 4, 8}, "slices are joined by `data`"


def test_keys_that_a_command_takes():
    """The same change by hand and by override; only towers that are trained."""
    config = resolved(tiny_mllm)
    keys = remat_keys(abstract(config, SLICE)[0])
    assert keys[-1] == "model.llm.remat"
    changes = {key: "dots" for key in keys} | {"mesh.data": 2, "mesh.fsdp": 4, "objective.microbatches": 1}
    c = tiny_mllm.get_config()
    c.mesh = dict(data=8)
    written = run.resolve(configs.override(c, [f"{k}={v}" for k, v in changes.items()]))
    assert replaced(config, changes) == written and value_at(written, "model.llm.remat") == "dots"


def test_candidates_are_ranked_and_counted():
    config = resolved()
    written, found, pruned = candidates(config, SLICE)
    assert [c.clocks.exposed for c in found] == sorted(c.clocks.exposed for c in found)
    assert written.changes["mesh.data"] == 8 and written.changes not in [c.changes for c in found]
    parts, keys = len(searching.MICROBATCHES), 2
    legal = sum(pruned[why] for why in ("does not fit by formula", "the mesh and micro-batches do not divide the batch"))
    undivided = pruned["the mesh does not divide the model"]
    assert len(found) + 1 + legal == (10 - undivided) * parts * 3**keys
    # Less is recomputed, less is kept: the same mesh with other policies.
    at = {tuple(c.changes.values()): c for c in [written, *found]}
    mesh = (8, 1, 1)
    none, full = (at[(*mesh, policy, policy, 1)] for policy in ("none", "full"))
    assert none.clocks.compute < full.clocks.compute and none.memory.saved > full.memory.saved
    assert none.clocks.compute * 4 / 3 == pytest.approx(full.clocks.compute, rel=0.05)


def test_nothing_that_may_fit_is_pruned():
    """With a chip that has hardly room: every candidate that a compiler off by less than the factor would accept is there."""
    config = resolved(batch_size=64)
    everything = [c for c in candidates(config, SLICE)[1]]
    hbm = sorted(c.needs() for c in everything)[len(everything) // 2] / (1 - ROOM)
    chip = dataclasses.replace(SLICE.chip, hbm=hbm)
    tight = types.SimpleNamespace(chip=chip, devices=8, chips=8, slices=1)
    left = {tuple(c.changes.values()) for c in candidates(config, tight)[1]}
    for factor, c in itertools.product((1 / FACTOR, 0.7, 1.0, FACTOR), everything):
        if c.needs(factor) <= (1 - ROOM) * hbm:
            assert tuple(c.changes.values()) in left
    assert 0 < len(left) < len(everything)


def test_the_best_is_compiled_and_no_slower_than_what_was_written():
    log: list = []
    config = resolved()
    config = replaced(config, {"model.image.remat": "full", "model.text.remat": "full"})
    found = search("tiny", config, SLICE, 2, compiler(log))
    assert log[0] == config and found.written.plan.fits and len(found.tried) == len(log) == 3
    assert found.best is not found.written
    assert found.best.plan.clocks.bound <= found.written.plan.clocks.bound
    assert found.best.plan.clocks.exposed == min(t.plan.clocks.exposed for t in found.tried)
    assert "--config.model.image.remat=none" in found.overrides(found.best) and found.overrides(found.written) == []
    assert len({t.candidate.policy for t in found.tried}) == 3, "one mesh of each policy"
    assert found.left + len(found.tried) + sum(found.pruned.values()) == 1 + len(candidates(config, SLICE)[1]) + sum(
        candidates(config, SLICE)[2].values())


def test_what_is_written_stays_where_nothing_is_faster():
    """Compiled, the others are slower than the formula says."""
    found = search("tiny", resolved(), SLICE, 2, compiler([], slow=3.0))
    assert found.best is found.written


def test_a_refusal_spares_those_that_want_more():
    """On a chip where the formula is half of what the compiler wants: the config as written tells, and no attempt is wasted."""
    config = replaced(resolved(batch_size=64), {"model.image.remat": "full", "model.text.remat": "full"})
    written, others, _ = candidates(config, SLICE)
    hbm = written.needs(2.0) / (1 - ROOM) * 1.001
    tight = types.SimpleNamespace(chip=dataclasses.replace(SLICE.chip, hbm=hbm), devices=8, chips=8, slices=1)
    found = search("tiny", config, tight, 3, compiler([], hbm, factor=2.0))
    assert all(t.plan.fits for t in found.tried), "the factor of the first is taken for the others"
    assert found.best is not None


def test_nothing_fits():
    found = search("tiny", resolved(), SLICE, 1, compiler([], hbm=1.0))
    assert found.best is None and len(found.tried) <= 3


def test_by_how_much_the_formula_is_off():
    written = candidates(resolved(), SLICE)[0]
    rest = lambda factor: written.needs(factor)
    assert off_by(written, rest(1.3)) == pytest.approx(1.3)
    assert off_by(written, rest(9.0)) == FACTOR and off_by(written, rest(0.1)) == 1 / FACTOR and off_by(written, None) == FACTOR


def test_what_the_command_prints(monkeypatch, capsys):
    monkeypatch.setattr(report, "plan", None)  # nothing is compiled
    found = search("tiny", replaced(resolved(), {"model.image.remat": "full"}), SLICE, 2, compiler([]))
    monkeypatch.setattr(searching, "search", lambda *args, **kwargs: found)
    words = ["plan", "--config", str(ROOT / "tiny_run.py"), "--topology", "v5e:2x4", "--search"]
    assert cli.main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(as written)" in shown and "The best: " in shown and "--config.model.image.remat=none" in shown
    assert cli.main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [x["best"] for x in said["tried"]].count(True) == 1 and said["tried"][0]["overrides"] == []
    assert cli.main([*words, "--top", "0"]) == 1 and "--top 0" in capsys.readouterr().err


def test_a_config_that_its_slices_cannot_hold():
    with pytest.raises(UserError, match="does not cover 8 devices"):
        candidates(replaced(resolved(), {"mesh.data": 3}), SLICE)
