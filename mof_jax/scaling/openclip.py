"""error = a·C^b of the best runs: the law of reproducible CLIP scaling (Cherti et al. 2022, arXiv 2212.07143).

As its authors fit it: log10 C in five equal bins (the last ends 0.1 above the largest), the lowest error of each placed at the
bin's centre, least squares in log10. C is GMAC of one sample's forward pass times samples seen. Their runs give 5.858·C^−0.1114
for ImageNet's zero-shot error and 2.750·C^−0.0794 for COCO's 1 − R@5 (image retrieval). For points that lie densely the best run
of a bin is at its upper end rather than at its centre, which lowers a by a few percent; `--law pure-power` has no bins.
"""

from __future__ import annotations

import numpy as np

from mof_jax.scaling.law import Law, Param
from mof_jax.scaling.lines import LinesProblem, best_of_bins
from mof_jax.scaling.table import Points

PARAMS = (Param("a", "coefficient", log=True), Param("b", "exponent of compute"))
BINS, ABOVE = 5, 0.1


def make(p: Points) -> LinesProblem:
    """The best of each bin, at the bin's centre."""
    c = np.log10(p["C"])
    edges = np.linspace(c.min(), c.max() + ABOVE, BINS + 1)
    held, best = best_of_bins(c, p["error"], edges)
    notes = () if len(held) == BINS else (f"{BINS - len(held)} of {BINS} bins of compute hold no run",)
    centres = (edges[:-1] + edges[1:])[held] / 2
    return LinesProblem(centres * np.log(10), np.log(p["error"][best])[None], PARAMS, ("error",), notes)


LAW = Law("openclip", "error = a C^b", "Cherti et al. 2022", ("C", "error"), lambda p: PARAMS, make, target="error")
