"""Slices of TPUs by name, both ways."""

from __future__ import annotations

import pytest

from mof_jax.errors import UserError
from mof_jax.hardware import CHIPS, HardwareConfig, Topology


@pytest.mark.parametrize("name, type_, chips", [
    ("v5e:16x16", "v5litepod-256", 256), ("v5e:8x8", "v5litepod-64", 64), ("v6e:16x16", "v6e-256", 256),
    ("v5p:8x8x8", "v5p-1024", 512), ("v5p:4x4x4", "v5p-128", 64), ("tpu7x:4x8x8", "tpu7x-512", 256), ("v4:4x4x4", "v4-128", 64)])
def test_names_and_accelerator_types_both_ways(name, type_, chips):
    """The names of v4, v5p and tpu7x count cores, two in a chip (Cloud TPU's pages)."""
    assert Topology.parse(name).accelerator_type == type_
    assert Topology.parse(type_) == Topology.parse(name)
    assert Topology.parse(name).chips == chips


def test_every_slice_on_offer_has_a_type_of_its_own():
    for generation, chip in CHIPS.items():
        for shape in chip.shapes:
            t = Topology.parse(f"{generation}:{shape}")
            assert str(t) == f"{generation}:{shape}" and Topology.parse(t.accelerator_type) == t


def test_several_slices_and_their_hosts():
    t = Topology.parse("2*v6e:16x16")
    assert (t.slices, t.chips, t.devices, t.hosts, t.slice, str(t)) == (2, 512, 512, 128, "v6e:16x16", "2*v6e:16x16")
    assert Topology.parse("tpu7x:4x8x8").devices == 512  # two a chip


@pytest.mark.parametrize("name, message", [
    ("v5p:8x8", "looks like v5p:16x16x24"), ("v5e:4x4x4", "looks like v5e:16x16"), ("v9:4x4", "unknown TPU generation 'v9'"),
    ("v5p-²", "write GENERATION:AxB"), ("v5e:²x²", "write GENERATION:AxB"), ("٤*v5e:4x4", "write GENERATION:AxB"),
    ("v5p-" + "9" * 5000, "write GENERATION:AxB"), ("v5p:" + "9" * 5000 + "x2x2", "write GENERATION:AxB"),
    ("999999*v5e:999x999", "more than 1,048,576 chips"), ("v5p:99999x99999x99999", "more than 1,048,576 chips"),
    ("9" * 5000 + "*v5e:4x4", "write GENERATION:AxB"), ("v5e:4x4\n", "write GENERATION:AxB"), (3, "topology 3: write"),
    (["v5e:4x4"], "topology .* write"), (None, "topology None: write"),
    ("v5p-1000", "on offer are v5p-8, v5p-16"), ("v6e_256", "write GENERATION:AxB"), ("0*v5e:4x4", "looks like"), ("", "write")])
def test_wrong_names_say_what_is_right(name, message):
    with pytest.raises(UserError, match=message) as caught:
        Topology.parse(name)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()
    if name:
        with pytest.raises(UserError):
            HardwareConfig(name)
