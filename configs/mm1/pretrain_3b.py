"""MM1 3B pretraining: ViT-H/14 at 378 px, C-Abstractor with 144 tokens, a 2.9 B language model (arXiv 2403.09611).

    mof train --config configs/mm1/pretrain_3b.py:clip=CLIP,llm=LLM,tokenizer=WORDS.model --workdir gs://BUCKET/mm1_3b \\
        --distributed \\
        --config.data.kinds.caption.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn2b/data@1024'}]" \\
        --config.data.kinds.pages.sources="[{'kind': 'obelics', 'path': 'obelics.jsonl', 'image_root': 'gs://BUCKET/obelics'}]" \\
        --config.data.kinds.text.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/text/data@1024'}]"

For the arguments and the recipe see `configs/mm1/common.py`; without sources it reads what is embedded, as a smoke test. Learning
rate: the paper's, its law rounded. Hardware: a v5p-256 slice (128 chips), parameters split 16 ways. Cost:

    stage    steps      rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mm1/pretrain_3b.py)
    run      200,000    512            1.36e+22

Expect at 8 shots (the paper, table 3): COCO 114.6, NoCaps 104.7, TextCaps 88.8, VQAv2 63.6, TextVQA 44.6,
VizWiz 46.4, OKVQA 48.4; at none 73.5, 55.6, 63.3, 46.2, 29.4, 15.6, 26.1. Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))
PLANS = ("", "topology=v5p:8x8x8", "topology=v6e:16x16", "topology=2*v6e:16x16", "topology=tpu7x:4x8x8")


def get_config(arg=None):
    return common.pretrain("mm1-3b", 6e-5, arguments(arg, **common.OPTIONS))
