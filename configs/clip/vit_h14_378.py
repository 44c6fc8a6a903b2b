"""CLIP ViT-H/14 at 378 px: DFN-5B's last stage, starting from a run at 224 px.

    mof train --config configs/clip/vit_h14_378.py:gs://BUCKET/clip_h14 --workdir gs://BUCKET/clip_h14_378 --distributed \\
        --config.data.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn5b/data@4096'}]"

The argument is the work dir of the 224 px run (its position embeddings are resampled); without it training starts afresh.
Hardware: a v5e-256 slice, parameters split 16 ways, twelve micro-batches. Cost: 5 billion samples. Expect 84.4 % zero-shot
ImageNet (apple/DFN5B-CLIP-ViT-H-14-378's card). Not trained by us.
"""

import os

from mof_jax.config import load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))


def get_config(arg=None):
    c = common.clip(image=dict(variant="H/14", image_size=378, activation="quick_gelu", kernel="splash"),
                    text=dict(width=1024, depth=24, heads=16, mlp_dim=4096, activation="quick_gelu"), embed_dim=1024,
                    samples=5e9, batch_size=79_872, lr=1e-4)
    c.mesh, c.microbatches = dict(fsdp=16), 12
    c.hardware = dict(topology="v5e:16x16")
    if arg:
        c.init_from = dict(path=arg)
    return c
