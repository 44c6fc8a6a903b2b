"""ln η* = p·ln N + q: the best learning rate by model size, as MM1 found its own (McKinzie et al. 2024, arXiv 2403.09611).

For every size a grid of learning rates, a parabola in ln η, its lowest point; a line through those. MM1's is
η*(N) = exp(−0.4214 ln N − 0.5535), N the language model's parameters without its embeddings, and its decoupled weight decay is
0.1·η. Where the grid has several weight decays, too, the parabola is in both, and the ratio of the two optima is found with it.
"""

from __future__ import annotations

from jaxtyping import Float
import numpy as np

from mof_jax.scaling.law import Law, Param
from mof_jax.scaling.optima import OptimaProblem, grouped
from mof_jax.scaling.table import Points

LINE = (Param("p", "exponent of N"), Param("q", "logarithm of the rate at N = 1"))
RATIO = Param("wd_per_lr", "best weight decay over best learning rate", log=True)
MM1 = (-0.4214, -0.5535)
MM1_DECAY = 0.1


def rate(parameters: float, p: float = MM1[0], q: float = MM1[1]) -> float:
    """η* of a size; MM1's by default."""
    return float(np.exp(p * np.log(parameters) + q))


def params(points: Points) -> tuple[Param, ...]:
    """The line, and the ratio where weight decay was searched."""
    return (*LINE, RATIO) if _searches_decay(points) else LINE


def lines(optima: Float[np.ndarray, "draws groups variables"], keys: Float[np.ndarray, "groups"]
          ) -> Float[np.ndarray, "draws params"]:
    """p, q, and the mean of ln(λ*/η*)."""
    design = np.stack([keys, np.ones_like(keys)], axis=1)
    found = [optima[..., 0] @ np.linalg.pinv(design).T]
    if optima.shape[-1] == 2:
        found.append((optima[..., 1] - optima[..., 0]).mean(axis=1, keepdims=True))
    return np.concatenate(found, axis=1)


def make(p: Points) -> OptimaProblem:
    """A group a size."""
    searched = ("lr", "wd") if _searches_decay(p) else ("lr",)
    u = np.log([p[s] for s in searched]).T
    groups = grouped(np.log(p["N"]), u, p["L"], lambda n: f"N = {n:.4g}", searched)
    return OptimaProblem(p["L"], groups, lines, params(p), searched)


def _searches_decay(p: Points) -> bool:
    return "wd" in p and len(np.unique(p["wd"])) > 2 and abs(np.corrcoef(np.log(p["lr"]), np.log(p["wd"]))[0, 1]) < 0.999


LAW = Law("lr", "ln lr* = p ln N + q", "MM1 (McKinzie et al. 2024)", ("N", "lr", "L"), params, make, optional=("wd", "batch"))
