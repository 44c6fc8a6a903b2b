"""MM1 30B pretraining: ViT-H/14 at 378 px, C-Abstractor with 144 tokens, a 29.6 B language model (arXiv 2403.09611).

    mof train --config configs/mm1/pretrain_30b.py:clip=CLIP,llm=LLM,tokenizer=WORDS.model --workdir gs://BUCKET/mm1_30b \\
        --distributed \\
        --config.data.kinds.caption.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/dfn2b/data@1024'}]" \\
        --config.data.kinds.pages.sources="[{'kind': 'obelics', 'path': 'obelics.jsonl', 'image_root': 'gs://BUCKET/obelics'}]" \\
        --config.data.kinds.text.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/text/data@1024'}]"

For the arguments and the recipe see `configs/mm1/common.py`; without sources it reads what is embedded, as a smoke test. Learning
rate: the paper's, its law rounded. Hardware: a v5p-1024 slice (512 chips), parameters split 128 ways and layers 4 ways. Cost:

    stage    steps      rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mm1/pretrain_30b.py)
    run      200,000    512            8.41e+22

Expect at 8 shots (the paper, table 3): COCO 123.1, NoCaps 111.6, TextCaps 92.9, VQAv2 70.9, TextVQA 49.4,
VizWiz 49.9, OKVQA 58.3. Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))
PLANS = ("", "topology=v6e:16x16", "topology=2*v6e:16x16", "topology=tpu7x:4x8x8")  # arguments that `make plan-all` plans it with


def get_config(arg=None):
    return common.pretrain("mm1-30b", 2e-5, arguments(arg, **common.OPTIONS))
