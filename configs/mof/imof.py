"""Interleaved Mixture-of-Features on LLaVA-1.5: CLIP L/14 and DINOv2 L/14, token by token (arXiv 2401.06209, §5.2).

    mof train --config configs/mof/imof.py:px=336,data=DATA,tokenizer=WORDS.model,clip=CLIP,dino=DINO,llm=LLM \\
        --workdir gs://BUCKET/imof

`px` is 224 (512 tokens a picture, the paper's tables) or 336 (1,152 tokens, its appendix and its released weights); `size` is
13b or 7b. `parity=True` is what the released code does: DINOv2 sees pixels that were normalised for CLIP (`pixels_of`) and its
final norm is left out; `parity=False` gives it ImageNet's mean and its norm, as it was trained. For the other arguments see
`configs/mof/common.py`; without them it reads the embedded scenes from random weights, as a smoke test. Hardware: 64 chips
(v5e-64). Cost:

              stage    steps    rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mof/imof.py:px=336)
    px=224    align    2,180    64             1.77e+19
    px=224    tune     5,197    32             4.89e+19
    px=336    align    2,180    96             4.24e+19
    px=336    tune     5,197    64             9.05e+19

Expect on MMVP 28.0 % of pairs and POPE 86.3 at 224 px (the paper); 31.3 %, 86.7 and VQAv2 79.3 at 336 px (its appendix, as quoted
by arXiv 2404.07204). A reader measured about 21 % with the released weights (tsb0601/MMVP, issue 27). Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))
PLANS = ("px=336", "px=336,size=7b", "px=336,topology=v6e:8x8")  # arguments that `make plan-all` plans it with


def get_config(arg=None):
    o = arguments(arg, px=224, size="13b", parity=True, **common.OPTIONS)
    model = dict(dtype="bfloat16", encoders=[common.clip(o.px), common.dino(o.px, o.parity)], fusion=dict(kind="interleaved"),
                 connector=dict(kind="mlp"), llm=common.vicuna(o.size))
    return common.recipe(model, 2 * (o.px // 14) ** 2, o, align=common.LCS, tune=common.MIX)
