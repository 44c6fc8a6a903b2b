"""What there was before training: the same model as it was initialised, and the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Float
import numpy as np

from mof_jax.data.record import Source
from mof_jax.evals.embed.embedder import Embedder

Features = Callable[[Source], Float[np.ndarray, "records dim"]]

_SIDE = 8  # pixels; on the embedded pictures coarse ones compare best (nearest neighbour: 35 % at 8, 31 % at 32)
_RESAMPLES = 2000


def accuracies(embedder: Embedder, right: Callable[[Features], Bool[np.ndarray, "test"]], baselines: bool) -> dict[str, float]:
    """`acc@1` in percent of `right(features)`; with `baselines` also those of the references and the leads over them.

    Returns:
      `acc@1`; `acc@1_untrained` (fresh initial values), `acc@1_pixels` (pictures shrunk to 8 x 8), and with each a
      `lead_…_low`, the lower end of the 95 % paired bootstrap interval of the difference.
    """
    ours = right(embedder.images)
    result = {"acc@1": 100 * float(ours.mean())}
    if not baselines:
        return result
    fresh = embedder.untrained()
    for name, features in (("untrained", fresh.images), ("pixels", lambda source: embedder.pixels(source, _SIDE))):
        theirs = right(features)
        result[f"acc@1_{name}"] = 100 * float(theirs.mean())
        result[f"lead_{name}_low"] = 100 * paired_interval(ours, theirs)[0]
    return result


def paired_interval(a: Bool[np.ndarray, "items"], b: Bool[np.ndarray, "items"], seed: int = 0) -> tuple[float, float]:
    """95 % interval of mean(a) - mean(b) over items drawn with replacement, the same ones for both."""
    difference = a.astype(np.float64) - b
    # Few values occur (three, of booleans), so a resample is a draw of how often each of them does.
    values, counts = np.unique(difference, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(difference), counts / len(difference), size=_RESAMPLES)
    low, high = np.quantile(draws @ values / len(difference), [0.025, 0.975])
    return float(low), float(high)
