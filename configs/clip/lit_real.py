"""LiT on a real tower (arXiv 2111.07991): EfficientNet-Lite0, trained on ImageNet by others, stays as it is; a linear layer behind
it and a text tower learn from the embedded emoji.
"""

import os

from mof_jax.config import load_module

lit = load_module(os.path.join(os.path.dirname(__file__), "lit.py"))


def get_config(arg=None):
    c = lit.get_config(arg or "hf:runs/lite0")
    c.steps, c.batch_size = 400, 256
    # 96 pixels for the speed, and a bias, for features behind a ReLU have a mean that says nothing.
    c.model.image.image_size, c.model.image.embed_bias = 96, True
    c.model.embed_dim = c.model.text.embed_dim = c.model.text.width = 256
    c.init_from.take = [("image/project/.*", False), ("image/.*", True), (".*", False)]
    c.optimizer.freeze = [("image/project/.*", False), ("image/.*", True)]
    return c
