"""A claim so small that it is judged in seconds: whether training at all beats none."""

from __future__ import annotations

from ml_collections import ConfigDict

from mof_jax.claims.claim import Claim, Equivalence, Lead

RATE = 1e-3


def get_config(arg: str | None = None) -> ConfigDict:
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "contrastive", 1, 2, 8
    c.model = dict(
        embed_dim=8,
        image=dict(width=8, depth=1, heads=1, patch_size=8, image_size=16, pool="gap", cls_token=False),
        text=dict(width=8, depth=1, heads=1, causal=False, mask_padding=True, pool="gap"))
    c.tokenizer = dict(kind="bpe", vocab_size=300, context_length=8)
    c.data = dict(sources=[dict(kind="synthetic", size=64, pixels=16)], threads=1)
    c.optimizer = dict(lr=RATE, schedule=dict(warmup=1))
    c.evals = [dict(kind="retrieval", source=dict(kind="emoji5", split="unseen")),
               dict(kind="embedding_geometry", source=dict(kind="emoji5", split="unseen"))]
    c.eval_every = None
    return c


def claim() -> Claim:
    return Claim(
        "A trained model finds more than one that stands still.",
        arms={"trained": {}, "still": {"optimizer.lr": 1e-12}, "slow": {"optimizer.lr": RATE / 2}},
        metric="retrieval/r@1",
        minutes=0.1,
        data="synthetic signal",
        conditions=(
            Lead("trained", "still", claimed=10.0),
            Equivalence("trained", "slow", margin=5.0),
            Lead("trained", "still", metric="geometry/uniformity"),
        ),
        lower=("geometry/uniformity",),
    )
