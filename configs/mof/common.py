"""What the Mixture-of-Features configs share: LLaVA's two stages on packed rows (arXiv 2401.06209, §5; 2310.03744).

    align   adapters alone       lr 1e-3   captions, template `plain`
    tune    adapters and LLM     lr 2e-5   conversations, template `vicuna_v1`

AdamW without decay, cosine after a warm-up of 3 %, bfloat16; the encoders stay frozen. A step reads as many examples as the
papers' batches hold, but packed: the picture buffers of its 32 streams hold exactly so many pictures, the rows are just long
enough. (About one conversation in sixteen has no picture, so a step of `tune` sees a few more.) A document may have 2,048
tokens of text besides its image tokens; longer ones keep their beginning.

Every config takes `FILE.py:name=value,…`:

    data        LLaVA's folder as its scripts lay it out: LLaVA-Pretrain/blip_laion_cc_sbu_558k.json with images/, and
                llava_v1_5_mix665k.json with coco/, gqa/, ocr_vqa/, textvqa/, vg/. Without it the embedded scenes are read, as a
                smoke test.
    tokenizer   the LLM's SentencePiece model; without it byte pairs are trained on the data.
    clip        work dir of the two-tower run whose `image/` is the CLIP tower. dino: of the DINO run whose `teacher/encoder/`
                is the self-supervised one. llm: of the multimodal run whose `llm/` is the language model. Each may be
                `hf:FOLDER` or `hf:ORG/NAME` instead: hf:openai/clip-vit-large-patch14-336, hf:facebook/dinov2-large,
                hf:lmsys/vicuna-7b-v1.5. Without them the part starts from random weights, which is of no use but as a smoke
                test.
    topology    64 chips: v5e:8x8 or v6e:8x8.
"""

import math

from ml_collections import ConfigDict

CLIP = dict(variant="L/14", pre_norm=True, patch_bias=False, activation="quick_gelu", norm_eps=1e-5, kernel="splash")
DINO = dict(variant="L/14", layer_scale=1e-5, kernel="splash", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

OPTIONS = dict(data="", tokenizer="", clip="", dino="", llm="", topology="v5e:8x8")
# One for two devices, which split the layers: with one for each, rows long enough for the longest document stay emptier, and
# `tune` costs 40 % more.
STREAMS = 32
SCENES = dict(kind="scenes", size=10_000)  # of the smoke test


def clip(px: int) -> dict:
    """LLaVA's features: the last block but one, no final norm, patches only."""
    return dict(name="clip", layer=-2, vit=CLIP | dict(image_size=px))


def dino(px: int, parity: bool) -> dict:
    """DINOv2's last block. The released I-MoF feeds it pixels that were normalised for CLIP and leaves out its final norm."""
    vit = DINO | dict(image_size=px)
    return dict(name="dino", norm=not parity, pixels_of="clip" if parity else None, vit=vit)


def vicuna(size: str) -> dict:
    """The language model, its layers recomputed in the backward pass."""
    return dict(variant=f"vicuna-{size}", kernel="splash", remat="full")


def rows(documents: int, positions: int, longest: int = 0) -> tuple[int, int]:
    """(rows, context) of a stream that has room for so many documents of so many positions: as few rows as 4,096 positions allow,
    in the attention kernel's blocks of 256, none of them shorter than `longest`."""
    count = -(-documents * positions // 4096)
    context = max(-(-documents // count) * positions, longest)
    return count, -(-context // 256) * 256


def recipe(model: dict, tokens: int, options, *, align: dict, tune: dict) -> ConfigDict:
    """Both stages.

    Args:
      tokens: that a picture becomes.
      align, tune: `examples` of an epoch, `batch` of a step, `epochs`, and where they lie in the data folder.
    """
    dino = "encoder" if options.dino.startswith("hf:") else "teacher/encoder"
    towers = {"clip": ("encoders/clip/(.*)", r"image/\1"), "dino": ("encoders/dino/(.*)", rf"{dino}/\1"),
              "llm": ("(llm/.*)", r"\1")}
    given = [dict(path=getattr(options, name), rename=[pair]) for name, pair in towers.items() if getattr(options, name)]
    words = dict(kind="bpe", lowercase=False)
    if options.tokenizer:
        words = dict(kind="sentencepiece", path=options.tokenizer, lowercase=False, strip_punctuation=False)
    # 32 tokens are a caption; 384 an estimate of a conversation's. Where it is off, rows or picture buffers stay emptier
    # (`fill_tokens`, `fill_images` in the log), and nothing else changes.
    first = stage("align", model, "plain", tokens + 32, 0, options, lr=1e-3, **align)
    second = stage("tune", model, "vicuna_v1", tokens + 384, 2048 + tokens, options, lr=2e-5, **tune)
    first |= dict(tokenizer=words, init_from=given)
    second |= dict(tokenizer=dict(kind="run", path="stage:align"), init_from=dict(path="stage:align"))
    first["optimizer"]["freeze"] = [("encoders/.*", True), ("llm/.*", True)]
    second["optimizer"]["freeze"] = [("encoders/.*", True)]
    return ConfigDict(dict(stages=[first, second]))


def stage(name: str, model: dict, template: str, positions: int, longest: int, options, *, lr: float, examples: int, batch: int,
          path: str, root: str, epochs: int = 1, resize: str = "shortest") -> dict:
    """One stage: `batch` examples a step, `epochs` times over `examples`."""
    count, context = rows(batch // STREAMS, positions, longest)
    steps = examples * epochs // batch
    source = dict(kind="llava", path=f"{options.data}/{path}", image_root=f"{options.data}/{root}") if options.data else SCENES
    return dict(
        name=name, task="mllm", steps=steps, batch_size=STREAMS * count, model=model, objective=dict(block_size=1024),
        data=dict(kinds=dict(chat=dict(template=template, sources=[source])), context_length=context, rows_per_stream=count,
                  images_per_stream=batch // STREAMS, max_images=batch // STREAMS, resize=resize, fill=122, on_long="truncate",
                  on_error="skip", threads=16, prefetch=4),
        optimizer=dict(name="adamw", lr=lr, b2=0.999, weight_decay=0.0, grad_clip=1.0,
                       schedule=dict(kind="cosine", warmup=math.ceil(0.03 * steps))),
        mesh=dict(fsdp=STREAMS, tensor=2), hardware=dict(topology=options.topology),
        checkpoint=dict(every=500, keep=2), log_every=10, eval_every=None)


# LLaVA-1.5's data. CLIP's mean colour, with which `tune` pads pictures to a square, is (122, 116, 104); a grey of 122 here.
LCS = dict(examples=558_128, batch=256, path="LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", root="LLaVA-Pretrain/images")
MIX = dict(examples=665_298, batch=128, path="llava_v1_5_mix665k.json", root="", resize="longest")
# LLaVA's, for the additive mixtures.
CC = dict(examples=595_000, batch=128, path="LLaVA-CC3M-Pretrain-595K/chat.json", root="LLaVA-CC3M-Pretrain-595K/images")
INSTRUCT = dict(examples=158_000, batch=128, epochs=3, path="llava_instruct_158k.json", root="coco/train2017")
