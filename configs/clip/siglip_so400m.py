"""SigLIP So400m/14 at 224 px, 40 billion samples at batch 32,768 (arXiv 2303.15343).

    mof train --config configs/clip/siglip_so400m.py:gs://BUCKET/c4_en.model --workdir gs://BUCKET/siglip --distributed \\
        --config.data.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn2b/data@1024'}]"

The argument is the SentencePiece vocabulary (32,000 pieces). Hardware: a v5e-64 slice, four micro-batches. Cost: 1,220,703 steps.
The paper's weights, trained on WebLI, reach 82.0 % zero-shot ImageNet (OpenCLIP's README). Not trained by us.
"""

import os

from mof_jax.config import load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))


def get_config(arg=None):
    tower = dict(width=1152, depth=27, heads=16, mlp_dim=4304)
    c = common.siglip(image=dict(patch_size=14, kernel="splash", **tower), text=tower | dict(embed_dim=1152), samples=40e9,
                      batch_size=32_768, vocabulary=arg or "c4_en.model")
    c.mesh, c.hardware = dict(fsdp=8), dict(topology="v5e:8x8")
    c.microbatches = 4
    return c
