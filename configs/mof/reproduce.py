"""Does a mixture of features mend CLIP's blind spots? The whole story of arXiv 2401.06209 at toy scale, on two CPU cores.

    make reproduce-mof         (python -m mof_jax.studies.blindness --config configs/mof/reproduce.py --out runs/reproduce_mof)

Hardware: two CPU cores, 67 minutes. Cost: eight towers of 0.6 M parameters, thirty readers of 0.5 M. What was expected before it
ran: `notebooks/reproduce_mof_plan.md`; what came out: `notebooks/reproduce_mof.md`.
"""

from ml_collections import ConfigDict

# CLIP and SSL towers share their shape, pictures, steps and batch, so that what differs is what they were asked to learn.
# `unroll`: at three layers a plain network is faster on a CPU than a scanned one and compiles as quickly.
STEPS, BATCH = 500, 128
TOWER = dict(width=128, depth=3, heads=4, patch_size=12, image_size=48, activation="gelu_tanh", cls_token=False, pool="gap",
             mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), unroll=3)


def get_config():
    towers = dict(clip=clip(0.25), stated=clip(1.0), random=untrained(), ssl=mae(), other=dino())
    optimizer = dict(name="muon", lr=3e-3, weight_decay=0.05, schedule=dict(warmup=60), freeze=[("encoders/.*", True)])
    return ConfigDict(dict(
        towers=towers, seeds=(0, 1, 2), pixels=48, pictures=27_000, pairs=200, dev_pairs=100,
        llm=dict(width=128, depth=2, heads=4, mlp_dim=384, unroll=2), pretrain_steps=300, steps=1000, batch_size=64,
        optimizer=optimizer))


def clip(stated: float) -> dict:
    """A contrastive tower; its captions name what is to be seen and state the fact for a share `stated` of the pictures."""
    text = dict(width=128, depth=1, heads=4, causal=False, mask_padding=True, pool="gap", activation="gelu_tanh")
    return dict(task="contrastive", objective=dict(kind="softmax", multi_positive=True),
                tokenizer=dict(kind="bpe", vocab_size=512, records=3000, context_length=20),
                model=dict(embed_dim=128, image=TOWER, text=text), **learning(stated))


def untrained() -> dict:
    """The CLIP tower as it was initialised: one step that moves nothing."""
    run = clip(0.25)
    return run | dict(steps=1, optimizer=run["optimizer"] | dict(lr=0.0, schedule=dict(warmup=0)))


def mae() -> dict:
    """A masked autoencoder, from the same pictures without a word."""
    return dict(task="mae", model=dict(encoder=TOWER | dict(pos_init="sincos"), mask_ratio=0.5, decoder_width=64, decoder_depth=1,
                                       decoder_heads=2), **learning(0.25))


def dino() -> dict:
    """Self-distillation, from the same pictures without a word; no flips, which would make left and right the same."""
    run = learning(0.25)
    crops = dict(views=2, local=dict(views=2, image_size=24, augment=dict(crop=dict(scale=(0.1, 0.4)))),
                 augment=dict(crop=dict(scale=(0.4, 1.0)), jitter=dict(brightness=0.3, contrast=0.3, probability=0.5)))
    model = dict(encoder=TOWER, hidden=256, bottleneck=64, prototypes=1024)
    return run | dict(task="dino", model=model, data=run["data"] | crops, steps=STEPS // 2,
                      objective=dict(student_temperature=0.1, teacher_temperature=(0.04, 0.07), warmup=100, sinkhorn=3,
                                     momentum=0.99, frozen_prototypes=30))


def learning(stated: float) -> dict:
    """What every tower sees, and how it learns."""
    world = dict(kind="patterns", size=36_000, pixels=48, stated=stated)
    return dict(steps=STEPS, batch_size=BATCH, eval_every=None, checkpoint=dict(every=0, keep=1), log_every=100,
                data=dict(sources=[world], cache="decoded", threads=1, augment=dict(affine=dict(zoom=0.05, shift=0.03))),
                optimizer=dict(name="muon", lr=2e-3, weight_decay=0.05, schedule=dict(warmup=40)))
