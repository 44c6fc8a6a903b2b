"""CLIP ViT-B/16 at 224 px, 12.8 billion samples at batch 32,768.

    mof train --config configs/clip/vit_b16.py --workdir gs://BUCKET/clip_b16 --distributed \\
        --config.data.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn2b/data@1024'}]"

Hardware: a v5e-256 slice. Cost: 390,625 steps; model FLOPs 1.6e21 (12.8e9 samples × 3 × 41 GFLOP). Expect 73 to 76 % zero-shot
ImageNet on DataComp-1B or DFN-2B (OpenCLIP's README; arXiv 2309.17425), 67 % on LAION-400M. Not trained by us.
"""

import os

from mof_jax.config import load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))


def get_config():
    c = common.clip(image=dict(variant="B/16"), text=dict(width=512, depth=12, heads=8, mlp_dim=2048), embed_dim=512,
                    samples=12.8e9, batch_size=32_768, lr=5e-4)
    c.hardware = dict(topology="v5e:16x16")
    return c
