"""A small multimodal model with a mixture of features, from nothing, on two CPU cores.

    mof train --config configs/mllm/quickstart.py --workdir runs/mllm            (another seed: quickstart.py:seed=1)
    mof generate --checkpoint runs/mllm --image docs/scene.png --prompt "How many cats are there?"

Three stages: a CLIP tower (400 steps) and a masked autoencoder (600) of one size on the same embedded pictures, then 1,800 steps
of adapters and a language model of 1 M parameters on the questions and captions of `data.worlds.scenes`, both towers frozen,
their tokens interleaved (I-MoF: 16 + 16 a picture). About seven and a half minutes on two idle cores.

Expect on `test`, which shows things on grounds where training never showed them (seeds 0, 1, 2, exact match in per cent): colour
100, count 77 to 79, presence 83 to 88, name 61 to 70, position 46 to 52. A model that only reads (`quickstart.py:blind=True`)
stays at chance: 12.5, 25, 50, 4, 25. On `twemoji`, an artist that no stage has seen: name 27 to 34, presence at chance.
"""

from ml_collections import ConfigDict

from mof_jax.config import arguments

# `unroll`: at three layers a plain network is faster on a CPU than a scanned one and compiles as quickly.
TOWER = dict(width=128, depth=3, heads=4, patch_size=12, image_size=48, activation="gelu_tanh", cls_token=False,
             mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), unroll=3)
CLIP, SSL = TOWER | dict(pool="map"), TOWER | dict(pool="gap", pos_init="sincos")


def get_config(arg=None):
    o = arguments(arg, seed=0, blind=False)
    stages = [multimodal(o.seed, o.blind)] if o.blind else [clip(o.seed), ssl(o.seed), multimodal(o.seed)]
    return ConfigDict(dict(stages=stages))


def clip(seed: int) -> dict:
    """A contrastive tower, from captions that state the facts."""
    text = dict(width=128, depth=1, heads=4, causal=False, mask_padding=True, pool="gap", activation="gelu_tanh")
    return dict(name="clip", task="contrastive", steps=400, objective=dict(kind="softmax", multi_positive=True),
                tokenizer=dict(kind="bpe", vocab_size=2048, records=3000, context_length=24),
                model=dict(embed_dim=128, image=CLIP, text=text), **pictures(seed))


def ssl(seed: int) -> dict:
    """A masked autoencoder, from the same pictures without a word."""
    return dict(name="ssl", task="mae", steps=600,
                model=dict(encoder=SSL, mask_ratio=0.5, decoder_width=64, decoder_depth=1, decoder_heads=2), **pictures(seed))


def pictures(seed: int) -> dict:
    """What both towers see, and how they learn."""
    sources = [dict(kind="scenes", size=20_000, pixels=48), dict(kind="emoji5", weight=0.3)]
    return dict(seed=seed, batch_size=128, eval_every=None, checkpoint=dict(every=0, keep=1),
                data=dict(sources=sources, cache="decoded", threads=1, augment=dict(affine=dict(zoom=0.1, shift=0.05))),
                optimizer=dict(name="muon", lr=2e-3, weight_decay=0.05, schedule=dict(warmup=40)))


def multimodal(seed: int, blind: bool = False) -> dict:
    """Both towers frozen, interleaved; adapters and language model from scratch."""
    world = dict(kind="scenes", size=1_000_000, pixels=48)
    towers = [dict(path="stage:clip", rename=[("encoders/clip/(.*)", r"image/\1")]),
              dict(path="stage:ssl", rename=[("encoders/ssl/(.*)", r"encoder/\1")])]
    return dict(
        name="mllm", task="mllm", seed=seed, steps=1800, batch_size=24, init_from=[] if blind else towers,
        model=dict(encoders=[dict(name="clip", vit=CLIP), dict(name="ssl", vit=SSL)], fusion=dict(kind="interleaved"),
                   connector=dict(kind="mlp"), llm=dict(width=128, depth=4, heads=4, mlp_dim=384, unroll=4), blind=blind),
        tokenizer=dict(kind="bpe", vocab_size=1024, records=3000),
        data=dict(kinds=dict(questions=dict(kind="chat", template="simple", weight=0.7, sources=[world]),
                             captions=dict(kind="caption", weight=0.3, sources=[world])),
                  context_length=50, rows_per_stream=3, images_per_stream=3, max_images=1, threads=1),
        optimizer=dict(name="muon", lr=3e-3, weight_decay=0.05, schedule=dict(warmup=60), freeze=[("encoders/.*", True)]),
        evals=[dict(kind="questions", name=split, source=dict(kind="scenes", split=split, size=2000, pixels=48))
               for split in ("test", "twemoji")],
        checkpoint=dict(every=0, keep=1))
