"""Splash attention in programs for TPUs that are not here: every width of head, packed rows, padded towers. Needs libtpu:
`make test-plan`."""

from __future__ import annotations

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest

from mof_jax.hardware import Topology
from mof_jax.mesh import MeshConfig, batch_sharding, make_mesh, on_mesh
from mof_jax.nn.attention import Mask, attention
from mof_jax.plan.program import devices

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]"),
]

ROWS, HEADS = 8, 4


@pytest.fixture(scope="module")
def mesh():
    """Rows over the four chips of v5e:2x2."""
    return make_mesh(MeshConfig(fsdp=4), devices(Topology.parse("v5e:2x2")))


def compiled(mesh, tokens: int, dim: int, packed: bool, kernel: str):
    """Attention and its gradient."""

    def step(q, k, v, segments):
        mask = Mask.packed(segments) if packed else Mask()
        loss = lambda q, k, v: attention(q, k, v, mask, kernel=kernel).astype(jnp.float32).sum()
        return jax.grad(loss, (0, 1, 2))(q, k, v)

    rows = batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((ROWS, tokens, HEADS, dim), jnp.bfloat16, sharding=rows)
    segments = jax.ShapeDtypeStruct((ROWS, tokens), jnp.int32, sharding=rows)
    return jax.jit(on_mesh(mesh, step), out_shardings=rows).lower(x, x, x, segments).compile()


def shapes(text: str) -> set[tuple[int, ...]]:
    return {tuple(map(int, sizes.split(","))) for sizes in re.findall(r"[a-z]+\d+\[([\d,]+)\]", text)}


# Tokens of a tower (ViT-L/14 at 224 and 336 px, So400m and H/14 at 378 px) and of a row of documents; 64: L/14, 72: So400m,
# 80: H/14, 128: language models.
@pytest.mark.parametrize("tokens,dim,packed", [(257, 64, False), (729, 72, False), (730, 80, False), (577, 64, False),
                                               (2048, 128, True), (1500, 128, True)])
def test_the_program_has_the_kernel_and_no_scores(mesh, tokens, dim, packed):
    text = compiled(mesh, tokens, dim, packed, "splash").as_text()
    calls = [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    assert len(calls) == 3, "forward, and the halves of the backward pass: of queries, of keys and values"
    padded = -(-tokens // 128) * 128
    for call in calls:
        operands = shapes(call)
        assert any(s[-2:] == (padded, dim) for s in operands), f"{tokens} tokens go in as {padded}"
    found = shapes(text)
    assert not [s for s in found if s[-2:] in ((tokens, tokens), (padded, padded))], "attention scores"
    # What tells documents (and padding) apart is an operand of a kernel that has a use for it.
    assert any(re.search(rf"s32\[[\d,]*{padded}", call) for call in calls)


def test_a_run_may_want_exact_float32(mesh):
    """`config.precision` says how float32 is multiplied; the kernel's bfloat16 has no such choice, and Mosaic refuses one."""
    with jax.default_matmul_precision("highest"):
        text = compiled(mesh, 257, 64, True, "splash").as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 3


def test_it_saves_the_scores(mesh):
    """4,096 packed tokens: two rows a device of four heads are 2 · 4 · 4096² scores, 512 MiB in float32."""
    splash, plain = (compiled(mesh, 4096, 128, True, kernel).memory_analysis().temp_size_in_bytes for kernel in ("splash", "xla"))
    assert plain > 512 * 2**20 and splash < 128 * 2**20, (splash / 2**20, plain / 2**20)
