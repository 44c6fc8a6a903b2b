"""Step times that others have published, beside what our formulas say of the same model on the same chips.

    python -m mof_jax.plan.published > docs/roofline.md

A roofline is a bound, so the ratio of a measured step to it says how far real trainers are from it. None of these steps was run
by us, and none of the sources gives everything that a step depends on: what we had to assume stands beside each.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from typing import Any

from mof_jax.hardware import Topology
from mof_jax.models.llm import SIZES, LLMConfig
from mof_jax.plan.analytic import clocks
from mof_jax.plan.memory import abstract, estimate
from mof_jax.plan.roofline import Roofline
from mof_jax.run import resolve

_70B = dict(width=8192, depth=80, heads=64, kv_heads=8, mlp_dim=28672)
_405B = dict(width=16384, depth=126, heads=128, kv_heads=8, mlp_dim=53248, vocab_size=128256)
_GEMMA_2B = dict(width=2048, depth=18, heads=8, kv_heads=1, head_dim=256, mlp_dim=16384, vocab_size=257216, tied=True)


@dataclasses.dataclass(frozen=True)
class Published:
    """A measurement.

    Attributes:
      llm: layers of the language model. topology: chips; the shape of the slice does not matter to the formulas.
      tokens: of a row. rate: tokens/s a chip. mfu: as published, None where nothing is.
      source: who says so. assumed: what the source does not say, "" for nothing that matters to the bound.
      vit: of a multimodal model, whose picture is 256 of the tokens of a row.
      fsdp: into how many parts parameters are split, 0 for all devices.
    """

    name: str
    llm: dict[str, Any]
    topology: str
    tokens: int
    rate: float
    mfu: float | None
    source: str
    assumed: str = ""
    vit: dict[str, Any] | None = None
    fsdp: int = 0

    @property
    def rows(self) -> int:
        """On one device, of about 8,192 tokens together."""
        return 8192 // self.tokens

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.tokens * self.rows * Topology.parse(self.topology).chip.devices / self.rate


MAXTEXT, RECIPES = "MaxText, docs/reference/models/tiering.md", "AI-Hypercomputer/tpu-recipes"
AXLEARN = "AXLearn, arXiv 2507.05411, from a secondary table"
PUBLISHED: tuple[Published, ...] = (
    Published("Llama-3.1-8B", SIZES["llama3-8b"], "v6e:16x16", 8192, 7207, 0.4546, MAXTEXT),
    Published("Llama-3.1-70B", _70B | dict(vocab_size=128256), "v6e:16x16", 8192, 960, 0.5033, MAXTEXT),
    Published("Llama-2-70B", _70B | dict(vocab_size=32000), "v5p:8x8x8", 4096, 692, 0.654, MAXTEXT,
              "4,096 tokens a row; another page of MaxText says 128 for the 512 chips"),
    Published("Llama-3.1-405B", _405B, "v5p:8x8x8", 8192, 124.6, 0.685, f"{RECIPES}, training/v5p", "8,192 tokens a row"),
    Published("Llama-3.1-70B", _70B | dict(vocab_size=128256), "tpu7x:4x4x4", 8192, 2687, 0.523,
              f"{RECIPES}, training/ironwood", "8,192 tokens a row"),
    Published("Llama-3.1-405B", _405B, "tpu7x:4x8x8", 8192, 500, 0.547, f"{RECIPES}, training/ironwood", "8,192 tokens a row"),
    Published("Llama-2-7B", SIZES["llama2-7b"], "v5p:4x8x8", 4096, 2**22 / 2.5 / 256, None, AXLEARN,
              "2.5 s a step of 4 Mi tokens, 4,096 a row"),
    Published("Llama-2-70B", _70B | dict(vocab_size=32000), "v5p:8x8x8", 4096, 2**22 / 11.6 / 512, None, AXLEARN,
              "11.6 s a step of 4 Mi tokens, 4,096 a row"),
    Published("PaliGemma 3B", _GEMMA_2B, "v5e:16x16", 350, 5189, 0.55, "arXiv 2407.07726, from a third party's page",
              "1 billion examples are 350 billion tokens, 256 of each the picture's; the published MFU's formula is not",
              vit=dict(variant="So400m/14", pool="none", cls_token=False), fsdp=128),
)

HEAD = """# How far published steps are from the roofline

`python -m mof_jax.plan.published > docs/roofline.md` writes this. Times of others, none of them run by us, beside what
`mof_jax/plan/analytic.py` says of the same model with 8,192 tokens a device and parameters split over all of them (our choice:
batch and layout do not change these bounds, which compute sets, but `exposed`). `MFU, ours` is the published rate by our FLOPs:
head counted, causal attention as the half that a causal kernel computes, no recomputation; `with full attention` counts all of
it, as MaxText did until its pull request 1988. `bound` is the fastest step that the peak of the chips allows, with nothing
recomputed and with every layer recomputed; a ratio is the measured step to it.

| model | chips | tokens/s a chip | MFU, published | ours | with full attention | measured ÷ bound | ÷ bound, recomputed | \
÷ exposed, recomputed | source | assumed |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def predicted(p: Published, remat: str) -> Roofline:
    """The clocks of that step."""
    topology = Topology.parse(p.topology)
    splash = dict(kernel="splash", remat=remat)
    encoders = [] if p.vit is None else [dict(name="vit", vit=p.vit | splash)]
    kinds = dict(text=dict(sources=[dict(kind="glossary")]))
    data: dict[str, Any] = dict(kinds=kinds, context_length=p.tokens, rows_per_stream=1)
    data |= {} if p.vit is None else dict(images_per_stream=1, max_images=1)
    config = resolve(dict(
        task="mllm", steps=1, batch_size=p.rows * topology.devices, data=data, mesh=dict(fsdp=p.fsdp or topology.devices),
        model=dict(dtype="bfloat16", encoders=encoders, connector=dict(kind="linear"), llm=p.llm | splash)))
    run, program = abstract(config, topology)
    return clocks(run, topology, estimate(run, program))


@dataclasses.dataclass(frozen=True)
class Compared:
    """A measurement beside the formulas.

    Attributes:
      mfu: by our FLOPs. full: with all of the attention counted. bound: the measured step to the bound. again, exposed: to the
        bound and to the exposed time with every layer recomputed.
    """

    mfu: float
    full: float
    bound: float
    again: float
    exposed: float


def compared(p: Published) -> Compared:
    """A measurement beside the formulas."""
    none, again = predicted(p, "none"), predicted(p, "full")
    llm = LLMConfig(**p.llm)
    attention = 3 * llm.attention_flops(p.tokens) * p.rows * Topology.parse(p.topology).devices
    mfu = none.mfu(p.seconds)
    return Compared(mfu, mfu * (1 + attention / none.model_flops), p.seconds / none.bound, p.seconds / again.bound,
                    p.seconds / again.exposed)


def report() -> str:
    """`docs/roofline.md`."""
    found = [compared(p) for p in PUBLISHED]
    lines = []
    for p, c in zip(PUBLISHED, found):
        t, mfu = Topology.parse(p.topology), "" if p.mfu is None else f"{p.mfu:.1%}"
        cells = [p.name, f"{t.chips} {t.generation}", f"{p.rate:,.0f}", mfu, f"{c.mfu:.1%}", f"{c.full:.1%}", f"{c.bound:.2f}",
                 f"{c.again:.2f}", f"{c.exposed:.2f}", p.source, p.assumed]
        lines.append(f"| {' | '.join(cells)} |\n")
    off = [min(abs(x / p.mfu - 1) for x in (c.mfu, c.full)) for p, c in zip(PUBLISHED, found) if p.mfu and p.vit is None]
    spread = lambda name: (lambda x: f"{min(x):.2f} to {max(x):.2f} times, median {statistics.median(x):.2f}")(
        [getattr(c, name) for c in found])
    low, high = min(c.mfu for c in found), max(c.mfu for c in found)
    return HEAD + "".join(lines) + f"""
Read as a prediction, `bound` is too short: a measured step takes {spread("bound")}; with every
layer recomputed, as most of our configs do it, {spread("again")}. `exposed` is nearer: {spread("exposed")}
(below 1 where a trainer hides communication or recomputes less).

Our FLOPs agree with the published MFU of the language models to {max(off):.1%}, counting attention one way or the other.
`config.hardware.mfu`, 0.4 unless a config says another, is what `mof plan` expects of a run. These runs reach {low:.0%} to
{high:.0%} by the same count; they are the best that were published, of trainers tuned for them. Set it to what you measure.
"""


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print(report(), end="")
