"""Training steps per second against open_clip: same architecture, batch and device, in turns, in one run.

    mof bench train --model S/16 --image-size 112 --batch 32
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from mof_jax import console
from mof_jax.models.text import TextConfig
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.models.vit import SIZES, ViTConfig
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask
from mof_jax.train.metrics import peak_flops
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.state import init_fn
from mof_jax.train.step import make_step

VOCAB, CONTEXT, EMBED = 49_408, 77, 512
_STEPS = 3  # of each contestant per turn

Contestant = Callable[[], None]


def run(model: str = "S/16", image_size: int = 112, batch: int = 32, repeats: int = 5, dtype: str = "float32") -> list[dict]:
    """Measures every contestant.

    Args:
      model: `SIZE/PATCH`, the size of the image tower (`models.vit.SIZES`); the text tower is CLIP's for that width.
      image_size: pixels. batch: pairs a step. repeats: turns of `_STEPS` steps, after one that compiles.
      dtype: of the towers' computation; open_clip runs under autocast for bfloat16.

    Returns:
      One row a contestant: `name`, `examples_per_s` (median), `ratio` (ours over theirs, median over paired turns), `gflops`,
      `mfu`; then one a library for its matrix product alone, on the shapes of the text tower's MLP: what either can hope for.
    """
    config = two_tower(model, image_size, dtype)
    task = ContrastiveTask(config, Softmax())
    contestants = {"mof_jax": ours(task, batch)} | open_clip_contestants(config, batch, dtype)
    for step in contestants.values():
        step()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, step in contestants.items():
            begun = time.perf_counter()
            for _ in range(_STEPS):
                step()
            seconds[name].append((time.perf_counter() - begun) / _STEPS)
    flops, peak = sum(task.flops(batch, lambda part: True).values()), peak_flops(jax.devices()[0])
    return [{
        "name": name,
        "examples_per_s": batch / statistics.median(times),
        "ratio": statistics.median(theirs / mine for theirs, mine in zip(times, seconds["mof_jax"])),
        "gflops": flops / statistics.median(times) / 1e9,
        "mfu": None if peak is None else flops / statistics.median(times) / peak,
    } for name, times in seconds.items()] + _products(batch * CONTEXT, config.text.width, config.text.mlp_dim, dtype, repeats)


def _products(rows: int, width: int, hidden: int, dtype: str, repeats: int) -> list[dict]:
    """[rows, width] @ [width, hidden] by XLA and by torch."""
    left, right = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((rows, width), (width, hidden)))
    product = jax.jit(jnp.matmul)
    ours = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
    calls: dict[str, Callable[[], Any]] = {"matrix product alone, XLA": lambda: jax.block_until_ready(product(*ours))}
    with contextlib.suppress(ImportError):
        import torch

        device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
        theirs = [torch.tensor(x).to(device, getattr(torch, dtype)) for x in (left, right)]

        def torch_product() -> None:
            theirs[0] @ theirs[1]
            if device == "cuda":
                torch.cuda.synchronize()

        calls["matrix product alone, torch"] = torch_product
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            for _ in range(50):
                call()
            if turn:  # the first compiles
                seconds[name].append((time.perf_counter() - begun) / 50)
    reference = seconds["matrix product alone, XLA"]
    return [{
        "name": name, "examples_per_s": None, "mfu": None,
        "ratio": statistics.median(theirs / mine for theirs, mine in zip(times, reference)),
        "gflops": 2 * rows * width * hidden / statistics.median(times) / 1e9,
    } for name, times in seconds.items()]


def show(rows: list[dict]) -> None:
    """Prints the rows as a table."""
    table = Table(title="Training step", title_justify="left")
    for column in ("contestant", "examples/s", "ours is × as fast", "GFLOP/s", "MFU"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for r in rows:
        mfu = "" if r["mfu"] is None else f"{r['mfu']:.1%}"
        examples = "" if r["examples_per_s"] is None else f"{r['examples_per_s']:.2f}"
        table.add_row(r["name"], examples, f"{r['ratio']:.2f}", f"{r['gflops']:,.0f}", mfu)
    console.stdout().print(table)


def two_tower(model: str, image_size: int, dtype: str) -> TwoTowerConfig:
    """CLIP's architecture at a size of the table."""
    size, _, patch = model.partition("/")
    width = {"Ti": 256, "S": 384, "B": 512, "L": 768, "H": 1024}.get(size, SIZES[size][0])
    kernel = "cudnn" if jax.default_backend() == "gpu" and dtype == "bfloat16" else "xla"
    # Unrolled on a CPU, where program size does not matter; scanned where it does.
    unroll = 64 if jax.default_backend() == "cpu" else 1
    tower: dict[str, Any] = dict(norm_eps=1e-5, kernel=kernel, unroll=unroll)
    return TwoTowerConfig(
        ViTConfig(variant=f"{size}/{patch}", image_size=image_size, pre_norm=True, patch_bias=False, **tower),
        TextConfig(width=width, depth=12, heads=width // 64, vocab_size=VOCAB, context_length=CONTEXT, eos_id=VOCAB - 1,
                   pad_id=0, **tower), embed_dim=EMBED, dtype=dtype)


def inputs(config: TwoTowerConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pictures and captions whose last token is the end of the text."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, config.image.image_size, config.image.image_size, 3), np.uint8)
    text = rng.integers(1, VOCAB - 2, (batch, CONTEXT)).astype(np.int32)
    text[:, -1] = VOCAB - 1
    return images, text


def ours(task: ContrastiveTask, batch: int) -> Contestant:
    """One step of this package's trainer: towers, streamed loss, AdamW."""
    config = OptimizerConfig(lr=1e-4, grad_clip=None)
    skeleton = Skeleton.of(task.build)
    decisions = decide(config, skeleton)
    tx = make_optimizer(config, 10_000, decisions, skeleton.matrices)
    state = jax.jit(init_fn(task.build, {path: True for path in decisions}, tx, ema=False))(jax.random.key(0))
    step = jax.jit(make_step(task, skeleton, tx, seed=0), donate_argnums=0)
    images, text = inputs(task.model, batch)
    data = {"image": jnp.asarray(images)[:, None], "text": jnp.asarray(text)[:, None]}
    holder = [state]

    def call() -> None:
        holder[0], metrics = step(holder[0], data)
        jax.block_until_ready((holder[0], metrics))

    return call


def open_clip_contestants(config: TwoTowerConfig, batch: int, dtype: str) -> dict[str, Contestant]:
    """open_clip's model, loss and AdamW, eager and compiled; nothing where it is not installed."""
    try:
        import open_clip
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    i, t = config.image, config.text
    vision = dict(image_size=i.image_size, layers=i.depth, width=i.width, head_width=i.width // i.heads, patch_size=i.patch_size,
                  mlp_ratio=i.mlp_dim / i.width)
    text = dict(context_length=CONTEXT, vocab_size=VOCAB, width=t.width, heads=t.heads, layers=t.depth)
    images, tokens = inputs(config, batch)
    mean, std = (np.asarray(x, np.float32) for x in (i.mean, i.std))
    pixels = torch.tensor(((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)).to(device)
    ids = torch.tensor(tokens, dtype=torch.long).to(device)
    autocast = lambda: torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def contestant(compiled: bool) -> Contestant:
        model = open_clip.model.CLIP(EMBED, vision, text, output_dict=True).to(device).train()
        run_model = torch.compile(model) if compiled else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=1e-4)
        loss_fn = open_clip.loss.ClipLoss()

        def call() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                out = run_model(pixels, ids)
                loss = loss_fn(out["image_features"], out["text_features"], out["logit_scale"])
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    return {"open_clip, eager": contestant(False), "open_clip, torch.compile": contestant(True)}
