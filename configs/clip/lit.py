"""LiT: a text tower for an image tower that is already trained and stays as it is (arXiv 2111.07991).

    mof train --config configs/clip/lit.py:runs/quickstart --workdir runs/lit
    mof train --config configs/clip/lit.py:hf:facebook/dinov2-base --workdir runs/lit

The argument is the work dir of the run whose image tower is taken, or a model of another library (a folder or a hub's id behind
`hf:`), whose tower then decides the size of the pictures. The frozen tower has no gradient, no optimizer state and no all-reduce.
Runs on a CPU at the quickstart's size (about two minutes); expect a little less than the quickstart itself.
"""

import os

from mof_jax.config import load_module, to_dict
from mof_jax.interop.source import Source, eyes, is_foreign

quickstart = load_module(os.path.join(os.path.dirname(__file__), "quickstart.py"))


def get_config(arg=None):
    c = quickstart.get_config()
    path = arg or "runs/quickstart"
    c.init_from = dict(path=path, take=[("image/.*", True), (".*", False)])
    c.optimizer.freeze = [("image/.*", True)]
    if is_foreign(path):
        foreign_tower(c, Source.open(path))
    return c


def foreign_tower(c, source: Source) -> None:
    """Their tower in the place of ours; both towers end in its width."""
    tower, own = eyes(source.config), "image" if hasattr(source.config, "image") else "encoder"
    c.model.image, c.model.embed_dim, c.model.text.embed_dim = to_dict(tower), None, tower.output_dim
    c.data.resize, c.data.resample = source.processing.resize, source.processing.resample
    c.init_from.rename = [("image/(.*)", rf"{own}/\1")]
