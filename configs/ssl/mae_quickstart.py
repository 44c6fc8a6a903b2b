"""A masked autoencoder on the embedded scenes, of the size of the CLIP quickstart's image tower, on two CPU cores.

    mof train --config configs/ssl/mae_quickstart.py --workdir runs/mae

0.6 M parameters of the tower, 1,000 steps of 128 pictures without a word (5 minutes). At the end frozen features tell how many
things there are in new scenes (one to four) and which thing it is (24 names), on grounds on which training never showed it,
beside the untrained tower and the pixels themselves (shrunk to 8 x 8). Accuracy in percent, seeds 0, 1, 2 (`--config.seed=N`):

                        trained             untrained   pixels   lower ends of the leads (95 %, over pictures)
    count, neighbours   60.0  58.7  61.3    47.7        40.1     over untrained 8.6 to 11.1, over pixels 16.2 to 18.7
    count, probe        71.5  68.5  73.7    48.3        34.0     over untrained 17.7 to 23.0, over pixels 31.6 to 37.0
    name, probe         31.3  28.8  26.8     2.4        60.9     over untrained 22.5 to 26.9; below pixels

How many there are, pixels do not carry: the things stand anywhere. Which thing it is, they do at this size, and better than the
tower; neighbours name none (0.0, untrained 0.0, pixels 4.9), because the nearest pictures share the ground, and the ground of the
test never goes with its thing.
"""

from ml_collections import ConfigDict

PIXELS = 48


def get_config():
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
