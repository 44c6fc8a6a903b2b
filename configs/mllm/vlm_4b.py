"""A 4 B-class multimodal model trained whole on 64 small chips: SigLIP's So400m/14 at 378 px, 144 image tokens, Qwen3-4B.

    mof train --config configs/mllm/vlm_4b.py:clip=hf:google/siglip-so400m-patch14-384,llm=hf:Qwen/Qwen3-4B-Base \\
        --workdir gs://BUCKET/vlm_4b --distributed \\
        --config.data.kinds.caption.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn2b/data@1024'}]" \\
        --config.data.kinds.pages.sources="[{'kind': 'obelics', 'path': 'obelics.jsonl', 'image_root': 'gs://BUCKET/obelics'}]" \\
        --config.data.kinds.text.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/text/data@1024'}]"

MM1's mixture and recipe (`configs/mm1/common.py`) at a batch that 64 chips hold: one row of 4,096 positions and up to 16
pictures a device, parameters split 64 ways. Without sources it reads what is embedded, from random weights, as a smoke test.
Layers: arXiv 2303.15343, 2505.09388. Hardware: a v5e-64 slice. Cost:

    stage    steps      rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mllm/vlm_4b.py)
    run      200,000    64             1.87e+21

Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "..", "mm1", "common.py"))

TOWER = dict(width=1152, depth=27, heads=16, mlp_dim=4304, patch_size=14, image_size=378, cls_token=False, pool="map",
             activation="gelu_tanh", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), kernel="splash", remat="full")


def get_config(arg=None):
    o = arguments(arg, **common.OPTIONS)
    c = common.pretrain("mm1-3b", 4e-5, o, topology=o.topology or "v5e:8x8", fsdp=64)
    c.batch_size, c.data.rows_per_stream, c.data.images_per_stream = 64, 1, 16
    c.model.encoders = [dict(name="clip", vit=TOWER)]
    c.model.llm = dict(variant="qwen3-4b", kernel="splash", remat="full")
    c.objective.block_size = 512  # of a vocabulary three times as large as MM1's
    return c
