"""LiT: a text tower for an image tower that is already trained and stays as it is (arXiv 2111.07991).

    mof train --config configs/clip/lit.py:runs/quickstart --workdir runs/lit

The argument is the work dir of the run whose image tower is taken. The frozen tower has no gradient, no optimizer state and
no all-reduce. Runs on a CPU at the quickstart's size (about two minutes); expect a little less than the quickstart itself.
"""

import os

from mof_jax.config import load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), "quickstart.py"))


def get_config(arg=None):
    c = quickstart.get_config()
    c.init_from = dict(path=arg or "runs/quickstart", take=[("image/.*", True), (".*", False)])
    c.optimizer.freeze = [("image/.*", True)]
    return c
