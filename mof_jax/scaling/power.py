"""L = E + A·x^−α, and L = A·x^−α alone; x is compute, parameters or data."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from mof_jax.scaling.curve import curve_law
from mof_jax.scaling.law import Param

_EXPONENTS = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6)
_FLOORS = (0.02, 0.3, 0.6, 0.9, 0.99)  # of the lowest loss


def curve(theta: Float[Array, "3"], x: Float[Array, "1 points"]) -> Float[Array, "points"]:
    """log L of log x; theta holds log E, log A, α."""
    e, a, alpha = theta
    return jnp.logaddexp(e, a - alpha * x[0])


def starts(x: Float[np.ndarray, "1 points"], y: Float[np.ndarray, "points"]) -> Float[np.ndarray, "starts 3"]:
    """Floors below the lowest loss, exponents, and A through the mean of what is above the floor."""
    found = []
    for share, alpha in itertools.product(_FLOORS, _EXPONENTS):
        floor = share * np.exp(y.min())
        found.append((np.log(floor), np.mean(np.log(np.exp(y) - floor) + alpha * x[0]), alpha))
    return np.array(found)


def pure_curve(theta: Float[Array, "2"], x: Float[Array, "1 points"]) -> Float[Array, "points"]:
    """log L of log x; theta holds log A, α."""
    return theta[0] - theta[1] * x[0]


def pure_starts(x: Float[np.ndarray, "1 points"], y: Float[np.ndarray, "points"]) -> Float[np.ndarray, "starts 2"]:
    """Exponents, and A through the mean."""
    return np.array([(np.mean(y + alpha * x[0]), alpha) for alpha in _EXPONENTS])


LAW = curve_law(
    "power", "L = E + A / x^alpha", "Hestness et al. 2017; Kaplan et al. 2020", ("x", "L"), ("x",),
    (Param("E", "irreducible loss", log=True), Param("A", "of x", log=True), Param("alpha", "exponent of x")), curve, starts,
    lambda p: p["x"])
PURE = curve_law(
    "pure-power", "L = A / x^alpha", "Kaplan et al. 2020", ("x", "L"), ("x",),
    (Param("A", "of x", log=True), Param("alpha", "exponent of x")), pure_curve, pure_starts, lambda p: p["x"])
