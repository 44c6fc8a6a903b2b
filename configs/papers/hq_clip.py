"""After HQ-CLIP (arXiv 2507.22431): captions that are wrong on purpose and short tags as supervision beside CLIP's loss.

    mof train --config configs/papers/hq_clip.py --workdir runs/hq_clip     (or hq_clip.py:arm=clip, own, tags, negclip)
    mof claim configs/papers/hq_clip.py --workdir runs/claims/hq_clip

Drawn pictures of one to four things, from scratch: a long caption, the same with one false fact, and the names of the
things, where the paper has a model write them for 150 million images. The form and the weights of its losses could not be
confirmed (see the objectives); these weights are chosen, not tuned. About two minutes a run on one CPU core.
"""

from ml_collections import ConfigDict

from mof_jax.claims.claim import Claim, Lead
from mof_jax.config import arguments

TAGS = 32  # twenty-four things and eight grounds
OWN = dict(own=dict(kind="own_negatives", weight=0.5))
SHORT = dict(tags=dict(kind="short_tags", classes=TAGS, weight=0.5))
ARMS = {"clip": {}, "own": OWN, "tags": SHORT, "hq_clip": OWN | SHORT, "negclip": dict(clip=dict(kind="negclip"))}


def get_config(arg=None):
    o = arguments(arg, arm="hq_clip")
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "contrastive", 0, 300, 64
    c.model = dict(
        embed_dim=64,
        image=dict(width=96, depth=2, heads=4, patch_size=8, image_size=32, cls_token=False, pool="map",
                   activation="gelu_tanh", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), unroll=2),
        text=dict(width=64, depth=1, heads=4, causal=False, mask_padding=True, pool="gap", activation="gelu_tanh"))
    c.objective = dict(clip=dict(kind="softmax")) | ARMS[o.arm]
    c.tokenizer = dict(kind="bpe", vocab_size=512, context_length=56, records=1000)
    c.data = dict(sources=[dict(kind="things", size=4096, pixels=32)], cache="decoded", threads=1, fields=dict(
        text=dict(kind="captions", kinds=("long",)), negative=dict(kind="captions", kinds=("negative:long",)),
        tags=dict(kind="label", count=5, classes=TAGS)))
    c.optimizer = dict(name="muon", lr=2e-3, weight_decay=0.05, schedule=dict(warmup=30))
    test = dict(kind="things", split="test", size=512, pixels=32)
    c.evals = [dict(kind="retrieval", name="long", source=test, texts=("long",)),
               dict(kind="own_negatives", name="own", source=test, positive="long", negative="negative:long"),
               dict(kind="tagging", name="tags", source=test)]
    c.checkpoint = dict(every=0, keep=1)
    return c


def claim():
    off = {name: {f"objective.{name}.weight": 0.0} for name in ("own", "tags")}
    arms = {"hq_clip": {}, "own": off["tags"], "tags": off["own"], "clip": off["own"] | off["tags"]}
    return Claim("Wrong captions of its own and short tags, together, lead CLIP in retrieval by long captions; wrong captions "
                 "alone lead it there too, and tags alone in tagging. At equal steps, on unseen combinations.",
                 paper="2507.22431", minutes=8, arms=arms, metric="long/r@1",
                 conditions=(Lead("hq_clip", "clip"), Lead("own", "clip"), Lead("tags", "clip", metric="tags/map")))
