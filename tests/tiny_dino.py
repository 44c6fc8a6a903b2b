"""A run of self-distillation small enough for a test: a teacher that moves, small crops, prototypes held at first."""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "dino", 3, 16, 16
    c.model = dict(
        encoder=dict(width=16, depth=2, heads=2, patch_size=8, image_size=16, pool="gap", cls_token=False, patch_dropout=0.25),
        hidden=16, bottleneck=8, prototypes=32)
    c.objective = dict(momentum=0.9, teacher_temperature=(0.04, 0.1), warmup=8, frozen_prototypes=4)
    c.microbatches = 2
    crop = dict(crop=dict(scale=(0.3, 1.0)))
    c.data = dict(sources=[dict(kind="emoji5")], views=2, threads=2, augment=crop,
                  local=dict(views=2, image_size=8, augment=crop))
    c.optimizer = dict(name="muon", lr=1e-3, schedule=dict(warmup=2))
    c.checkpoint = dict(every=4, keep=3)
    c.log_every, c.eval_every = 1, None
    c.precision = "highest"
    return c
