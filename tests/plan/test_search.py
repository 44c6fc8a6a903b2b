"""A search by formula whose best few are compiled: what is tried, pruned, compiled and chosen."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
import types

import pytest
from run_samples import ROOT
import tiny_mllm
import tiny_run

from mof_jax import cli, run
from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.hardware import Chip, Topology
from mof_jax.plan import search as searching
from mof_jax.plan.memory import FACTOR, abstract
from mof_jax.plan.report import ROOM
from mof_jax.plan.search import candidates, meshes, off_by, remat_keys, replaced, search, told, value_at

SLICE = Topology.parse("v5e:2x4")


def resolved(module=tiny_run, **changes) -> run.RunConfig:
    c = module.get_config()
    c.update(mesh=dict(data=8), **changes)
    return run.resolve(c)


@dataclasses.dataclass(frozen=True)
class Slow(Topology):
    """Chips with so much memory, slow enough that work bounds the step of a tiny model, as it does a large one's."""

    hbm: float = SLICE.chip.hbm

    @property
    def chip(self) -> Chip:
        return dataclasses.replace(SLICE.chip, hbm=self.hbm, flops=1e9)


def chips(hbm: float = SLICE.chip.hbm) -> Topology:
    """Eight of them."""
    return Slow(SLICE.generation, SLICE.shape, hbm=hbm)


def compiler(known, log: list, hbm: float = SLICE.chip.hbm, factor: float = 1.0, slow: float = 1.0):
    """A compiler whose memory is the formula's times a factor, and whose times are the formula's, by `slow` for all but the
    first.

    Args:
      known: what `candidates` said.
    """
    written, others, _ = known

    def compile(name: str, config: run.RunConfig, topology: Topology):
        c = next(c for c in (written, *others) if all(value_at(config, key) == x for key, x in c.changes.items()))
        clocks = dataclasses.replace(c.clocks, compute=c.clocks.compute * (slow if log else 1))
        fits = c.needs(factor) <= (1 - ROOM) * hbm
        log.append(config)
        return types.SimpleNamespace(fits=fits, needs=c.needs(factor), clocks=clocks if fits else None, fault="")

    return compile


@pytest.fixture(scope="module")
def plain():
    """(config, its candidates) of the two-tower run, nothing recomputed."""
    config = resolved(batch_size=64)
    return config, candidates(config, chips())


@pytest.fixture(scope="module")
def careful():
    """The same, everything recomputed."""
    config = replaced(resolved(batch_size=64), {"model.image.remat": "full", "model.text.remat": "full"})
    return config, candidates(config, chips())


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
    changes = {key: "dots" for key in keys} | {"mesh.data": 2, "mesh.fsdp": 4, "microbatches": 1}
    c = tiny_mllm.get_config()
    c.mesh = dict(data=8)
    written = run.resolve(configs.override(c, [f"{k}={v}" for k, v in changes.items()]))
    assert replaced(config, changes) == written and value_at(written, "model.llm.remat") == "dots"


def test_candidates_are_ranked_and_counted(plain):
    written, found, pruned = plain[1]
    assert [c.clocks.exposed for c in found] == sorted(c.clocks.exposed for c in found)
    assert written.changes["mesh.data"] == 8 and written.changes not in [c.changes for c in found]
    within = pruned["does not fit by formula"] + pruned["the mesh and micro-batches do not divide the batch"]
    everything = (10 - pruned["the mesh does not divide the model"]) * len(searching.MICROBATCHES) * 3**2
    assert len(found) + 1 + within == everything
    # Less is recomputed, more is kept: the same mesh with other policies.
    at = {tuple(c.changes.values()): c for c in [written, *found]}
    none, full = (at[8, 1, 1, policy, policy, 1] for policy in ("none", "full"))
    assert none.clocks.compute < full.clocks.compute and none.memory.saved > full.memory.saved
    assert none.clocks.compute * 4 / 3 == pytest.approx(full.clocks.compute, rel=0.05)


def test_nothing_that_may_fit_is_pruned(plain):
    """With chips that have hardly room: every candidate that a compiler would accept is there, if it is off by less than the
    factor."""
    config, (_, everything, _) = plain
    hbm = sorted(c.needs() for c in everything)[len(everything) // 2] / (1 - ROOM)
    left = {tuple(c.changes.values()) for c in candidates(config, chips(hbm))[1]}
    for factor, c in itertools.product((1 / FACTOR, 0.7, 1.0, FACTOR), everything):
        if c.needs(factor) <= (1 - ROOM) * hbm:
            assert tuple(c.changes.values()) in left
    assert 0 < len(left) < len(everything)


def test_the_best_is_compiled_and_no_slower_than_what_was_written(careful):
    log: list = []
    config, known = careful
    found = search("tiny", config, chips(), 2, compiler(known, log))
    assert log[0] == config and found.written.plan.fits and len(found.tried) == len(log) == 3
    assert found.best is not found.written
    assert found.best.plan.clocks.bound <= found.written.plan.clocks.bound
    assert found.best.plan.clocks.exposed == min(t.plan.clocks.exposed for t in found.tried)
    assert len({t.candidate.policy for t in found.tried}) == 3, "one mesh of each policy"
    assert found.left + len(found.tried) + sum(found.pruned.values()) == 1 + len(known[1]) + sum(known[2].values())
    faster = [c for c in known[1] if c.clocks.exposed < found.tried[1].candidate.clocks.exposed]
    assert not faster, "the first that is tried is the fastest by formula"


def test_overrides_make_the_plan(careful):
    """The lines that are printed, on a command, give what was compiled."""
    config, known = careful
    found = search("tiny", config, chips(), 2, compiler(known, []))
    c = tiny_run.get_config()
    c.batch_size, c.mesh, c.model.image.remat, c.model.text.remat = 64, dict(data=8), "full", "full"
    for t in found.tried:
        lines = [line.removeprefix("--config.") for line in found.overrides(t)]
        assert run.resolve(configs.override(c, lines)) == replaced(config, t.candidate.changes)
    assert found.overrides(found.written) == [] and found.overrides(found.best)


def test_what_is_written_stays_where_nothing_is_faster(careful):
    """Compiled, the others are slower than the formula says."""
    config, known = careful
    found = search("tiny", config, chips(), 2, compiler(known, [], slow=2.0))
    assert found.best is found.written


def test_by_what_the_first_is_off_the_others_are(careful):
    """On chips where the compiler wants twice what the formula says, no attempt is wasted."""
    config, (written, *_) = careful
    hbm = written.needs(2.0) / (1 - ROOM) * 1.001
    known = candidates(config, chips(hbm))
    found = search("tiny", config, chips(hbm), 3, compiler(known, [], hbm, factor=2.0))
    assert all(t.plan.fits for t in found.tried) and found.best is not None
    assert found.pruned["does not fit by formula"] > known[2]["does not fit by formula"]


def test_a_refusal_is_learned_from(careful):
    """A compiler that wants twice the formula's memory of all but the first: after one refusal only those that fit are tried."""
    config, (written, *_) = careful
    hbm = written.needs(2.0) / (1 - ROOM) * 1.001
    known, log = candidates(config, chips(hbm)), []
    exact, double = compiler(known, log, hbm), compiler(known, log, hbm, factor=2.0)
    found = search("tiny", config, chips(hbm), 3, lambda *words: (double if log else exact)(*words))
    assert [t.plan.fits for t in found.tried[:2]] == [True, False], "the first candidate of the formula is too large"
    assert all(t.plan.fits for t in found.tried[2:]) and len(found.tried) > 2


def test_a_fault_of_the_compiler_says_nothing_of_memory(careful):
    """It fails at the first other candidate; the search goes on with what it knows, and tries a neighbour of that mesh."""
    config, known = careful
    log: list = []
    works = compiler(known, log)

    def compile(*words):
        plan = works(*words)
        return types.SimpleNamespace(fits=False, needs=None, clocks=None, fault="INTERNAL: …") if len(log) == 2 else plan

    found = search("tiny", config, chips(), 2, compile)
    assert [t.plan.fits for t in found.tried] == [True, False, True, True] and found.best.plan.fits
    assert found.tried[1].candidate.policy == found.tried[2].candidate.policy, "the policy is not to blame"
    assert "the compiler failed" in told(found.tried[1])


def test_nothing_fits(careful):
    config, known = careful
    found = search("tiny", config, chips(), 1, compiler(known, [], hbm=1.0))
    assert found.best is None and len(found.tried) <= 9


def test_by_how_much_the_formula_is_off(plain):
    written = plain[1][0]
    assert off_by(written, written.needs(1.3)) == pytest.approx(1.3)
    assert off_by(written, written.needs(9.0)) == FACTOR and off_by(written, written.needs(0.1)) == 1 / FACTOR
    assert off_by(written, None) == FACTOR


def test_what_the_command_prints(careful, monkeypatch, capsys):
    config, known = careful
    found = search("tiny", config, chips(), 2, compiler(known, []))
    monkeypatch.setattr(searching, "search", lambda *args, **kwargs: found)
    monkeypatch.setenv("COLUMNS", "240")
    words = ["plan", "--config", str(ROOT / "tiny_run.py"), "--topology", "v5e:2x4", "--search"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "fits (as written)" in shown and "best" in shown and f"The best: {shlex.join(found.overrides(found.best))}" in shown
    assert cli.main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [x["best"] for x in said["tried"]].count(True) == 1 and said["tried"][0]["overrides"] == []
    assert cli.main([*words, "--top", "0"]) == 1 and "--top 0" in capsys.readouterr().err


def test_a_config_that_its_slices_cannot_hold():
    with pytest.raises(UserError, match="does not cover 8 devices"):
        candidates(replaced(resolved(), {"mesh.data": 3}), SLICE)


def test_a_policy_that_is_hopeless_is_tried_once(careful):
    """A compiler that wants ten times the formula's memory wherever layers are not recomputed."""
    config, (written, *_) = careful
    hbm = written.needs(3.0) / (1 - ROOM)
    known, log = candidates(config, chips(hbm)), []
    exact, huge = compiler(known, log, hbm), compiler(known, log, hbm, factor=10.0)
    careless = lambda c: "none" in (c.model.image.remat, c.model.text.remat)
    found = search("tiny", config, chips(hbm), 3, lambda *words: (huge if careless(words[1]) else exact)(*words))
    refused = [t.candidate.policy for t in found.tried if not t.plan.fits]
    assert refused and len(set(refused)) == len(refused)
    assert sum(t.plan.fits for t in found.tried) == 4, "the others get their turn"
