"""Figures as functions of rows and of how often each row counts, so that a bootstrap can take them anew.

A statistic takes the rows of an evaluation once and returns the figure for any weights of them. A resample
is a weight for each row, the number of times that its unit was drawn; a row that was drawn twice is no pair
with itself.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

from jaxtyping import Float
import numpy as np

from mof_jax.evals.metrics import geometry, multilabel

Weights = Float[np.ndarray, "rows"]
Statistic = Callable[[Float[np.ndarray, "rows columns"]], Callable[[Weights], float]]

STATISTICS: dict[str, Statistic] = {}
_FITS: dict[str, Callable[[int], bool]] = {}


def _one(columns: int) -> bool:
    return columns >= 1


def _two(columns: int) -> bool:
    return columns == 2


def _several(columns: int) -> bool:
    return columns >= 2


def _halves(columns: int) -> bool:
    return columns % 2 == 0


def statistic(columns: Callable[[int], bool] = _one) -> Callable[[Statistic], Statistic]:
    """Makes a function known under its name, to whoever reads rows that name it. An evaluator's own file
    may have one.

    Args:
      columns: how many it takes.

    Raises:
      ValueError: the name is taken.
    """

    def register(function: Statistic) -> Statistic:
        name = function.__name__
        if name in STATISTICS:
            raise ValueError(f"two statistics are called {name!r}")
        STATISTICS[name], _FITS[name] = function, columns
        return function

    return register


def fits(name: str, values: Float[np.ndarray, "rows columns"]) -> bool:
    """Whether a statistic can be taken of such rows: as many columns as it takes, and no gaps but for
    means."""
    return _FITS[name](values.shape[1]) and (name == "mean" or bool(np.isfinite(values).all()))


@statistic()
def mean(values: Float[np.ndarray, "rows columns"]) -> Callable[[Weights], float]:
    """Of each column over the rows where it is a number; of several columns, the mean of their means."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    return lambda w: float(np.mean((w @ filled) / (w @ known)))


@statistic(_two)
def ratio(values: Float[np.ndarray, "rows two"]) -> Callable[[Weights], float]:
    """Σ of the first column over Σ of the second: nats a token, right answers a question."""
    return lambda w: float((w @ values[:, 0]) / (w @ values[:, 1]))


@statistic()
def uniformity(values: Float[np.ndarray, "rows dim"]) -> Callable[[Weights], float]:
    """See `geometry.uniformity`."""
    kernel = geometry.gaussian_kernel(values)
    return lambda w: geometry.log_mean_over_pairs(kernel, w)


@statistic()
def effective_rank(values: Float[np.ndarray, "rows dim"]) -> Callable[[Weights], float]:
    """See `geometry.effective_rank`."""
    return functools.partial(geometry.effective_rank, values)


@statistic(_several)
def tolerance(values: Float[np.ndarray, "rows columns"]) -> Callable[[Weights], float]:
    """See `geometry.tolerance`; the last column is the class."""
    return functools.partial(geometry.tolerance, values[:, :-1], values[:, -1])


@statistic(_halves)
def centroid_distance(values: Float[np.ndarray, "rows columns"]) -> Callable[[Weights], float]:
    """See `geometry.centroid_distance`; the left half of the columns is one modality, the right half the
    other."""
    return functools.partial(geometry.centroid_distance, *np.split(values, 2, axis=1))


@statistic(_two)
def average_precision(values: Float[np.ndarray, "rows two"]) -> Callable[[Weights], float]:
    """See `multilabel.average_precision`; columns are score and label."""
    return functools.partial(multilabel.average_precision, values[:, 0], values[:, 1] > 0)


@statistic(_halves)
def mean_average_precision(values: Float[np.ndarray, "rows columns"]) -> Callable[[Weights], float]:
    """See `multilabel.mean_average_precision`, in percent; the left half of the columns holds scores, the
    right half labels."""
    scores, labels = np.split(values, 2, axis=1)
    return lambda w: 100 * multilabel.mean_average_precision(scores, labels > 0, w)


@statistic(_two)
def auc(values: Float[np.ndarray, "rows two"]) -> Callable[[Weights], float]:
    """The area under the ROC curve: how probably a positive row scores above a negative one, ties for a half
    (Mann & Whitney 1947); columns are score and label."""
    number = np.unique(values[:, 0], return_inverse=True)[1]
    right = values[:, 1] > 0

    def figure(w: Weights) -> float:
        positive, negative = (np.bincount(number, w * of, number.max() + 1) for of in (right, ~right))
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / (positive.sum() * negative.sum()))

    return figure


@statistic(_two)
def spearman(values: Float[np.ndarray, "rows two"]) -> Callable[[Weights], float]:
    """Spearman's rank correlation of two columns: Pearson's of their ranks, equal values at their mean
    rank."""
    numbers = [np.unique(column, return_inverse=True)[1] for column in values.T]

    def figure(w: Weights) -> float:
        counts = [np.bincount(number, w) for number in numbers]
        x, y = ((np.cumsum(count) - count / 2)[number] for count, number in zip(counts, numbers))
        x, y = (ranks - w @ ranks / w.sum() for ranks in (x, y))
        return float((w * x) @ y / np.sqrt(((w * x) @ x) * ((w * y) @ y)))

    return figure
