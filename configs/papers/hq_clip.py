"""After HQ-CLIP (arXiv 2507.22431): an image tells its caption from a wrong one of its own, and names its tags.

    mof train --config configs/papers/hq_clip.py --workdir runs/hq_clip      (hq_clip.py:arm=clip, arm=hni, arm=stc)
    mof claim configs/papers/hq_clip.py --workdir runs/claims/hq_clip

The quickstart's model, half as wide, from scratch on `things`, whose wrong captions are false in exactly one fact and whose tags
are all there is to see; the paper's come from a large model.
"""

import os

from mof_jax.claims.claim import Claim, Lead
from mof_jax.config import arguments, load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), os.pardir, "clip", "quickstart.py"))
TERMS = dict(hni=dict(kind="own_negatives"), stc=dict(kind="tags"))
ARMS = {"clip": (), "hni": ("hni",), "stc": ("stc",), "both": ("hni", "stc")}


def get_config(arg=None):
    o = arguments(arg, arm="both")
    c = quickstart.get_config()
    c.steps = 300
    c.model.image.width = c.model.text.width = 64
    c.model.heads = dict(tagger=dict(kind="linear", reads="image", width=32))  # 24 things, 8 grounds
    c.objective = dict(clip=dict(kind="softmax", multi_positive=True), **{name: TERMS[name] for name in ARMS[o.arm]})
    fields = dict(negative=dict(kind="captions", kinds=("negative",)), tags=dict(kind="label", count=5, classes=32))
    c.data = dict(fields=fields, cache="decoded", threads=1, sources=[
        dict(kind="things", size=4096, captions=dict(probabilities=dict(alt=1.0)))])
    c.optimizer.schedule.warmup = 30
    test = dict(kind="things", split="test", size=512)
    c.evals = [dict(kind="own_negatives", name="own", source=test), dict(kind="tagging", name="tagging", source=test)]
    return c


def claim():
    off = {f"objective.{name}.weight": 0.0 for name in TERMS}
    arms = {"clip": off, "hni": off | {"objective.hni.weight": 1.0}, "stc": off | {"objective.stc.weight": 1.0}}
    return Claim("Own wrong captions as negatives make an image tell its caption from a wrong one more often than CLIP's loss "
                 "does, and a head that names tags makes images and tags rank each other better.", paper="2507.22431", minutes=3,
                 arms=arms, metric="own/acc", conditions=(Lead("hni", "clip"), Lead("stc", "clip", metric="tagging/map")))
