"""What there was before training: the same model as it was initialised, and the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Float
import numpy as np

from mof_jax.data.record import Source
from mof_jax.evals.metrics.paired import paired_interval
from mof_jax.evals.model import Model

Features = Callable[[Source], Float[np.ndarray, "records dim"]]

_SIDE = 8  # pixels; on the embedded pictures coarse ones compare best (nearest neighbour: 35 % at 8, 31 % at 32)


def accuracies(
    model: Model, right: Callable[[Features], Bool[np.ndarray, "test"]], units: Sequence[str], baselines: bool
) -> dict[str, float]:
    """`acc@1` in percent of `right(features)`; with `baselines` also those of the references and the leads
    over them.

    Args:
      units: what each test record is about, see `evals.items`.

    Returns:
      `acc@1`; `acc@1_untrained` (fresh initial values), `acc@1_pixels` (pictures shrunk to 8 x 8), and with each
      a `lead_…_low`, the lower end of the 95 % paired bootstrap interval of the difference.
    """
    embedder = model.embedder
    ours = right(embedder.images)
    model.keep("acc@1", units, 100.0 * ours)
    result = {"acc@1": 100 * float(ours.mean())}
    if not baselines:
        return result
    fresh = embedder.untrained()
    for name, features in (
        ("untrained", fresh.images),
        ("pixels", lambda source: embedder.pixels(source, _SIDE)),
    ):
        theirs = right(features)
        result[f"acc@1_{name}"] = 100 * float(theirs.mean())
        result[f"lead_{name}_low"] = 100 * paired_interval(ours, theirs)[0]
    return result
