"""A masked autoencoder on the embedded scenes, of the size of the CLIP quickstart's image tower, on two CPU cores.

    mof train --config configs/ssl/mae_quickstart.py --workdir runs/mae

0.6 M parameters of the tower, 1,000 steps of 128 pictures without a word. At the end frozen features tell how many things there
are in new scenes (one to four) and which thing it is (24 names), on grounds on which training never showed it, beside the
untrained tower and the pixels themselves.
"""

from ml_collections import ConfigDict

PIXELS = 48


def get_config(arg=None):
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "mae", 0, 1000, 128
    c.model = dict(
        encoder=dict(width=128, depth=3, heads=4, patch_size=8, image_size=PIXELS, cls_token=False, pool="gap", pos_init="sincos",
                     activation="gelu_tanh", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), unroll=3),
        mask_ratio=0.5, decoder_width=64, decoder_depth=1, decoder_heads=2)
    c.data = dict(sources=[scenes("train", 1_000_000)], threads=1)
    c.optimizer = dict(name="muon", lr=2e-3, weight_decay=0.05, schedule=dict(warmup=60))
    c.evals = [x for question in ("count", "name") for x in looks(question)]
    c.checkpoint = dict(every=0, keep=1)
    return c


def scenes(split: str, size: int, *questions: str) -> dict:
    """So many pictures of a split."""
    return dict(kind="scenes", split=split, size=size, pixels=PIXELS, questions=questions)


def looks(question: str) -> list[dict]:
    """What frozen features, an untrained tower's and pixels tell of one question's answer."""
    both = dict(train=scenes("train", 8000, question), test=scenes("test", 2000, question), label="answer", baselines=True)
    return [dict(kind="knn", name=f"knn_{question}", **both),
            dict(kind="probe", name=f"probe_{question}", l2=(1e-4,), steps=60, **both)]
