"""CLIP ViT-L/14 at 224 px, 12.8 billion samples at batch 90,112 (DataComp-1B's xlarge recipe, arXiv 2304.14108).

    mof train --config configs/clip/vit_l14.py --workdir gs://BUCKET/clip_l14 --distributed \\
        --config.data.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn2b/data@1024'}]"

Hardware: a v5e-256 slice, parameters split 16 ways, two micro-batches. Cost: 142,045 steps. Expect 79.2 % zero-shot
ImageNet on DataComp-1B, 81.4 % on DFN-2B (arXiv 2309.17425). Not trained by us.

`:batch=16777216,microbatches=1024` is the largest power of two that fits those slices (a device's 65,536 pictures are 9.9 GB of
uint8); Inf-CL (arXiv 2410.17243) reports 12 M on 32 A800. What such a batch does to training is not known to us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))
PLANS = ("", "batch=16777216,microbatches=1024")  # arguments that `make plan-all` plans it with


def get_config(arg=None):
    o = arguments(arg, batch=90_112, microbatches=2)
    text = dict(width=768, depth=12, heads=12, mlp_dim=3072)
    c = common.clip(image=dict(variant="L/14", kernel="splash"), text=text, embed_dim=768, samples=12.8e9, batch_size=o.batch,
                    lr=1e-3)
    c.optimizer.b2 = 0.95
    c.optimizer.schedule.warmup = min(10_000, c.steps // 10)
    # With whole parameters on every device and all rows at once, the step wants 21 GiB of 15.75.
    c.mesh, c.microbatches = dict(fsdp=16), o.microbatches
    c.hardware = dict(topology="v5e:16x16")
    return c
