"""Clocks by formula: closed forms, against what was compiled, and against what others measured."""

from __future__ import annotations

import dataclasses
import math

import pytest
from run_samples import ROOT
from test_memory import RECORDS, recorded
import tiny_run

from mof_jax import run
from mof_jax.hardware import Topology
from mof_jax.plan.analytic import bytes_sent, clocks
from mof_jax.plan.memory import abstract, estimate
from mof_jax.plan.published import PUBLISHED, compared, report
from mof_jax.plan.roofline import recomputed
from mof_jax.plan.towers import towers

SLICE = Topology.parse("v5e:2x4")


def laid_out(topology: Topology = SLICE, microbatches: int = 1, remat: str = "none", **mesh: int):
    c = tiny_run.get_config()
    c.batch_size, c.mesh, c.microbatches = 64, mesh, microbatches
    c.model.image.remat = c.model.text.remat = remat
    return abstract(run.resolve(c), topology)


def weights(planned) -> int:
    return sum(x.size for x in planned.skeleton.shapes.values())


def test_gradients_of_replicas_are_reduced_once():
    """float32, 2·(n-1)/n of all parameters, by `data` alone."""
    planned, _ = laid_out(data=8)
    sent = bytes_sent(planned)
    assert all(d.trained for d in planned.decisions.values())
    assert sent["data"] == pytest.approx(2 * 7 / 8 * 4 * weights(planned)) and sent["fsdp"] == sent["tensor"] == 0


def test_split_weights_are_gathered_once_a_pass():
    planned, _ = laid_out(data=1, fsdp=8)
    split = [path for path, s in planned.shardings.items() if "fsdp" in s.spec]
    size = sum(planned.skeleton.shapes[path].size for path in split)
    rest = weights(planned) - size
    # float32: forward and backward, the gradient scattered; what is not split has its gradient reduced.
    assert bytes_sent(planned)["fsdp"] == pytest.approx(7 / 8 * (size * (2 * 4 + 4) + rest * 2 * 4), rel=1e-3)
    four = bytes_sent(laid_out(microbatches=4, data=1, fsdp=8)[0])["fsdp"]
    assert four == pytest.approx(7 / 8 * (4 * size * (3 * 4 + 4) + rest * 2 * 4), rel=1e-3)


def test_split_layers_reduce_the_residual_stream():
    """Twice a layer forward and twice backward; twice more where the layer is recomputed."""
    planned, _ = laid_out(data=4, fsdp=1, tensor=2)
    stream = sum(t.depth * t.sequences / 4 * t.tokens * t.width * 4 for t in towers(planned))
    assert bytes_sent(planned)["tensor"] == pytest.approx(stream * 2 * 2 * 2 * 1 / 2)
    assert bytes_sent(laid_out(remat="full", data=4, tensor=2)[0])["tensor"] == pytest.approx(stream * 2 * 3 * 2 * 1 / 2)


def test_only_replicas_talk_between_slices():
    pods = Topology.parse("2*v5e:1x4")
    planned, program = laid_out(pods, data=2, fsdp=4)
    found, sent = clocks(planned, pods, estimate(planned, program)), bytes_sent(planned)
    assert found.dcn == pytest.approx(sent["data"] / pods.chip.dcn) and found.ici == pytest.approx(sent["fsdp"] / pods.chip.ici)
    assert found.compute == pytest.approx(sum(planned.flops().values()) / (8 * pods.chip.flops))


def test_replicas_of_a_slice_share_what_crosses():
    """Four replicas in two slices: a reduction inside each, and then half of the sum from each device to the other slice."""
    pods = Topology.parse("2*v5e:1x4")
    planned, program = laid_out(pods, data=4, fsdp=2)
    found, sent = clocks(planned, pods, estimate(planned, program)), bytes_sent(planned)
    size = sent["data"] / (2 * 3 / 4)
    assert found.dcn == pytest.approx(size / 2 / pods.chip.dcn)
    assert found.ici == pytest.approx((sent["fsdp"] + 2 / 2 * size) / pods.chip.ici)


def test_what_keeps_its_matrices_repeats_attention_alone():
    planned, _ = laid_out(remat="dots", data=8)
    again = sum(t.sequences * t.attention for t in towers(planned) if t.through)
    assert recomputed(planned, planned.flops()) == pytest.approx(again) and again > 0


@pytest.mark.parametrize("p", RECORDS, ids=[p["name"].removeprefix("configs/") for p in RECORDS])
def test_near_what_was_compiled(p):
    """Compute is the same sum. Of what is sent, the formula has between a third and one and a half of what the compiler sends."""
    if p["memory"] is None:
        pytest.skip("it does not fit")
    topology = Topology.parse(p["topology"])
    planned, program = abstract(recorded(p), topology)
    found = clocks(planned, topology, estimate(planned, program))
    assert found.model_flops == pytest.approx(p["model_flops"], rel=1e-9)
    sent, said = found.ici + found.dcn, p["roofline"]["ici"] + p["roofline"]["dcn"]
    assert said / 3 < sent < said * 1.5
    assert math.isclose(found.exposed, p["roofline"]["exposed"], rel_tol=0.25)


@pytest.mark.parametrize("p", PUBLISHED, ids=[f"{p.name} {p.topology} {i}" for i, p in enumerate(PUBLISHED)])
def test_published_steps_are_slower_than_the_bound(p):
    found = compared(p)
    assert found.bound > 1 and found.again == pytest.approx(found.bound * 3 / 4, rel=0.03), "a third of the work is done again"
    if p.mfu is not None and p.vit is None:
        assert min(abs(mfu / p.mfu - 1) for mfu in (found.mfu, found.full)) < 0.02, "our FLOPs are theirs"


def test_the_page_is_what_the_module_writes():
    assert report() == (ROOT.parent / "docs/roofline.md").read_text()


def test_a_published_rate_is_a_step_time():
    p = next(p for p in PUBLISHED if p.name == "Llama-2-7B")
    assert p.rows == 2 and p.seconds == pytest.approx(2.5 * 8192 * 256 / 2**22)
    assert dataclasses.replace(p, topology="tpu7x:2x2x1").seconds == pytest.approx(2 * p.seconds), "two devices share a chip"
