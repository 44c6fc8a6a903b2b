"""The small form of a run: what shrinks and what stays. Shapes only."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import os
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
from mof_jax.plan.check import Checked, check, covered
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


@pytest.mark.parametrize("spec, rows", [("mm1/pretrain_30b.py", 1), ("mof/llava15_7b.py", 1), ("clip/siglip_so400m.py", None)])
def test_a_device_does_what_it_did(spec, rows):
    """As many rows on a device (of packed ones one, with one picture), the same layers but for their number and rules."""
    for config in shipped(spec).values():
        topology = Topology.parse(config.hardware.topology)
        small, slices = shrink(config, topology)
        (full, _), (there, _) = abstract(config, topology), abstract(small, slices)
        assert there.mesh.size == slices.devices <= 8
        assert small.batch_size // batch_shards(there.mesh) == (rows or config.batch_size // batch_shards(full.mesh))
        assert {a for a, n in there.mesh.shape.items() if n > 1} == {a for a, n in full.mesh.shape.items() if n > 1}
        assert small.objective == config.objective
        fewer = {} if small.task != "mllm" else dict(rows_per_stream=1, images_per_stream=1, max_images=1)
        assert small.data == dataclasses.replace(config.data, **fewer)
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

    results = {"a": "config.mesh: …", "b": "b: no such config", "c": checked(), "d": checked(name="d", error="no such kernel"),
               "e": checked(name="e", record="fresh", recorded=1.0), "f": checked(name="f", record="stale")}
    assert plan_check.failures(results, strict=False) == [
        "a: config.mesh: …", "b: no such config", "d: two layers on v5e:2x4 do not compile: no such kernel"]
    assert [line.split(":")[0] for line in plan_check.failures(results, strict=True)] == ["a", "b", "d", "c", "f"]
    assert len(plan_check.row(checked())) == 10 and plan_check.row(checked(error="x"))[-1] == "FAILS"


def test_a_run_is_compiled_for_the_slices_that_have_all():
    """Of the same run on the same generation: more slices, more axes. Another chip, batch or model is another run."""
    specs = ["mm1/pretrain_3b.py", *(f"mm1/pretrain_3b.py:topology={t}" for t in (
        "v5p:8x8x8", "v6e:16x16", "2*v6e:16x16", "tpu7x:4x8x8"))]
    runs = {spec: shipped(spec)["run"] for spec in specs}
    assert covered(runs) == {specs[0]: specs[1], specs[2]: specs[3]}
    one = runs[specs[1]]
    again = covered({"a": one, "b": one, "c": dataclasses.replace(one, batch_size=1024)})
    assert again == {"b": "a"}
    split = dataclasses.replace(one, mesh=dataclasses.replace(one.mesh, fsdp=1, tensor=2))
    assert covered({"a": split, "b": one}) == {"a": "b"}
    apart = dataclasses.replace(one, mesh=dataclasses.replace(one.mesh, data=1, fsdp=-1, tensor=2))
    other = dataclasses.replace(one, mesh=dataclasses.replace(one.mesh, data=-1, fsdp=2, tensor=1))
    assert covered({"a": apart, "b": other}) == {}, "each splits what the other does not"


def test_a_run_that_another_covers_is_counted_and_not_compiled():
    def refused(*args, **kwargs) -> Compiled:
        raise AssertionError("compiled")

    config = shipped("mm1/pretrain_3b.py")["run"]
    found = check("3b", config, None, None, "the other", refused)
    assert (found.small, found.verdict) == ("as the other", "fits by formula")
    alone = check("3b", config, None, None, None, refused)
    assert alone.verdict == "two layers on v5p:2x2x2 (data 2 × fsdp 4) do not compile: compiled"


def test_a_worker_says_what_went_wrong(tmp_path, monkeypatch):
    """One line for a config that is wrong and for a run that fails; a process that died is replaced."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import plan_check

    monkeypatch.chdir(REPOSITORY)
    said = plan_check.checked(["configs/none.py", "configs/clip/quickstart.py"], 1, str(tmp_path))
    assert "no such config file" in said["configs/none.py"] and "config.hardware.topology" in said["configs/clip/quickstart.py"]
    config = shipped("mm1/pretrain_3b.py")["run"]
    worker = plan_check.Worker(str(tmp_path))
    try:
        assert worker.check("a", dataclasses.replace(config, batch_size=100), None, "b").startswith("config.batch_size: 100")
        assert worker.check("a", config, Gone(), "b") == "Check failed: no such kernel"
        assert worker.check("a", config, None, "b").small == "as b"
    finally:
        worker.close()


class Gone(dict):
    """A record on which the process that unpacks it is gone, as the compiler would have it."""

    def __reduce__(self):
        return _abort, ()


def _abort() -> None:
    os.write(2, b"noise\nF1128 21:40:08 1 hlo.h:1] Check failed: no such kernel\nE1128 21:40:08 1 core.cc:1] dumping\n")
    os.abort()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]")
def test_a_shipped_config_is_checked_with_the_compiler(tmp_path):
    """Compiled once, known by its program the second time; a record is fresh if it is of the same program; a refusal is said."""
    config = shipped("clip/vit_b16.py")["run"]
    topology = Topology.parse("v5e:16x16")
    found = check("b16", config, None, str(tmp_path))
    assert found.error is None and found.record == "none" and found.small == "v5e:2x4 (data 8)"
    assert len(list(tmp_path.iterdir())) == 1
    *there, lowered = program.lower(config, make_mesh(config.mesh, program.devices(topology)))
    assert found.memory == estimate(*there), "the same shapes with and without the compiler's devices"
    record = dict(config=configs.digest(config), program=key_of(lowered.as_text(), topology), needs=5e9, memory={}, fits=True)
    again = check("b16", config, record, str(tmp_path))
    assert (again.record, again.verdict) == ("fresh", "fits") and len(list(tmp_path.iterdir())) == 1
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, b2=0.99))
    assert check("b16", other, record, str(tmp_path)).record == "stale"
    assert check("b16", config, record | {"program": "of older code"}, str(tmp_path)).record == "stale"
    assert check("b16", config, dict(needs=5e9, memory={}), str(tmp_path)).record == "stale", "an older file's"

    def refused(*args, **kwargs) -> Compiled:
        raise RuntimeError("INTERNAL: the kernel\n does not lower")

    assert check("b16", config, record, str(tmp_path), None, refused).verdict == "fits", "nothing is left to compile"
    broken = check("b16", config, None, str(tmp_path), None, refused)
    assert broken.verdict == "two layers on v5e:2x4 (data 8) do not compile: INTERNAL: the kernel does not lower"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]")
def test_a_program_has_one_name_in_every_environment():
    """Kernels carry where their source lies; a record made elsewhere would be of another program."""
    small, slices = shrink(shipped("clip/vit_l14.py")["run"], Topology.parse("v5e:16x16"))
    text = program.lower(small, make_mesh(small.mesh, program.devices(slices)))[2].as_text()
    kernels = [base64.b64decode(body) for body in re.findall(r"body\\22: \\22([\w+/=]+)\\22", text)]
    assert any(b"splash_attention_kernel.py" in kernel for kernel in kernels)
    assert not any(b"/" + part in kernel for kernel in kernels for part in (b"site-packages", b"mof_jax/"))
