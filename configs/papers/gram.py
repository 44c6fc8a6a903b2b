"""GRAM (arXiv 2412.11959): three modalities aligned by the volume that they span, not by cosines of pairs.

    mof train --config configs/papers/gram.py --workdir runs/gram    (gram.py:arm=anchored, gram.py:arm=pairs)
    mof claim configs/papers/gram.py --workdir runs/claims/gram      (gram.py:start=aligned)

The modalities are the halves of a picture of `things`, through one image tower, and the caption that names
what is in both: a half alone fits many captions. The quickstart's model, half as wide, without the paper's
matching term. From scratch, or from a model aligned by cosines as in the paper (`start=aligned`, then half as
long at a quarter of the rate). One to two minutes a run on a CPU core. Beside the pilots on record, three runs of
seed 100 by hand and a pilot that broke off came before the claims were committed.
"""

import os

from mof_jax.claims.claim import Claim, Lead
from mof_jax.config import arguments, load_module

quickstart = load_module(os.path.join(os.path.dirname(__file__), os.pardir, "clip", "quickstart.py"))
STARTS = {"scratch": (400, 2e-3), "aligned": (200, 5e-4)}
ANCHORED = dict(left=dict(kind="contrast", of=("text", "left"), label_smoothing=0.1),
                right=dict(kind="contrast", of=("text", "right"), label_smoothing=0.1))
ARMS = {"gram": dict(gram=dict(kind="gram", of=("text", "left", "right"))), "anchored": ANCHORED,
        "pairs": ANCHORED | dict(across=dict(kind="contrast", of=("left", "right"), label_smoothing=0.1))}
RANKED_BY = {"gram": ("volume",), "anchored": ("mean", "sum"), "pairs": ("mean", "sum")}


def get_config(arg=None):
    o = arguments(arg, arm="gram", start="scratch")
    c = quickstart.get_config()
    c.objective = ARMS[o.arm]
    c.model.image.width = c.model.text.width = 64
    c.steps, c.optimizer.lr = STARTS[o.start]
    c.optimizer.schedule.warmup = c.steps // 10
    halves = {part: dict(kind="views", part=part) for part in ("left", "right")}
    c.data = dict(views=0, fields=halves, cache="decoded", threads=1, sources=[
        dict(kind="things", size=4096, captions=dict(probabilities=dict(alt=1.0)))])
    c.evals = [dict(kind="tuple_retrieval", name="halves", text="alt", by=RANKED_BY[o.arm],
                    source=dict(kind="things", split="test", size=512))]
    return c


def claim(arg=None):
    aligned = arguments(arg, start="scratch").start == "aligned"
    base = dict(path="base:cosines", take=[("logit_scale", False), (".*", True)])
    begin = {"init_from": [base]} if aligned else {}
    arms = {"gram": begin}
    for name in ("anchored", "pairs"):
        terms = {f"objective.{term}": section for term, section in ARMS[name].items()}
        arms[name] = begin | {"objective.gram.weight": 0.0, "evals.0.by": RANKED_BY[name]} | terms
    says = ("Begun from a model aligned by cosines" if aligned else "From scratch") + (
        ", tuples aligned by their volume are found by volume more often than tuples aligned by cosines of "
        "pairs are by the better of mean and sum cosine.")
    return Claim(says, arms=arms, metric="halves/r@1", minutes=6, paper="2412.11959",
                 bases={"cosines": f"{os.path.abspath(__file__)}:arm=anchored"} if aligned else {},
                 conditions=(Lead("gram", "anchored"), Lead("gram", "pairs")))
