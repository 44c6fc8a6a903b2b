"""MM1's study of learning rates, and its ablations: ViT-L/14 at 336 px, language models of 9 M to 1.2 B (arXiv 2403.09611, §3).

    mof train --config configs/mm1/study.py:size=85m,clip=CLIP,llm=LLM --workdir gs://BUCKET/study_85m --distributed

`size` is 9m, 85m, 302m or 1.2b. The learning rate is the law's at that size, η = exp(-0.4214 ln N - 0.5535); `sweep("size=85m")`
gives the grid around it, with a decay proportional to each. The paper chose by the mean score at 8 shots, not by the loss. For
the other arguments see `configs/mm1/common.py`; without sources it reads what is embedded, as a smoke test. Hardware: a v6e-64
slice. Cost (the encoder's alone is most of it below 302m):

                 stage    steps      rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mm1/study.py:size=9m)
    size=9m      run      200,000    512            2.01e+21
    size=85m     run      200,000    512            2.33e+21
    size=302m    run      200,000    512            3.07e+21
    size=1.2b    run      200,000    512            5.72e+21

Expect the best rates near the law: 6.7e-4, 2.6e-4, 1.5e-4 and 8.6e-5. Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module
from mof_jax.scaling.lr import rate

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))

SIZES = ("9m", "85m", "302m", "1.2b")


def get_config(arg=None):
    o = arguments(arg, size="1.2b", **common.OPTIONS)
    size = f"mm1-{o.size}"
    return common.pretrain(size, rate(common.parameters(size)), o, common.L14_336, fsdp=8)


def sweep(arg=None):
    """The learning rates of the study: half octaves around the law, decay proportional to them (as `weight_decay` has it)."""
    lr = get_config(arg).optimizer.lr
    return [{"optimizer.lr": lr * 2 ** (step / 2)} for step in range(-4, 5)]
