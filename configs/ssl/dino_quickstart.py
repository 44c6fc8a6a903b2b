"""Self-distillation on the embedded emoji, of the size of the CLIP quickstart's image tower, on two CPU cores.

    mof train --config configs/ssl/dino_quickstart.py --workdir runs/dino

0.6 M parameters of the tower, 600 steps of 128 pictures without a word: two crops of 32 px and four of 16 px each, 1,024
prototypes, Sinkhorn-Knopp.
At the end it names Twemoji's pictures (an unseen artist, 1,734 names) from frozen features, beside the untrained tower and the
pixels themselves. What it reaches has not been measured with seeds yet.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "dino", 0, 600, 128
    c.model = dict(
        encoder=dict(width=128, depth=3, heads=4, patch_size=8, image_size=32, pool="cls", activation="gelu_tanh",
                     mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), unroll=3),
        hidden=256, bottleneck=64, prototypes=1024)
    c.objective = dict(teacher_temperature=(0.04, 0.06), warmup=200, momentum=0.99)
    colour = dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03, probability=0.8)
    crop = lambda low, high: dict(crop=dict(scale=(low, high)), jitter=colour, grayscale=0.1)
    c.data = dict(sources=[dict(kind="emoji5")], views=2, augment=crop(0.4, 1.0),
                  local=dict(views=4, image_size=16, augment=crop(0.1, 0.4)), cache="decoded", threads=1)
    c.optimizer = dict(name="muon", lr=2e-3, weight_decay=0.05, schedule=dict(warmup=60))
    concepts = dict(train=dict(kind="emoji5"), test=dict(kind="emoji5", split="twemoji"), label="concept")
    c.evals = [dict(kind="knn", baselines=True, **concepts),
               dict(kind="probe", baselines=True, l2=(1e-4,), steps=30, **concepts)]
    c.checkpoint = dict(every=0, keep=1)
    return c
