"""It's Not a Modality Gap (arXiv 2405.18570): uniformity and alignment beside CLIP's loss close the gap between modalities.

    mof train --config configs/papers/cua.py --workdir runs/cua              (CLIP alone: cua.py:arm=clip; with both: arm=cuaxu)
    mof claim configs/papers/cua.py --workdir runs/claims/cua

The quickstart's model and pictures in 32 dimensions, as the paper's smallest, at its fixed temperature of 0.01, from scratch (the
paper fine-tunes CLIP B/32 on COCO). About three minutes a run on two CPU cores.
"""

import os

from mof_jax.claims.claim import Claim, Equivalence, Order
from mof_jax.config import arguments, load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), os.pardir, "clip", "quickstart.py"))
UNIFORM = dict(images=dict(kind="uniformity", of=("image", "image"), weight=0.5),
               texts=dict(kind="uniformity", of=("text", "text"), weight=0.5), align=dict(kind="alignment"))
ARMS = {"clip": {}, "cua": UNIFORM, "cuaxu": UNIFORM | dict(across=dict(kind="uniformity", of=("image", "text")))}


def get_config(arg=None):
    o = arguments(arg, arm="cua")
    c = quickstart.get_config()
    c.steps = 400
    c.model.embed_dim = 32
    c.model.logit_scale_init = c.model.max_logit_scale = 100.0
    c.objective = dict(clip=dict(kind="softmax", multi_positive=True), **ARMS[o.arm])
    c.optimizer.schedule.warmup = 40
    c.optimizer.freeze = [("logit_scale", True)]
    twemoji = dict(kind="emoji5", split="twemoji")
    c.evals = [dict(kind="retrieval", name="twemoji", source=twemoji), dict(kind="modality_gap", name="gap", source=twemoji)]
    return c


def claim():
    off = {f"objective.{name}.weight": 0.0 for name in UNIFORM}
    arms = {"clip": off, "cua": {}, "cuaxu": {"objective.across": dict(kind="uniformity", of=("image", "text"))}}
    return Claim("Uniformity inside each modality and alignment close the gap between them, uniformity across them less so, and "
                 "retrieval does not suffer.", paper="2405.18570", minutes=10, arms=arms, metric="gap/centroid_distance",
                 lower=("gap/centroid_distance",),
                 conditions=(Order(("cua", "cuaxu", "clip")), Equivalence("cua", "clip", margin=2.0, metric="twemoji/r@5")))
