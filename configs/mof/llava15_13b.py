"""LLaVA-1.5 13B at 336 px, in two stages: the baseline of the Mixture-of-Features runs (arXiv 2310.03744).

    mof train --config configs/mof/llava15_13b.py:data=DATA,tokenizer=WORDS.model,clip=CLIP,llm=LLM \\
        --workdir gs://BUCKET/llava15

For the arguments see `configs/mof/common.py`; without them it reads the embedded scenes from random weights, as a smoke test.
Hardware: 64 chips (v5e-64). Cost:

    stage    steps    rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mof/llava15_13b.py)
    align    2,180    64             1.97e+19
    tune     5,197    32             5.26e+19

LLaVA's README: 5.5 h and 20 h on 8 A100-80G. Expect MMVP 24.7 % of pairs and POPE 85.9 (arXiv 2401.06209). Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))
PLANS = ("", "topology=v6e:8x8")  # arguments that `make plan-all` plans it with


def get_config(arg=None):
    o = arguments(arg, **common.OPTIONS)
    model = dict(dtype="bfloat16", encoders=[common.clip(336)], connector=dict(kind="mlp"), llm=common.vicuna("13b"))
    return common.recipe(model, 576, o, align=common.LCS, tune=common.MIX)
