"""Hard Negative Mixing for Contrastive Learning (MoCHi, arXiv 2010.01028): negatives mixed from the hardest of a queue.

    mof train --config configs/papers/mochi.py --workdir runs/mochi              (mochi.py:arm=moco: the queue alone)
    mof claim configs/papers/mochi.py --workdir runs/claims/mochi

MoCo's queue and momentum teacher on two views of the embedded pictures, from scratch, with the quickstart's image tower; the text
tower stands still and is not computed. The teacher's momentum rises to 1 along a half cosine, where MoCo keeps 0.999.
"""

import os

from mof_jax.claims.claim import Claim, Lead
from mof_jax.config import arguments, load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), os.pardir, "clip", "quickstart.py"))
MIXTURES = {"mochi": dict(mixed=256, with_query=64), "moco": dict(mixed=0, with_query=0)}


def get_config(arg=None):
    o = arguments(arg, arm="mochi")
    c = quickstart.get_config()
    c.steps = 300
    c.model.image.width, c.model.embed_dim = 64, 64
    c.model.teacher = dict(of=("image",), momentum=0.99)
    c.objective = dict(kind="mochi", queue=2048, hardest=256, begin=50, **MIXTURES[o.arm])
    c.data.views = 2
    c.data.augment = dict(affine=dict(zoom=0.4, shift=0.2))
    c.optimizer.freeze = [("text/.*", True), ("logit_scale", True)]
    c.optimizer.schedule.warmup = 30
    twemoji = dict(kind="emoji5", split="twemoji")
    c.evals = [dict(kind="embedding_geometry", name="geometry", source=twemoji)]
    return c


def claim():
    plain = {"objective.mixed": 0, "objective.with_query": 0}
    return Claim("Negatives mixed from the hardest of a queue spread features more evenly over the sphere than the queue alone.",
                 paper="2010.01028", minutes=3, arms={"mochi": {}, "moco": plain}, metric="geometry/uniformity",
                 lower=("geometry/uniformity",), conditions=(Lead("mochi", "moco"),))
