"""L = E + A/N^α + B/D^β: approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556), as replicated by Besiroglu et al. 2024
(arXiv 2404.10102): Huber's loss, δ = 1e-3, on log residuals, summed (a mean makes common optimisers stop early), from every
start of the paper's grid."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from mof_jax.scaling.curve import curve_law
from mof_jax.scaling.law import Param

PARAMS = (Param("A", "of N", log=True), Param("B", "of D", log=True), Param("E", "irreducible loss", log=True),
          Param("alpha", "exponent of N"), Param("beta", "exponent of D"))


def curve(theta: Float[Array, "5"], x: Float[Array, "2 points"]) -> Float[Array, "points"]:
    """log L of log N and log D; theta holds log A, log B, log E, α, β."""
    a, b, e, alpha, beta = theta
    terms = jnp.stack([a - alpha * x[0], b - beta * x[1], jnp.full_like(x[0], e)])
    # A constant to the derivative: max's own compares every term with the largest, which the compiler may have rounded otherwise,
    # and divides by the number of equals: none.
    top = jax.lax.stop_gradient(jnp.max(terms, axis=0))
    return top + jnp.log(jnp.sum(jnp.exp(terms - top), axis=0))


def starts(x: Float[np.ndarray, "2 points"], y: Float[np.ndarray, "points"]) -> Float[np.ndarray, "4500 5"]:
    """The paper's grid (its section D.2): log A, log B of 0, 5 … 25; log E of −1, −½ … 1; α, β of 0, ½ … 2."""
    del x, y
    coefficients, exponents = np.arange(0, 30, 5.0), np.arange(0, 2.5, 0.5)
    return np.array(list(itertools.product(coefficients, coefficients, np.arange(-1, 1.5, 0.5), exponents, exponents)))


LAW = curve_law("chinchilla", "L = E + A / N^alpha + B / D^beta", "Hoffmann et al. 2022, approach 3", ("N", "D", "L"),
                ("N", "D"), PARAMS, curve, starts, lambda p: 6 * p["N"] * p["D"])
