"""The small form of a run: what shrinks and what stays. Shapes only."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import json
import re

import pytest
from run_samples import ROOT

from mof_jax import config as configs
from mof_jax import run
from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.mesh import batch_shards, make_mesh
from mof_jax.models.mllm import EncoderConfig
from mof_jax.plan import program
from mof_jax.plan.cache import key_of
from mof_jax.plan.check import Checked, check
from mof_jax.plan.cost import stages
from mof_jax.plan.memory import Estimate, abstract, estimate
from mof_jax.plan.program import Compiled
from mof_jax.plan.shrink import shallow, shrink, small_mesh, small_topology

REPOSITORY = ROOT.parent
GIB = 2**30


def shipped(spec: str) -> dict[str, run.RunConfig]:
    return stages(configs.load(f"{REPOSITORY}/configs/{spec}"))


@pytest.mark.parametrize("sizes, devices, slices, small", [
    (dict(data=1, fsdp=128, tensor=4), 8, 1, dict(data=1, fsdp=4, tensor=2)),
    (dict(data=8, fsdp=32, tensor=1), 8, 1, dict(data=2, fsdp=4, tensor=1)),
    (dict(data=16, fsdp=16, tensor=1), 8, 1, dict(data=4, fsdp=2, tensor=1)),
    (dict(data=256, fsdp=1, tensor=1), 8, 1, dict(data=8, fsdp=1, tensor=1)),
    (dict(data=2, fsdp=64, tensor=4), 8, 2, dict(data=2, fsdp=2, tensor=2)),
    (dict(data=4, fsdp=8, tensor=1), 8, 4, dict(data=4, fsdp=2, tensor=1)),
    (dict(data=1, fsdp=2, tensor=1), 8, 1, dict(data=1, fsdp=2, tensor=1)),
])
def test_a_mesh_keeps_its_axes(sizes, devices, slices, small):
    """An axis that was split stays split, one that was not stays whole, and a part of `data` is left for each slice."""
    assert small_mesh(sizes, devices, slices) == small


@pytest.mark.parametrize("full, devices, small", [
    ("v5p:8x8x8", 8, "v5p:2x2x2"), ("v5e:16x16", 8, "v5e:2x4"), ("2*v6e:16x16", 8, "2*v6e:2x2"),
    ("tpu7x:4x8x8", 8, "tpu7x:2x2x1"), ("v5e:2x2", 8, "v5e:2x2"),
])
def test_slices_stay_of_their_kind(full, devices, small):
    assert str(small_topology(Topology.parse(full), devices)) == small


def test_two_layers_are_left_of_every_stack():
    found = shallow(shipped("mof/imof.py:px=336")["tune"].model)
    assert found.llm.depth == 2 and [e.tower.depth for e in found.encoders] == [2, 2]
    assert found.encoders[0].layer == -2, "the feature is still that of the block before the last"
    assert shallow(shipped("ssl/mae_vit_l16.py")["run"].model).decoder_depth == 2
    assert shallow(EncoderConfig("a", found.encoders[0].vit)).tower.depth == 2


@pytest.mark.parametrize("spec, rows", [("mm1/pretrain_30b.py", 2), ("mof/llava15_7b.py", None), ("clip/siglip_so400m.py", None)])
def test_a_device_does_what_it_did(spec, rows):
    """As many rows on a device (of long ones a stream), the same layers but for their number, the same rules."""
    for config in shipped(spec).values():
        topology = Topology.parse(config.hardware.topology)
        small, slices = shrink(config, topology)
        (full, _), (there, _) = abstract(config, topology), abstract(small, slices)
        assert there.mesh.size == slices.devices <= 8
        assert small.batch_size // batch_shards(there.mesh) == (rows or config.batch_size // batch_shards(full.mesh))
        assert {a for a, n in there.mesh.shape.items() if n > 1} == {a for a, n in full.mesh.shape.items() if n > 1}
        assert small.objective == config.objective and small.data == config.data
        stacked = lambda path: "/blocks/" in path or "/convs" in path
        for path, x in there.skeleton.shapes.items():
            whole = full.skeleton.shapes[path].shape
            assert x.shape == whole or (stacked(path) and x.shape[1:] == whole[1:] and x.shape[0] == 2), path


def test_a_mesh_that_does_not_cover_the_slices_is_refused():
    config = shipped("clip/vit_l14.py")["run"]
    with pytest.raises(UserError, match="does not cover 256 devices"):
        shrink(dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=3)), Topology.parse("v5e:16x16"))


def checked(**changes) -> Checked:
    memory = Estimate(2.0 * GIB, 0, GIB, GIB, GIB, GIB, 0)
    return dataclasses.replace(Checked("c", "v5e:16x16", "v5e:2x4", 1.0, None, memory, 16.0 * GIB, "none", None), **changes)


def test_verdicts():
    """The full plan where it is of this program, else the formula, which may be off by a factor of two."""
    assert checked().verdict == "fits by formula"
    wide = Estimate(2.0 * GIB, 0, GIB, 4 * GIB, 4 * GIB, GIB, 0)
    assert checked(memory=wide).verdict == "fits perhaps"
    assert checked(memory=wide, record="fresh", recorded=15.0 * GIB).verdict == "fits"
    assert checked(record="stale", recorded=20.0 * GIB).verdict == "fits by formula", "a plan of something else says nothing"
    for wrong, why in ((dict(record="fresh", recorded=15.5 * GIB), "its full plan wants 15.50 GiB of 15.20 GiB"),
                       (dict(record="fresh", recorded=None), "its full plan wants more of 15.20 GiB"),
                       (dict(hbm=6.0 * GIB), "by formula it wants 6.00 GiB of 5.70 GiB"),
                       (dict(error="no such kernel"), "two layers on v5e:2x4 do not compile: no such kernel")):
        assert not checked(**wrong).passes and checked(**wrong).verdict == why


def test_failures_are_a_line_each(monkeypatch):
    """Of a process that died, a run that fails, and with `--strict` a full plan that is missing or of something else."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import plan_check

    results = {"a.py": "mof_jax.errors.UserError: config.mesh: …", "b.py": [checked(), checked(name="d", error="no such kernel")],
               "c.py": [checked(name="e", record="fresh", recorded=1.0), checked(name="f", record="stale")]}
    assert plan_check.failures(results, strict=False) == [
        "a.py: mof_jax.errors.UserError: config.mesh: …", "d: two layers on v5e:2x4 do not compile: no such kernel"]
    assert [line.split(":")[0] for line in plan_check.failures(results, strict=True)] == ["a.py", "d", "c", "f"]
    assert len(plan_check.row(checked())) == 10 and plan_check.row(checked(error="x"))[-1] == "FAILS"


def test_a_process_says_what_went_wrong(tmp_path, monkeypatch):
    """One line, whatever was printed before it."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import plan_check

    assert "no such config file" in plan_check.checked("configs/none.py", str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]")
def test_a_shipped_config_is_checked_with_the_compiler(tmp_path):
    """Compiled once, known by its program the second time; a record is fresh if it is of the same program; a refusal is said."""
    config = shipped("clip/vit_b16.py")["run"]
    topology = Topology.parse("v5e:16x16")
    found = check("b16", config, {}, str(tmp_path))
    assert found.error is None and found.record == "none" and found.small == "v5e:2x4 (data 8)"
    assert len(list(tmp_path.iterdir())) == 1
    *there, lowered = program.lower(config, make_mesh(config.mesh, program.devices(topology)))
    assert found.memory == estimate(*there), "the same shapes with and without the compiler's devices"
    record = dict(config=configs.digest(config), program=key_of(lowered.as_text(), topology), needs=5e9, memory={}, fits=True)
    again = check("b16", config, {"b16": record}, str(tmp_path))
    assert (again.record, again.verdict) == ("fresh", "fits") and len(list(tmp_path.iterdir())) == 1
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, b2=0.99))
    assert check("b16", other, {"b16": record}, str(tmp_path)).record == "stale"
    assert check("b16", config, {"b16": record | {"program": "of older code"}}, str(tmp_path)).record == "stale"
    assert check("b16", config, {"b16": dict(needs=5e9, memory={})}, str(tmp_path)).record == "stale", "an older file's"

    def refused(*args, **kwargs) -> Compiled:
        raise RuntimeError("INTERNAL: the kernel\n does not lower")

    assert check("b16", config, {"b16": record}, str(tmp_path), refused).verdict == "fits", "nothing is left to compile"
    broken = check("b16", config, {}, str(tmp_path), refused)
    assert broken.verdict == "two layers on v5e:2x4 (data 8) do not compile: INTERNAL: the kernel does not lower"


def test_json_there_and_back():
    """What a check's process prints is what the script reads."""
    c = checked()
    x = json.loads(json.dumps(dataclasses.asdict(c)))
    assert Checked(**x | {"memory": Estimate(**x["memory"])}) == c
    assert c.memory.used == 6.0 * GIB


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]")
def test_a_program_has_one_name_in_every_environment():
    """Kernels carry where their source lies; a record made elsewhere would be of another program."""
    small, slices = shrink(shipped("clip/vit_l14.py")["run"], Topology.parse("v5e:16x16"))
    text = program.lower(small, make_mesh(small.mesh, program.devices(slices)))[2].as_text()
    kernels = [base64.b64decode(body) for body in re.findall(r"body\\22: \\22([\w+/=]+)\\22", text)]
    assert any(b"splash_attention_kernel.py" in kernel for kernel in kernels)
    assert not any(b"/" + part in kernel for kernel in kernels for part in (b"site-packages", b"mof_jax/"))
