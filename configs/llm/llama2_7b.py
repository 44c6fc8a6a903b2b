"""A language model of Llama 2's 7B layers on packed text alone (arXiv 2307.09288): a decoder to start a multimodal run from.

    mof train --config configs/llm/llama2_7b.py:tokenizer=WORDS.model --workdir gs://BUCKET/llm_7b --distributed \\
        --config.data.kinds.text.sources="[{'kind': 'arrayrecord', 'path': 'gs://BUCKET/text/data@1024'}]"

Without a tokenizer byte pairs are trained, without sources the embedded glossary is read, as a smoke test. 1,048,576 positions a
step, 2 trillion of them as in the paper; a multimodal run takes it with `:llm=gs://BUCKET/llm_7b`. Hardware: a v5e-256 slice,
one row of 4,096 positions a device. Cost:

    stage    steps        rows a step    FLOPs        (python -m mof_jax.plan.cost configs/llm/llama2_7b.py)
    run      1,907,348    256            8.57e+22

Not trained by us.
"""

from ml_collections import ConfigDict

from mof_jax.config import arguments

CONTEXT, BATCH, TOKENS = 4096, 256, 2e12


def get_config(arg=None):
    o = arguments(arg, tokenizer="", size="llama2-7b", topology="v5e:16x16")
    c = ConfigDict()
    c.task, c.steps, c.batch_size = "mllm", int(TOKENS / (BATCH * CONTEXT)), BATCH
    c.model = dict(dtype="bfloat16", encoders=[], llm=dict(variant=o.size, kernel="splash", remat="full"))
    c.objective = dict(block_size=1024, z_loss=1e-4)
    c.tokenizer = dict(kind="bpe", lowercase=False)
    if o.tokenizer:
        c.tokenizer = dict(kind="sentencepiece", path=o.tokenizer, lowercase=False, strip_punctuation=False)
    c.data = dict(kinds=dict(text=dict(weight=1.0, sources=[dict(kind="glossary", size=10_000)])), context_length=CONTEXT,
                  rows_per_stream=1, on_long="truncate", on_error="skip", threads=32, prefetch=4)
    c.optimizer = dict(name="adamw", lr=3e-4, b1=0.9, b2=0.95, weight_decay=0.1, grad_clip=1.0,
                       schedule=dict(kind="cosine", warmup=2000, final=0.1))
    c.mesh, c.hardware = dict(fsdp=256), dict(topology=o.topology)
    c.checkpoint, c.eval_every, c.log_every = dict(every=1000, keep=3, keep_every=50_000), None, 20
    return c
