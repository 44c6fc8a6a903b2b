"""What the pod configs share: a source to point at one's own shards, CLIP and SigLIP recipes, an evaluation."""

from ml_collections import ConfigDict

# Shards made by `mof data convert`; the default lets every config run on this machine's embedded pictures as a smoke test.
SOURCES = [dict(kind="emoji5", captions=dict(probabilities=dict(alt=1.0), tags=3))]


def base(steps: int, batch_size: int) -> ConfigDict:
    """A contrastive run with everything that does not depend on the recipe."""
    c = ConfigDict()
    c.task, c.steps, c.batch_size = "contrastive", steps, batch_size
    c.data = dict(sources=SOURCES, on_error="skip", threads=16, prefetch=4, resize="shortest",
                  augment=dict(crop=dict(scale=(0.9, 1.0), ratio=(0.75, 4 / 3))))
    c.checkpoint = dict(every=2000, keep=3, keep_every=20_000)
    c.evals = [dict(kind="retrieval", name="twemoji", source=dict(kind="emoji5", split="twemoji"))]
    c.eval_every, c.log_every = 5000, 100
    return c


def clip(image: dict, text: dict, embed_dim: int, samples: float, batch_size: int, lr: float, wd: float = 0.2) -> ConfigDict:
    """CLIP's recipe (arXiv 2103.00020, table 19; OpenCLIP's LAION runs): AdamW, cosine, scale clamped at 100."""
    steps = int(samples / batch_size)
    c = base(steps, batch_size)
    c.tokenizer = dict(kind="clip")
    tower = dict(remat="full", norm_eps=1e-5)
    c.model = dict(dtype="bfloat16", embed_dim=embed_dim,
                   image=dict(pool="cls", pre_norm=True, patch_bias=False, **tower, **image),
                   text=dict(causal=True, pool="eos", **tower, **text))
    c.objective = dict(kind="softmax")
    c.optimizer = dict(name="adamw", lr=lr, b2=0.98, eps=1e-6, weight_decay=wd, schedule=dict(warmup=2000))
    return c


def siglip(image: dict, text: dict, samples: float, batch_size: int, vocabulary: str) -> ConfigDict:
    """SigLIP's recipe (arXiv 2303.15343): sigmoid loss, scale 10 and bias -10 and attention pooling."""
    c = base(int(samples / batch_size), batch_size)
    c.tokenizer = dict(kind="sentencepiece", path=vocabulary, context_length=64)
    half = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    c.model = dict(dtype="bfloat16", logit_scale_init=10.0, logit_bias_init=-10.0, max_logit_scale=None,
                   image=dict(pool="map", cls_token=False, activation="gelu_tanh", remat="full", **half, **image),
                   text=dict(causal=False, pool="last", activation="gelu_tanh", remat="full", embed_bias=True, **text))
    c.objective = dict(kind="sigmoid")
    c.optimizer = dict(name="adamw", lr=1e-3, b1=0.9, b2=0.95, weight_decay=1e-4, schedule=dict(warmup=20_000))
    return c
