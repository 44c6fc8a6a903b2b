"""The quickstart cut short for the notebooks: a run to look at, trained while one waits.

    mof train --config configs/clip/quickstart_tiny.py --workdir runs/notebook_clip
    mof train --config configs/clip/quickstart_tiny.py:width=64,steps=60 --workdir runs/notebook_width_64

1.7 M parameters, 15,360 examples (under three passes over 5,753 pictures), about 40 s on two idle cores. Expect on unseen
concept families (179 candidates) R@5 of about 20 %, where chance is 3 %: enough for pictures, too little for conclusions.
"""

import os

from mof_jax.config import arguments, load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), "quickstart.py"))


def get_config(arg=None):
    o = arguments(arg, width=128, steps=120, batch=128, every=40)
    c = quickstart.get_config()
    c.steps, c.batch_size, c.log_every, c.eval_every = o.steps, o.batch, 5, o.every
    c.model.embed_dim = c.model.image.width = c.model.text.width = o.width
    c.optimizer.schedule.warmup = 10
    c.evals = [dict(kind="retrieval", name="unseen", source=dict(kind="emoji5", split="unseen"))]
    return c
