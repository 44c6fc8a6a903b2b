"""A cheap upper bound on a cosine, never too low: what decides which pairs are worth an exact look.

A unit vector x is split by an orthonormal basis Q into x1 = Q^T x and what is left, of length r = sqrt(1 - |x1|^2). By
Cauchy-Schwarz

    cos(x, y)  <=  <x1, y1> + r_x r_y  =  <[x1, r_x], [y1, r_y]>,

so a matrix product over a few coordinates bounds one over all of them (the idea of FEXIPRO, SIGMOD 2017). The better Q
catches the data, the tighter it is: here Q is the leading eigenvectors of a sample. A rule "below" is one "above" for -x.
At full width Q is the identity, r is left out and the bound is the cosine itself.

Rounding is added on top of the threshold as a margin that is proved, not measured: see `margin`. So no pair is missed, and
the exact cosines of what passes (`cosines`, float64) decide.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np

_F32, _BF16 = 2.0**-24, 2.0**-8  # unit roundoff
SMALLEST = 1e-30  # a row without an entry of this size counts as zero: its square would vanish in float32
PAPER_MARGIN = 0.008  # for bfloat16 inputs of up to a thousand dimensions


@dataclasses.dataclass(frozen=True)
class Sieve:
    """How one feature is bounded on the device.

    Attributes:
      sign: +1 for a rule above, -1 below. threshold: of the cosine. dtype: of the matrix product's inputs.
      mean: subtracted from every row before anything else. basis: Q, [dim, width - 1]; None for full width.
    """

    sign: int
    threshold: float
    dtype: str
    mean: Float[np.ndarray, "dim"]
    basis: Float[np.ndarray, "dim part"] | None = None

    @property
    def dim(self) -> int:
        """Width of the feature."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """Columns of the matrices that are multiplied."""
        return self.dim if self.basis is None else self.basis.shape[1] + 1

    @property
    def cut(self) -> float:
        """What a bound must exceed, rounded down to float32."""
        exact = self.sign * self.threshold - margin(self.dim, self.width, self.dtype)
        return float(np.nextafter(np.float32(exact), np.float32(-np.inf)))


def prepare(
    x: Float[Array, "rows dim"], usable: Bool[Array, "rows"], mean: Float[Array, "dim"], basis: Float[Array, "dim part"] | None,
    sign: int, dtype: str,
) -> Float[Array, "rows width"]:
    """Rows ready to be multiplied; a row that is not usable becomes NaN, which exceeds no threshold.

    Args:
      mean, basis, dtype: of a `Sieve`. sign: the sieve's own for the left factor, 1 for the right one.
    """
    x = x - mean
    x = x / jnp.max(jnp.abs(x), axis=1, keepdims=True)  # first, so that no square overflows
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    if basis is None:
        x = sign * x
    else:
        x = jnp.matmul(x, basis, precision="highest")
        slack = 1 + _slack(len(mean), basis.shape[1] + 1)
        x = jnp.concatenate([sign * x, jnp.sqrt(jnp.maximum(slack - jnp.sum(x * x, axis=1, keepdims=True), 0))], axis=1)
    return jnp.where(usable[:, None], x, jnp.nan).astype(dtype)


def _projected(dim: int, width: int) -> float:
    """How far the computed x1 can be from the true one, as a length."""
    return math.sqrt(width) * (dim + 8) * _F32


def _slack(dim: int, width: int) -> float:
    """Added under the root of r, so that the computed r is never smaller than the true one."""
    error = _projected(dim, width)
    return 2 * error + error * error + (width + 8) * _F32


def margin(dim: int, width: int, dtype: str) -> float:
    """How far a computed bound can fall below the true one.

    bfloat16: two operands of relative error u = 2^-8 each and products of them, summed in float32: 2u + u^2 + width 2^-24,
    0.0079 at 1024 and never taken below the 0.008 that is customary. float32: the same with normalisation and projection, which
    bfloat16 also pays where it projects.
    """
    found = (2 * dim + width + 16) * _F32
    if width < dim:
        error = _projected(dim, width)
        found += 2 * error + error * error
    if dtype == "bfloat16":
        found = max(found + (2 * _BF16 + _BF16**2) * (1 + (_slack(dim, width) if width < dim else 0)), PAPER_MARGIN)
    return found


def default_dtype() -> str:
    """Of the sieve's matrix products: bfloat16 where matrix units have it, float32 on a CPU, where it is slower."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def usable_rows(x: Float[np.ndarray, "rows dim"], mean: Float[np.ndarray, "dim"]) -> Bool[np.ndarray, "rows"]:
    """Which rows have a direction: finite, and not zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        y = x - mean
        largest = np.maximum(y.max(axis=1), -y.min(axis=1))
    return np.isfinite(largest) & (largest >= SMALLEST)


def cosines(
    x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "n dim"], mean: Float[np.ndarray, "dim"]
) -> Float[np.ndarray, "n"]:
    """Cosines row by row in float64: the definition, which depends on nothing but the two rows and the mean."""
    x, y = ((rows - mean).astype(np.float64) for rows in (x, y))
    dot = lambda a, b: np.einsum("nd,nd->n", a, b)
    return dot(x, y) / np.sqrt(dot(x, x) * dot(y, y))
