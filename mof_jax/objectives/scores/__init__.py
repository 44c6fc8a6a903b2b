"""A global score matrix and its statistics, streamed over tiles and devices or dense.

    s = scores(query, key, scale=scale, pairing=Diagonal(), mesh=mesh, batch_axes=axes)
    n, p = s.reduce(Statistic("lse", "negatives"), Statistic("lse", "positives"))

Every contrastive loss is a function of a few numbers per row and per column of the matrix, so a loss
is ordinary JAX on vectors and never sees tiles, masks or devices. What may be asked is in
`statistics.py`, what takes part in `pairing.py`.
"""

from mof_jax.objectives.scores.build import BLOCK_SIZE, scores
from mof_jax.objectives.scores.dense import DenseScores
from mof_jax.objectives.scores.pairing import Band, Diagonal, Groups, Labels, LabelSets, Pairing, Valid
from mof_jax.objectives.scores.statistics import Statistic
from mof_jax.objectives.scores.streamed import StreamedScores
from mof_jax.objectives.scores.value import Scores

__all__ = ["BLOCK_SIZE", "Band", "DenseScores", "Diagonal", "Groups", "LabelSets", "Labels", "Pairing",
           "Scores", "Statistic", "StreamedScores", "Valid", "scores"]
