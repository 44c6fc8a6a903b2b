"""Times the streamed contrastive losses against the full-matrix form under XLA and, where installed, open_clip.

    python -m mof_jax.bench.loss --n 16384 --dim 512

Everything runs in one process on the same device and threads, the contestants taking turns within each repeat, so that
a machine that slows down slows all of them. Times are forward and backward, gradients for features and scalars.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import rich
from rich.table import Table

from mof_jax.objectives.sigmoid import sigmoid_loss
from mof_jax.objectives.softmax import softmax_loss

SCALARS = {"softmax": {"logit_scale": 14.0}, "sigmoid": {"logit_scale": 10.0, "logit_bias": -10.0}}


def run(
    n: int = 16384,
    dim: int = 512,
    repeats: int = 5,
    losses: Sequence[str] = ("softmax", "sigmoid"),
    strip: int = 512,
    full_matrix: bool = True,
) -> list[dict]:
    """Measures every contestant.

    Args:
      n: pairs in the batch; the full-matrix forms take several times 4 n^2 bytes.
      dim: width of the features.
      repeats: timed runs of each contestant, after one that compiles.
      losses: of `softmax` and `sigmoid`.
      strip: queries per tile of the streamed form.
      full_matrix: whether to run the others, too.

    Returns:
      A row per loss and contestant: `loss`, `form`, `seconds` (median), `ratio` (its median over the streamed one's),
      `cpu_ratio` (the same in CPU seconds, which other processes disturb less), `busy` (CPU seconds per wall second:
      well under the number of cores means the machine was not quiet), `temp_mib` (compiled temporary memory, None for
      torch) and `value`.
    """
    features = [_unit(np.random.default_rng(seed), n, dim) for seed in (0, 1)]
    rows = []
    for loss in losses:
        forms = {"streamed": _jax_form(_streamed(loss, strip), features, loss)}
        if full_matrix:
            forms["XLA full matrix"] = _jax_form(FULL_MATRIX[loss], features, loss)
            forms |= _open_clip(features, loss)
        rows += _measure(loss, forms, repeats)
    return rows


def show(rows: list[dict]) -> None:
    """Prints the rows as a table."""
    table = Table("loss", "form", "median s", "x streamed", "x CPU s", "busy cores", "temp MiB", "value")
    for r in rows:
        temp = "-" if r["temp_mib"] is None else f"{r['temp_mib']:.0f}"
        ratios = (f"{r[k]:.2f}" for k in ("ratio", "cpu_ratio", "busy"))
        table.add_row(r["loss"], r["form"], f"{r['seconds']:.3f}", *ratios, temp, f"{r['value']:.5f}")
    rich.print(table)


def _measure(loss: str, forms: dict[str, tuple[Callable[[], float], float | None]], repeats: int) -> list[dict]:
    values = {name: call() for name, (call, _) in forms.items()}  # compiles
    wall, cpu = {name: [] for name in forms}, {name: [] for name in forms}
    for _ in range(repeats):
        for name, (call, _) in forms.items():
            t, c = time.perf_counter(), time.process_time()
            call()
            wall[name].append(time.perf_counter() - t)
            cpu[name].append(time.process_time() - c)
    median = {name: statistics.median(times) for name, times in wall.items()}
    cpu_median = {name: statistics.median(times) for name, times in cpu.items()}
    return [
        {
            "loss": loss,
            "form": name,
            "seconds": median[name],
            "ratio": median[name] / median["streamed"],
            "cpu_ratio": cpu_median[name] / cpu_median["streamed"],
            "busy": sum(cpu[name]) / sum(wall[name]),
            "temp_mib": temp,
            "value": values[name],
        }
        for name, (_, temp) in forms.items()
    ]


def _softmax(image, text, scale):
    s = scale * jnp.einsum("id,jd->ij", image, text)
    return (jax.nn.logsumexp(s, 0) + jax.nn.logsumexp(s, 1) - 2 * jnp.diag(s)).mean() / 2


def _sigmoid(image, text, scale, bias):
    s = scale * jnp.einsum("id,jd->ij", image, text) + bias
    return -jax.nn.log_sigmoid(jnp.where(jnp.eye(len(s), dtype=bool), s, -s)).sum() / len(s)


FULL_MATRIX = {"softmax": _softmax, "sigmoid": _sigmoid}  # as the textbook writes them: what `streamed` has to beat


def _streamed(loss: str, strip: int) -> Callable:
    def mean(*args):
        out = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}[loss](*args, block_size=strip)
        return out.sum / out.weight

    return mean


def _jax_form(mean_loss: Callable, features: list[np.ndarray], loss: str) -> tuple[Callable[[], float], float]:
    args = [jnp.asarray(x) for x in (*features, *map(np.float32, SCALARS[loss].values()))]
    step = jax.jit(jax.value_and_grad(mean_loss, tuple(range(len(args))))).lower(*args).compile()

    def call() -> float:
        return float(jax.block_until_ready(step(*args))[0])

    return call, step.memory_analysis().temp_size_in_bytes / 2**20


def _open_clip(features: list[np.ndarray], loss: str) -> dict[str, tuple[Callable[[], float], None]]:
    """open_clip's loss on as many CPU threads, or nothing where it is not installed."""
    try:
        from open_clip.loss import ClipLoss, SigLipLoss
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module = {"softmax": ClipLoss, "sigmoid": SigLipLoss}[loss]()
    args = [torch.tensor(x, requires_grad=True) for x in (*features, *map(np.float32, SCALARS[loss].values()))]

    def call() -> float:
        for x in args:
            x.grad = None
        value = module(*args)
        value.backward()
        return value.item()

    return {f"open_clip {type(module).__name__}": (call, None)}


def _unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = rng.standard_normal((n, dim), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n", 16384), ("dim", 512), ("repeats", 5), ("strip", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--losses", nargs="+", default=list(SCALARS), choices=SCALARS)
    show(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
