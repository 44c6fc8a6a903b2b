"""A plan's clocks by closed forms, its verdict, and what the command says."""

from __future__ import annotations

import importlib.util
import json

import jax
import numpy as np
import pytest
from run_samples import ROOT
import tiny_run

from mof_jax import cli, run
from mof_jax.hardware import Topology
from mof_jax.mesh import make_mesh
from mof_jax.plan import program, report
from mof_jax.plan.collectives import Collective
from mof_jax.plan.program import Compiled, Memory
from mof_jax.plan.roofline import crosses, recomputed, roofline

GIB = 2**30
PODS = Topology.parse("2*v5e:1x4")  # as many devices as the tests have
HALVES, NEIGHBOURS = np.array([[0, 4], [1, 5], [2, 6], [3, 7]]), np.arange(8).reshape(4, 2)


@pytest.fixture(scope="module")
def traced():
    """The two-tower run on data 2 × fsdp 4, not compiled."""
    c = tiny_run.get_config()
    c.mesh, c.hardware = dict(data=2, fsdp=4), dict(topology="v5e:2x4", price=1.5, mfu=0.5)
    config = run.resolve(c)
    return config, *program.lower(config, make_mesh(config.mesh))[:2]


def planned(traced, memory=Memory(2 * GIB, 2 * GIB, 2 * GIB, 4 * GIB), needed=None, sent=()):
    config, planned_run, step = traced
    clocks = None if memory is None else roofline(planned_run, PODS, memory, sent)
    return report.Plan("tiny", config, PODS, Compiled(planned_run, step, memory, needed, "", 1.0, "key"), list(sent), clocks)


def test_clocks_by_hand(traced):
    gather = Collective("all-gather", 3, 8_000_000, NEIGHBOURS, "main")
    reduce = Collective("all-reduce", 1, 1_000_000, HALVES, "main")
    p = planned(traced, sent=(gather, reduce))
    chip, clocks = PODS.chip, p.clocks
    assert clocks.peak == 8 * 197e12
    assert clocks.compute == pytest.approx((sum(traced[1].flops().values()) + clocks.recomputed) / clocks.peak)
    assert clocks.memory == pytest.approx(4 * GIB / chip.hbm_bandwidth)
    assert clocks.ici == pytest.approx(3 * 8e6 / 2 / chip.ici), "half of a gather over two is one's own"
    assert clocks.dcn == pytest.approx(1e6 / chip.dcn), "2·(n-1)/n of a reduction over both slices"
    assert clocks.bound == max(clocks.compute, clocks.memory, clocks.ici, clocks.dcn) <= clocks.exposed
    assert clocks.limit == "memory" and clocks.mfu(clocks.bound) == pytest.approx(clocks.model_flops / clocks.peak / clocks.bound)


def test_what_crosses_slices():
    assert crosses(Collective("all-reduce", 1, 4, HALVES, "m"), PODS) and crosses(Collective("all-reduce", 1, 4, None, "m"), PODS)
    assert not crosses(Collective("all-reduce", 1, 4, NEIGHBOURS, "m"), PODS)
    assert not crosses(Collective("all-reduce", 1, 4, None, "m"), Topology.parse("v5e:2x4"))


def test_what_is_done_again():
    """A rematerialised tower's forward pass once more, both towers' under micro-batches; nothing for a frozen one."""
    def again(freeze=(), **model):
        c = tiny_run.get_config()
        c.model.image.remat, c.microbatches = model.get("remat", "none"), model.get("microbatches", 1)
        c.optimizer.freeze = list(freeze)
        planned_run = program.lower(run.resolve(c), make_mesh())[0]
        return recomputed(planned_run, planned_run.flops()), planned_run.flops()

    none, flops = again()
    assert none == 0
    assert again(remat="full")[0] == pytest.approx(flops["image"] / 3)
    assert again(remat="full", microbatches=2)[0] == pytest.approx(2 * flops["image"] / 3 + flops["text"] / 3)
    assert again(freeze=[("image/.*", True)], remat="full")[0] == 0


def test_verdicts(traced):
    fits = planned(traced)
    assert fits.needs == 6 * GIB and fits.fits
    tight = planned(traced, Memory(2 * GIB, 2 * GIB, 2 * GIB, 13 * GIB))
    assert not tight.fits, "less than a twentieth to spare"
    refused = planned(traced, memory=None, needed=20 * GIB)
    assert not refused.fits and refused.needs == 20 * GIB and refused.seconds is None
    assert planned(traced, memory=None).needs is None


def test_json_says_everything_and_the_cost(traced):
    found = json.loads(json.dumps(planned(traced, sent=(Collective("all-gather", 3, 800, NEIGHBOURS, "main"),)).to_json()))
    assert found["fits"] and found["chips"] == 8 and found["topology"] == "2*v5e:1x4"
    assert found["memory"]["used"] == 6 * GIB
    assert found["collectives"] == [dict(kind="all-gather", axes=["fsdp"], times=3, bytes=1200.0)]
    assert found["dollars"] == pytest.approx(found["seconds"] * 40 * 8 / 3600 * 1.5)
    state = found["state"]
    assert state["opt"] > 0 and state["state"] == pytest.approx(sum(state[k] for k in ("params", "frozen", "opt", "ema")))
    refused = json.loads(json.dumps(planned(traced, memory=None, needed=20 * GIB).to_json()))
    assert not refused["fits"] and "roofline" not in refused


def test_tables(traced, capsys):
    from rich.console import Console

    Console(width=200).print(report.show(planned(traced, sent=(Collective("all-gather", 3, 800, NEIGHBOURS, "main"),))))
    shown = capsys.readouterr().out
    assert "fits: 6.00 of 15.75 GiB a device, 61.9% to spare" in shown and "all-gather" in shown and "chip-hours" in shown
    Console(width=200).print(report.show(planned(traced, Memory(8 * GIB, 8 * GIB, 8 * GIB, 12 * GIB))))
    assert "DOES NOT FIT: 20.00 GiB a device, 4.25 GiB (27.0%) too much for 15.75" in capsys.readouterr().out


@pytest.mark.parametrize("words, message", [
    (["--config", "tiny_run.py"], "names no hardware.topology; give --topology"),
    (["--config", "tiny_run.py", "--topology", "v9:4x4"], "unknown TPU generation 'v9'"),
    (["--config", "tiny_mllm.py:staged", "--stage", "turn", "--topology", "v5e:2x4"], "the config has align, tune"),
    (["--config", "tiny_run.py", "--topology", "v5e:2x4", "--config.hardware.mfu=2"], "config.hardware.mfu: 2.0 is not above 0"),
])
def test_mistakes_of_the_command(words, message, capsys):
    words[1] = str(ROOT / words[1])
    assert cli.main(["plan", *words]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the compiler is installed")
def test_without_the_compiler(capsys):
    assert cli.main(["plan", "--config", str(ROOT / "tiny_run.py"), "--topology", "v5e:2x4"]) == 1
    assert "pip install 'mof_jax[plan]'" in capsys.readouterr().err


def test_a_fault_of_the_compiler_is_no_verdict_on_the_config(monkeypatch, capsys):
    """It fails at a program now and then; the plan says so in its words, and stands in a table as unknown."""
    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: during context [post-optimization]: Bitcast cannot have [different] sizes\n…")

    monkeypatch.setattr(program, "devices", lambda topology: jax.devices()[:8])
    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    monkeypatch.setattr(program, "cached", lambda key, compute, folder: compute())
    args = ["plan", "--config", str(ROOT / "tiny_run.py"), "--topology", "v5e:2x4"]
    assert cli.main(args) == 0
    out = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "NOT KNOWN" in out and "another mesh may do" in out and "cannot have [different] sizes" in out
    assert cli.main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fault"].startswith("INTERNAL") and not found["fits"] and found["needs"] is None


def test_needs_of_a_refused_program():
    """As the compiler words it."""
    a = ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (16.32G) exceeds available "
         "HBM (15.75G).")
    assert program._needed(a, 2.0 * GIB) == pytest.approx(18.32 * GIB)
    b = "RESOURCE_EXHAUSTED: … Ran out of memory in memory space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G."
    assert program._needed(b, 2.0 * GIB) == pytest.approx(20.1 * GIB)
    assert program._needed("RESOURCE_EXHAUSTED", 2.0 * GIB) is None

