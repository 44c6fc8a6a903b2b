"""The formula of memory: exact where it can be, closed forms, and within its factor of everything that was compiled."""

from __future__ import annotations

import dataclasses
import json

import pytest
from run_samples import ROOT
import tiny_run

from mof_jax import config as configs
from mof_jax import run
from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.mesh import MeshConfig, abstract_mesh, make_mesh
from mof_jax.plan import program
from mof_jax.plan.cost import stages
from mof_jax.plan.memory import FACTOR, abstract, estimate, saved, working
from mof_jax.plan.towers import Tower, towers

REPOSITORY = ROOT.parent
RECORDS = [json.loads(line) for line in (REPOSITORY / "docs/plans.jsonl").read_text().splitlines()]
TOWER = Tower("llm", 64, 128, 32, 4, 160, 8, 8, 1e6, "full", True, True)


def recorded(p: dict) -> run.RunConfig:
    """The config that a recorded plan is of; its layout is the recorded one."""
    command, _, stage = p["name"].partition(", stage ")
    spec, *words = command.split()
    changes = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    config = stages(configs.override(configs.load(f"{REPOSITORY}/{spec}"), changes))[stage or "run"]
    return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **p["mesh"]))


@pytest.mark.parametrize("p", RECORDS, ids=[p["name"].removeprefix("configs/") for p in RECORDS])
def test_within_its_factor_of_what_the_compiler_said(p):
    if p["memory"] is None:
        pytest.skip("it does not fit")
    found = estimate(*abstract(recorded(p), Topology.parse(p["topology"])))
    assert found.state == p["state"]["state"], "the state is exact"
    assert 1 / FACTOR < p["memory"]["temporaries"] / found.temporaries < FACTOR
    # What is searched with it: nothing that fits is pruned, and what is called sure to fit does.
    assert found.state + found.batch + found.temporaries / FACTOR <= p["needs"]
    assert found.state + found.batch + found.temporaries * FACTOR >= p["needs"]


def test_shapes_without_devices_are_those_with():
    c = tiny_run.get_config()
    c.mesh, c.hardware = dict(data=2, fsdp=4), dict(topology="v5e:2x4")
    config = run.resolve(c)
    there, step, _ = program.lower(config, make_mesh(config.mesh))
    alone = abstract(config, Topology.parse("v5e:2x4"))
    assert estimate(there, step) == estimate(*alone)
    assert {k: s.spec for k, s in there.shardings.items()} == {k: s.spec for k, s in alone[0].shardings.items()}


def test_what_a_forward_pass_leaves():
    """Of one sequence, in bytes: a layer's input [128, 32] in bfloat16, four layers; all of it where nothing is recomputed."""
    policy = lambda remat, heads=0: dataclasses.replace(TOWER, remat=remat, scores=heads)
    assert saved(policy("full"), 1, 2) == 4 * 128 * 32 * 2
    assert saved(policy("dots"), 1, 2) == 4 * 128 * (3 * 32 + 160) * 2
    assert saved(policy("none"), 1, 2) == 4 * 128 * (4 * 32 + 160) * 2
    assert saved(policy("none", 8), 1, 2) - saved(policy("none"), 1, 2) == 4 * 8 * 128 * 128 * (2 + 4)
    assert saved(policy("full", 8), 1, 2) == saved(policy("full"), 1, 2), "scores are recomputed"
    assert saved(policy("dots"), 2, 2) == 4 * 128 * (3 * 32 + 80) * 2, "`tensor` splits what is inside a layer"


def test_the_widest_layer():
    assert working(dataclasses.replace(TOWER, scores=0), 1, 2) == 128 * 2 * 2 * (4 * 32 + 160)
    assert working(dataclasses.replace(TOWER, scores=0, through=False), 1, 2) == 128 * 2 * (4 * 32 + 160)


def test_towers_of_a_staged_run():
    """Frozen encoders have no gradient; a frozen language model has one where a connector is trained before it."""
    runs = stages(configs.load(f"{REPOSITORY}/configs/mof/llava15_7b.py"))
    align, tune = (towers(abstract(c, Topology.parse("v5e:8x8"))[0]) for c in runs.values())
    assert [(t.part, t.trained, t.through) for t in align] == [("encoders/clip", False, False), ("llm", False, True)]
    assert [(t.part, t.trained, t.through) for t in tune] == [("encoders/clip", False, False), ("llm", True, True)]
    assert align[0].tokens == 24**2 + 1 and align[0].depth == 23 and align[0].sequences == 256


def test_abstract_meshes():
    assert dict(abstract_mesh(MeshConfig(data=-1, fsdp=4), 32).shape) == dict(data=8, fsdp=4, tensor=1)
    for wrong, devices in ((MeshConfig(data=3), 8), (MeshConfig(fsdp=3), 8), (MeshConfig(data=2, fsdp=2), 8)):
        with pytest.raises(UserError, match=f"does not cover {devices} devices"):
            abstract_mesh(wrong, devices)
