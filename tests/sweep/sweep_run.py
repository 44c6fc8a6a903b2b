"""The smallest runs there are, and grids of them."""

from __future__ import annotations

from ml_collections import ConfigDict

from mof_jax.config import arguments
from mof_jax.sweep.branches import cooldowns
from mof_jax.sweep.grid import product


def get_config(arg: str | None = None) -> ConfigDict:
    """A contrastive run of a few steps on noise, with a held-out loss."""
    arguments(arg, grid="rates", steps=6)
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "contrastive", 1, 6, 8
    c.model = dict(
        embed_dim=8,
        image=dict(width=8, depth=1, heads=1, patch_size=8, image_size=16, pool="gap", cls_token=False),
        text=dict(width=8, depth=1, heads=1, causal=False, mask_padding=True, pool="gap", dropout=0.1))
    c.tokenizer = dict(kind="bpe", vocab_size=300, context_length=8)
    c.data = dict(sources=[dict(kind="synthetic", size=64, pixels=16)], threads=1)
    c.optimizer = dict(name="adamw", lr=1e-3, schedule=dict(kind="wsd", warmup=2))
    c.checkpoint = dict(every=2, keep=2)
    c.log_every, c.eval_every = 1, None
    c.precision = "highest"
    return c


def sweep(arg: str | None = None) -> list[dict]:
    """`rates`: three learning rates; `one`: one run; `branches`: two lengths of one trunk, and a run of its own; `many`: three
    lengths of two trunks, and eight runs of their own."""
    o = arguments(arg, grid="rates", steps=6)
    if o.grid == "many":
        lengths = [o.steps, 2 * o.steps, 3 * o.steps]
        trunks = [point for lr in (1e-3, 2e-3) for point in cooldowns({"optimizer.lr": lr}, lengths)]
        return [*trunks, *product({"seed": range(8), "steps": [o.steps]})]
    if o.grid == "one":
        return [{"steps": o.steps}]
    if o.grid == "branches":
        return [*cooldowns({"optimizer.lr": 2e-3}, [o.steps, 2 * o.steps], 0.5), {"steps": o.steps}]
    return product({"optimizer.lr": [1e-3, 2e-3, 3e-3], "steps": [o.steps]})
