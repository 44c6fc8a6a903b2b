"""MM1's supervised fine-tuning: 10,000 steps of 256 rows of 2,048 positions, Adafactor at 1e-5, everything trained
(arXiv 2403.09611, §4).

    mof train --config configs/mm1/sft.py:size=3b,run=gs://BUCKET/mm1_3b,data=sft.json \\
        --workdir gs://BUCKET/mm1_3b_sft --distributed

`size` is 3b, 7b or 30b; `run` the work dir of its pretraining, whose vocabulary is kept; `data` a file as LLaVA writes them, the
pictures beside it; `px` up to 672 resamples the positions of encoder and connector. Without `data` it reads the embedded
scenes, as a smoke test. The paper's mixture (about 1.45 million examples) is not public as one file, and its 1,344 px (an
overview and four crops a picture) is not built here. Warm-up and template are not stated; Adafactor here is the factored second
moment alone, without its own clipping. Hardware: a v5p-64 slice (32 chips). Cost:

    stage    steps     rows a step    FLOPs        (python -m mof_jax.plan.cost configs/mm1/sft.py)
    run      10,000    256            1.64e+20

Expect less than the paper's 3B-Chat, which sees 1,344 px: VQAv2 82.0, TextVQA 71.9, POPE 87.4, MM-Vet 43.7 (table 4).
Not trained by us.
"""

import os

from mof_jax.config import arguments, load_module

common = load_module(os.path.join(os.path.dirname(__file__), "common.py"))


def get_config(arg=None):
    o = arguments(arg, size="3b", run="", data="", px=378)
    c = common.pretrain(f"mm1-{o.size}", 1e-5, arguments(None, **common.OPTIONS), common.H14_378 | dict(image_size=o.px),
                        topology="v5p:2x4x4", fsdp=32)
    c.steps, c.batch_size = 10_000, 256
    source = dict(kind="llava", path=o.data) if o.data else dict(kind="scenes", size=10_000)
    c.data.update(dict(context_length=2048, images_per_stream=8 * common.ROWS, max_images=8, resize="longest",
                       kinds=dict(chat=dict(template="vicuna_v1", sources=[source]))))
    c.optimizer = dict(name="adafactor", lr=1e-5, weight_decay=0.0, grad_clip=1.0, schedule=dict(kind="cosine", warmup=300))
    if o.run:
        c.tokenizer, c.init_from = dict(kind="run", path=o.run), dict(path=o.run)
    return c
