"""A scaling law of a language model at toy scale: five sizes, four lengths of training, one CPU core.

    mof sweep --config configs/sweeps/lm_scaling.py --dry-run
    mof sweep --config configs/sweeps/lm_scaling.py --workdir runs/lm_scaling --workers 2
    mof fit runs/lm_scaling --law chinchilla --columns N=non_embedding_parameters,D=tokens,L=loss

Pages of the embedded glossary, packed, drawn fresh from a million; none of the 200 that the loss is measured on is among
them, but the few thousand definitions that pages are made of are. So the law says how fast this text is learned by heart,
and its exponents say nothing of language. The lengths of a size are cooldown branches of one run.

Hardware: a CPU core. Cost: 20 points, 25 runs, 2.5e13 FLOPs, 22 minutes beside other work. Seed 0 is in
`notebooks/sweeps/lm_scaling.csv`: held-out loss from 4.14 nats a token (33 k parameters, 0.2 M tokens) to 1.26 (886 k, 1.5
M). The fit: alpha 0.46 [0.15, 1.35], beta 0.46 [0.34, 0.98], no floor (the definitions can be known by heart), and the
largest quarter of the runs is off by 24 % when predicted by the others (43 % at worst). So no exponent of it should be
quoted: the form does not hold from the first words to knowing the glossary, and the fit says so.
"""

from ml_collections import ConfigDict

from mof_jax.config import arguments
from mof_jax.sweep.branches import cooldowns
from mof_jax.sweep.grid import log_spaced

BATCH, CONTEXT, FRESH = 16, 128, 1_000_000
WIDTHS = log_spaced(32, 192, 5, multiple=16)
STEPS = (100, 200, 400, 800)


def get_config(arg=None):
    o = arguments(arg, seed=0)
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "mllm", o.seed, STEPS[-1], BATCH
    # `unroll`: at two layers a plain network is faster on a CPU than a scanned one and compiles as quickly.
    c.model = dict(encoders=[], llm=dict(width=96, depth=2, heads=4, unroll=2))
    c.tokenizer = dict(kind="bpe", vocab_size=1024, records=2000)
    text = dict(weight=1.0, sources=[dict(kind="glossary", size=FRESH)])
    c.data = dict(kinds=dict(text=text), context_length=CONTEXT, rows_per_stream=4, on_long="truncate", threads=1)
    c.optimizer = dict(name="adamw", lr=3e-3, b2=0.95, weight_decay=0.05, schedule=dict(kind="wsd", warmup=40))
    c.evals = [dict(kind="text_loss", source=dict(kind="glossary", size=FRESH + 200, skip=FRESH))]
    c.eval_batch_size, c.checkpoint, c.log_every = 20, dict(every=0, keep=1), 25
    return c


def size(width):
    """At a rate that falls with the root of the width."""
    return {"model.llm.width": width, "optimizer.lr": 3e-3 * (96 / width) ** 0.5}


def sweep(arg=None):
    """Every width, cooled down after each length."""
    return [point for width in WIDTHS for point in cooldowns(size(width), STEPS)]
