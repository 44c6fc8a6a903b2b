"""Self-distillation of a ViT-L/14 with registers, 224 px: the image-level half of DINOv2 (arXiv 2304.07193, 2309.16588).

    mof train --config configs/ssl/dino_vit_l14.py --workdir gs://BUCKET/dino_l14 --distributed --config.mesh.fsdp=16 \\
        --config.data.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/pictures/data@1024'}]"

Two crops of 224 px and eight of 98 px a picture, Sinkhorn-Knopp over the 6,144 large crops of a batch, 131,072 prototypes.
Hardware: a v5e-256 slice. Cost: 625,000 steps of 3,072 pictures. DINOv2 adds patch-level distillation (iBOT), KoLeo, stochastic
depth and a rising weight decay, which this recipe lacks: expect less than DINOv2. Not trained by us. Without `data.sources` it
reads the embedded pictures, as a smoke test.
"""

from ml_collections import ConfigDict

EPOCH = 1250  # steps; the paper counts in epochs of this length


def get_config():
    c = ConfigDict()
    c.task, c.steps, c.batch_size = "dino", 500 * EPOCH, 3072
    c.model = dict(
        dtype="bfloat16", hidden=2048, bottleneck=384, prototypes=131_072,
        encoder=dict(variant="L/14", registers=4, pool="cls", layer_scale=1e-5, remat="full",
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    c.objective = dict(student_temperature=0.1, teacher_temperature=(0.04, 0.07), warmup=30 * EPOCH, sinkhorn=3, momentum=0.994,
                       frozen_prototypes=EPOCH)
    colour = dict(jitter=dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8), grayscale=0.2, flip=0.5,
                  blur=dict(probability=0.5, sigma=(0.1, 2.0)))
    c.data = dict(sources=[dict(kind="emoji5")], on_error="skip", threads=16, views=2,
                  augment=dict(crop=dict(scale=(0.32, 1.0)), **colour),
                  local=dict(views=8, image_size=98, augment=dict(crop=dict(scale=(0.05, 0.32)), **colour)))
    c.optimizer = dict(name="adamw", lr=2e-4 * (c.batch_size / 1024) ** 0.5, b1=0.9, b2=0.999, weight_decay=0.04, grad_clip=3.0,
                       schedule=dict(warmup=80 * EPOCH, final=0.003),
                       lr_factors=[("student/encoder/patch_embed/.*", 0.2)])
    c.checkpoint = dict(every=2000, keep=3, keep_every=25_000)
    c.hardware = dict(topology="v5e:16x16")
    concepts = dict(train=dict(kind="emoji5"), test=dict(kind="emoji5", split="twemoji"), label="concept")
    c.evals = [dict(kind="knn", k=1, **concepts)]
    c.eval_every, c.log_every = 12_500, 100
    return c
