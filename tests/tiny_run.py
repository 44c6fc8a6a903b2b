"""A run small enough for a test: a mixture of two embedded sources, captions chosen at random, a filter, dropout."""

from __future__ import annotations

from ml_collections import ConfigDict

CLOCK = ("time", "examples_per_s", "examples_per_s_per_device", "mfu", "tflops_per_device", "data_wait", "hbm_gb", "goodput",
         "seconds", "unix_time", "step_s", "host_s")


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg` is the folder of the filtered JSONL source; without it only the embedded pictures are read."""
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "contrastive", 3, 40, 16
    c.model = dict(
        embed_dim=16,
        image=dict(width=16, depth=2, heads=2, patch_size=8, image_size=16, pool="gap", cls_token=False, patch_dropout=0.25),
        text=dict(width=16, depth=1, heads=2, causal=False, mask_padding=True, pool="gap", dropout=0.1))
    c.objective = dict(multi_positive=True)
    c.tokenizer = dict(kind="bpe", vocab_size=400, context_length=8)
    sources = [dict(kind="emoji5", weight=2.0, captions=dict(probabilities=dict(alt=0.5, tags=0.5)))]
    if arg:
        sources.append(dict(kind="jsonl", name="pool", path=f"{arg}/pool.jsonl", weight=1.0,
                            captions=dict(probabilities=dict(alt=0.5, synthetic=0.5)),
                            filter=dict(rules=dict(dfn=dict(fraction=0.5)))))
    c.data = dict(sources=sources, threads=2, augment=dict(affine=dict(zoom=0.2, shift=0.1)))
    c.optimizer = dict(name="muon", lr=1e-3, ema=0.9, schedule=dict(warmup=2))
    c.checkpoint = dict(every=4, keep=3)
    c.log_every, c.eval_every = 1, None
    c.precision = "highest"
    return c


def losses(lines: list[dict]) -> list[dict]:
    """What a run computed: its log lines without the clock."""
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
