"""How embeddings lie on the sphere: spread, closeness of what belongs together, dimensions in use, the gap
between modalities.

Rows are unit-norm unless it says otherwise. `weights` counts rows more than once, or not at all (a
bootstrap's resample).
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
import numpy as np

Weights = Float[np.ndarray, "rows"]

_SINGULAR_FLOOR = 1e-7  # RankMe's ε


def alignment(
    x: Float[np.ndarray, "rows dim"], y: Float[np.ndarray, "rows dim"], power: float = 2.0
) -> Float[np.ndarray, "rows"]:
    """‖x_i - y_i‖^power of each positive pair; its mean is ℓ_align (Wang & Isola, arXiv 2005.10242, §4.1.1,
    power 2)."""
    return np.linalg.norm(np.asarray(x, np.float64) - y, axis=1) ** power


def gaussian_kernel(x: Float[np.ndarray, "rows dim"], t: float = 2.0) -> Float[np.ndarray, "rows rows"]:
    """exp(-t ‖x_i - x_j‖²), with zeros on the diagonal: a row is no pair with itself."""
    x = np.asarray(x, np.float64)
    squares = np.square(x).sum(1)
    kernel = np.exp(-t * np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0.0))
    np.fill_diagonal(kernel, 0.0)
    return kernel


def log_mean_over_pairs(kernel: Float[np.ndarray, "rows rows"], weights: Weights | None = None) -> float:
    """log of the mean over ordered pairs of different rows, row i counted w_i times: log Σ w_i w_j k_ij /
    Σ_{i≠j} w_i w_j."""
    w = np.ones(len(kernel)) if weights is None else np.asarray(weights, np.float64)
    return float(np.log(w @ kernel @ w / (w.sum() ** 2 - np.square(w).sum())))


def uniformity(x: Float[np.ndarray, "rows dim"], t: float = 2.0, weights: Weights | None = None) -> float:
    """log E exp(-t ‖x - y‖²) over pairs of different rows (Wang & Isola, arXiv 2005.10242, §4.1.2, t = 2).

    0 where all rows are one point; the lower, the more evenly they are spread. On the sphere of many
    dimensions about -2t.
    """
    return log_mean_over_pairs(gaussian_kernel(x, t), weights)


def tolerance(
    x: Float[np.ndarray, "rows dim"], labels: Shaped[np.ndarray, "rows"], weights: Weights | None = None
) -> float:
    """Mean cosine over pairs of different rows of one class (Wang & Liu, arXiv 2012.09740, §4.2); NaN where
    no class has two.

    The paper's T = E[f(x)ᵀ f(y) · 1(l(x) = l(y))] is this times the share of such pairs, which the data
    decide.
    """
    x = np.asarray(x, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    total, pairs = 0.0, 0.0
    for label in np.unique(labels):
        mine = labels == label
        rows, of = x[mine], w[mine]
        total += np.square(of @ rows).sum() - np.square(of) @ np.square(rows).sum(1)
        pairs += of.sum() ** 2 - np.square(of).sum()
    return float(total / pairs) if pairs else float("nan")


def effective_rank(x: Float[np.ndarray, "rows dim"], weights: Weights | None = None) -> float:
    """exp of the entropy of the singular values' shares, Σ_k -p_k log p_k with p_k = σ_k / Σσ + ε (RankMe,
    arXiv 2210.02885, eq. 1; Roy & Vetterli 2007). Between 1 and min(rows, dim). Rows of any norm, not
    centred, as RankMe takes them."""
    x = np.asarray(x, np.float64)
    if weights is not None:
        x = (
            np.sqrt(np.asarray(weights, np.float64))[:, None] * x
        )  # xᵀ diag(w) x has the singular values of repeated rows
    sigma = np.linalg.svd(x, compute_uv=False)
    if not sigma.sum():
        return float("nan")
    p = sigma / sigma.sum() + _SINGULAR_FLOOR
    return float(np.exp(-(p * np.log(p)).sum()))


def centroid_distance(
    x: Float[np.ndarray, "rows dim"], y: Float[np.ndarray, "rows dim"], weights: Weights | None = None
) -> float:
    """‖mean x - mean y‖, the modality gap (Liang et al., arXiv 2203.02053, §2)."""
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    return float(np.linalg.norm((w @ x - w @ y) / w.sum()))
