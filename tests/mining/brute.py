"""The definition of a mined pair, over whole matrices."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
import numpy as np

from mof_jax.mining.rules import Rule
from mof_jax.mining.sample import quantile_of
from mof_jax.mining.state import Pairs


def brute_force(
    features: Mapping[str, Float[np.ndarray, "records dim"]], rules: Mapping[str, Rule], centre: bool = False
) -> Pairs:
    """The definition, over whole matrices in float64: what `mine` must equal. Zero and non-finite rows have no pairs."""
    passes, found = True, []
    for name, rule in rules.items():
        x = np.asarray(features[name], np.float32)
        usable = np.isfinite(x).all(axis=1) & (np.abs(x).max(axis=1) > 0)
        mean = x[usable].mean(axis=0, dtype=np.float64).astype(np.float32) if centre else np.float32(0)
        x = np.where(usable[:, None], (x - mean).astype(np.float64), np.nan)
        squares = np.sum(x * x, axis=1)
        cosine = x @ x.T / np.sqrt(np.outer(squares, squares))
        value = rule.value
        if value is None:
            upper = cosine[np.triu_indices(len(x), 1)]
            value = quantile_of(upper[np.isfinite(upper)], rule.quantile)
        passes = passes & (rule.sign * cosine > rule.sign * value)
        found.append(cosine)
    i, j = np.nonzero(np.triu(passes, 1))
    return Pairs(i, j, np.stack([cosine[i, j] for cosine in found]).astype(np.float32))
