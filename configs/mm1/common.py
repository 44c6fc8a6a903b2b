"""What the MM1 configs share (arXiv 2403.09611): captions, pages and text at 45 : 45 : 10, packed, everything trained.

Rows of 4,096 positions and 512 rows a step; two rows share a buffer of 32 pictures (MM1: at most 16 a sequence), a picture of
378 px is 144 positions. AdamW, warm-up of 2,000 steps, cosine to a tenth. MM1 decays by λ = 0.1·η in the fully decoupled form,
θ ← θ - s(t)·(η·u + λ·θ); our `weight_decay` is multiplied by the learning rate, so that the same thing is called 0.1 here. The
paper does not publish the layers of its language models, betas, clipping or the z-loss: the layers are those of
`models.llm.SIZES`, the rest are the defaults of AXLearn, with which it was trained, and PaLM's z-loss.

Every config takes `FILE.py:name=value,…`:

    clip, llm           work dirs of the two-tower run whose `image/` is the encoder, and of the multimodal run whose `llm/` is
                        the language model, or `hf:FOLDER`, `hf:ORG/NAME`; MM1 starts from both. Without them the part starts
                        from random weights.
    tokenizer           a SentencePiece model; without it byte pairs are trained on the data.
    encoder_lr_scale    factor on the encoder's learning rate, 0 to freeze it. MM1 has 1; with both parts pretrained 0.1 to 0 did
                        better in arXiv 2504.07951.
    topology            another of the slices that `MESHES` has a mesh for.

The data are the embedded pictures, pages and glossary until `data.kinds.caption.sources`, `data.kinds.pages.sources` and
`data.kinds.text.sources` name others (a smoke test).
"""

from ml_collections import ConfigDict

from mof_jax.errors import lookup
from mof_jax.models.llm import SIZES

OPTIONS = dict(clip="", llm="", tokenizer="", encoder_lr_scale=1.0, topology="")
STEPS, CONTEXT, BATCH, ROWS = 200_000, 4096, 512, 2
TOKENS = 144

CLIP = dict(pre_norm=True, patch_bias=False, activation="quick_gelu", norm_eps=1e-5, kernel="splash", remat="full")
H14_378 = CLIP | dict(variant="H/14", image_size=378)  # DFN-5B's
L14_336 = CLIP | dict(variant="L/14", image_size=336)  # of the ablations


# How parameters are split (the rest of the devices splits rows alone) and, where rows do not fit at once, in how many
# micro-batches they go, by size and slices; the first is a config's own.
MESHES = {
    "mm1-3b": {"v5p:4x4x8": dict(fsdp=16), "v6e:16x16": dict(fsdp=32), "v5p:8x8x8": dict(fsdp=16, tensor=2),
               "2*v6e:16x16": dict(fsdp=32, tensor=2), "tpu7x:4x8x8": dict(fsdp=16, tensor=2)},
    "mm1-7b": {"v5p:4x8x8": dict(fsdp=32), "v6e:16x16": dict(fsdp=64), "v5p:8x8x8": dict(fsdp=32, tensor=2),
               "2*v6e:16x16": dict(fsdp=32, tensor=2), "tpu7x:4x8x8": dict(fsdp=32, tensor=2)},
    "mm1-30b": {"v5p:8x8x8": dict(fsdp=128, tensor=4), "v6e:16x16": dict(fsdp=64, tensor=4, microbatches=2),
                "2*v6e:16x16": dict(fsdp=64, tensor=4), "tpu7x:4x8x8": dict(fsdp=128, tensor=4)},
}


def parameters(size: str) -> int:
    """N of the learning-rate law: 12 · layers · width², the language model without embeddings."""
    return 12 * SIZES[size]["depth"] * SIZES[size]["width"] ** 2


def model(size: str, vit: dict) -> dict:
    """One encoder, its last block's patches, C-Abstractor, language model. 49,152 entries: any tokenizer up to that fits."""
    return dict(dtype="bfloat16", encoders=[dict(name="clip", vit=vit)],
                connector=dict(kind="c_abstractor", tokens=TOKENS),
                llm=dict(variant=size, vocab_size=49_152, kernel="splash", remat="full"))


def mixture() -> dict:
    """45 : 45 : 10, by supervised and image tokens. Captions: in seven of a hundred MM1 reads VeCap's instead of the web's."""
    return dict(
        caption=dict(weight=0.45, sources=[dict(kind="emoji5", captions=dict(probabilities=dict(alt=1.0)))]),
        pages=dict(kind="interleaved", weight=0.45, sources=[dict(kind="pages", size=10_000)]),
        text=dict(weight=0.1, sources=[dict(kind="glossary", size=10_000)]))


def pod(size: str, topology: str) -> tuple[str, dict[str, int]]:
    """The slices that a size trains on, and how its parameters are split there."""
    meshes = MESHES[size]
    topology = topology or next(iter(meshes))
    return topology, dict(lookup(meshes, topology, f"slices for {size}"))


def pretrain(size: str, lr: float, options, vit: dict = H14_378, topology: str | None = None, **mesh: int) -> ConfigDict:
    """The pretraining run of a size; on slices and a mesh of `MESHES` where none are given."""
    if not mesh:
        topology, mesh = pod(size, options.topology)
    microbatches = mesh.pop("microbatches", 1)
    c = ConfigDict()
    c.task, c.steps, c.batch_size = "mllm", STEPS, BATCH
    c.model = model(size, vit)
    c.objective, c.microbatches = dict(block_size=1024, z_loss=1e-4), microbatches
    c.tokenizer = dict(kind="bpe", lowercase=False)
    if options.tokenizer:
        c.tokenizer = dict(kind="sentencepiece", path=options.tokenizer, lowercase=False, strip_punctuation=False)
    c.data = dict(kinds=mixture(), context_length=CONTEXT, rows_per_stream=ROWS, images_per_stream=16 * ROWS, max_images=16,
                  resize="shortest", on_long="truncate", on_error="skip", threads=32, prefetch=4)
    c.optimizer = dict(name="adamw", lr=lr, b1=0.9, b2=0.95, weight_decay=0.1, grad_clip=1.0,
                       schedule=dict(kind="cosine", warmup=2000, final=0.1))
    c.optimizer.update(encoder_rules(options.encoder_lr_scale))
    c.mesh, c.hardware = dict(mesh), dict(topology=topology)
    c.init_from = init_from(options)
    c.checkpoint = dict(every=1000, keep=3, keep_every=20_000)
    c.eval_every, c.log_every = None, 20
    return c


def encoder_rules(scale: float) -> dict:
    """The rule for the encoder's learning rate."""
    return dict(freeze=[("encoders/.*", True)]) if scale == 0 else dict(lr_factors=[("encoders/.*", scale)])


def init_from(options) -> list[dict]:
    """Encoder and language model of other runs."""
    towers = {"clip": ("encoders/clip/(.*)", r"image/\1"), "llm": ("(llm/.*)", r"\1")}
    return [dict(path=getattr(options, name), rename=[pair]) for name, pair in towers.items() if getattr(options, name)]
