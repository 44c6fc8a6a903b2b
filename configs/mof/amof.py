"""Additive Mixture-of-Features on LLaVA: one linear adapter reads (1 - r)·CLIP + r·DINOv2 (arXiv 2401.06209, §5.1).

    mof train --config configs/mof/amof.py:ssl_ratio=0.75,data=DATA,tokenizer=WORDS.model,clip=CLIP,dino=DINO,llm=LLM \\
        --workdir gs://BUCKET/amof

`ssl_ratio` is r, as in the paper's table, 1 - α of its formula. Both encoders at 224 px, 256 tokens a picture, Vicuna-13B v1.3,
LLaVA's first data (595k captions, 158k conversations three times) in batches of 128. The code was never released, and whether
features are normalised before they are added is not said: `normalise` is none (the formula), l2 or layernorm; `parity` as in
`imof.py`. The paper prints 1e-3 for `align`, LLaVA's own script 2e-3. For the other arguments see `configs/mof/common.py`, with
LLaVA-CC3M-Pretrain-595K/chat.json, its images/, llava_instruct_158k.json and coco/train2017/ in the data folder. Hardware: 64
chips (v5e-64). Cost:

    stage    steps    rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mof/amof.py)
    align    4,648    32             1.03e+19
    tune     3,703    32             2.45e+19

Expect (the paper):

    ssl_ratio      0.0     0.25    0.5     0.625    0.75    0.875    1.0
    MMVP           5.5     7.9     12.0    15.0     18.7    16.5     13.4
    LLaVA-Bench    81.8    79.4    78.6    76.4     75.8    69.3     68.5

Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))


def get_config(arg=None):
    o = arguments(arg, ssl_ratio=0.75, normalise="none", parity=True, **common.OPTIONS)
    fusion = dict(kind="additive", ssl_ratio=o.ssl_ratio, normalise=o.normalise)
    model = dict(dtype="bfloat16", encoders=[common.clip(224), common.dino(224, o.parity)], fusion=fusion,
                 connector=dict(kind="linear"), llm=common.vicuna("13b"))
    return common.recipe(model, 256, o, align=common.CC, tune=common.INSTRUCT)
