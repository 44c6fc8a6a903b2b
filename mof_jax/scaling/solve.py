"""Many small robust fits at once: Σ w·Huber(prediction − y), from every start.

Levenberg–Marquardt on iteratively reweighted squares, batched with `vmap` and in float64. A fit of five numbers to some hundred
points is far too small for one dispatch; thirty-two of them fill a core's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

Curve = Callable[[Float[Array, "params"], Float[Array, "inputs points"]], Float[Array, "points"]]

DELTA = 1e-3  # of Huber's loss on log residuals (Hoffmann et al. 2022, section 3.3)

_CHUNK = 32  # fits of one dispatch
_ROUND = 10  # iterations between two looks at which fits have ended
_ROUNDS = 60
# δ/|r| makes the weighted squares a bound of Huber's loss, whose own curvature there is 0: less of it is a better step, and one
# that does not descend is refused.
_OUTER = 0.4
_SETTLED = 1e-10  # relative decrease of an accepted step below which a fit has ended
_STUCK = 1e10  # damping at which no step descends


class Minima(NamedTuple):
    """What every start led to: parameters (starts, params) and Σ w·Huber (starts,), float64."""

    theta: Float[np.ndarray, "starts params"]
    objective: Float[np.ndarray, "starts"]


class _State(NamedTuple):
    theta: Array
    damping: Array
    objective: Array
    gradient: Array
    hessian: Array
    done: Array


def minimise(
    curve: Curve,
    starts: Float[np.ndarray, "starts params"],
    x: Float[np.ndarray, "inputs points"],
    y: Float[np.ndarray, "*starts points"],
    weights: Float[np.ndarray, "*starts points"] | float = 1.0,
    delta: float = DELTA,
) -> Minima:
    """Follows every start to its minimum.

    Args:
      curve: the prediction of y, a pure JAX function; one object for one law, for it is compiled once.
      y, weights: of every start, or (points,) for all alike.
      delta: where Huber's loss turns from squares to absolute values; infinity for least squares.
    """
    count, params = starts.shape
    y = np.broadcast_to(y, (count, x.shape[-1]))
    weights = np.broadcast_to(np.asarray(weights, np.float64), y.shape)
    shapes = (params,), (), (), (params,), (params, params)
    state = _State(*(np.empty((count, *rest)) for rest in shapes), np.empty(count, bool))

    def run(fn: Callable, inputs: tuple[np.ndarray, ...], active: np.ndarray) -> None:
        """`fn` on the rows that are active, in chunks that the cores share."""

        def chunk(rows: np.ndarray) -> None:
            fill = np.resize(rows, _CHUNK)  # a whole chunk, so that it is compiled once
            with jax.enable_x64(True):  # of this thread
                found = fn(curve, *(part[fill] for part in inputs), x=x, y=y[fill], weights=weights[fill], delta=delta)
            for whole, part in zip(state, found):
                whole[rows] = np.asarray(part)[: len(rows)]

        list(pool.map(chunk, (active[i : i + _CHUNK] for i in range(0, len(active), _CHUNK))))

    with ThreadPoolExecutor(_cores()) as pool:
        active = np.arange(count)
        run(_begin, (starts,), active)
        for _ in range(_ROUNDS):
            run(_advance, state, active)
            active = active[~state.done[active]]
            if not len(active):
                break
    return Minima(state.theta, state.objective)


def huber(residual: Float[Array, "points"], delta: float) -> Float[Array, "points"]:
    """r²/2 up to `delta`, δ(|r| − δ/2) beyond."""
    size = jnp.abs(residual)
    inner = jnp.minimum(size, delta)
    return inner * (size - 0.5 * inner)


def jacobian(curve: Curve, theta: Float[np.ndarray, "params"], x: Float[np.ndarray, "inputs points"]
             ) -> Float[np.ndarray, "points params"]:
    """∂prediction/∂parameter at every point."""
    with jax.enable_x64(True):
        return np.asarray(jax.jacfwd(curve)(jnp.asarray(theta), jnp.asarray(x)))


def evaluate(curve: Curve, theta: Float[np.ndarray, "*batch params"], x: Float[np.ndarray, "inputs points"]
             ) -> Float[np.ndarray, "*batch points"]:
    """Predictions in float64."""
    with jax.enable_x64(True):
        flat = jax.vmap(curve, (0, None))(jnp.asarray(theta).reshape(-1, np.shape(theta)[-1]), jnp.asarray(x))
        return np.asarray(flat).reshape(*np.shape(theta)[:-1], -1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@partial(jax.jit, static_argnums=0)
def _begin(curve: Curve, theta: Array, *, x: Array, y: Array, weights: Array, delta: Array) -> _State:
    objective, gradient, hessian = jax.vmap(partial(_measure, curve, delta), (0, None, 0, 0))(theta, x, y, weights)
    return _State(theta, jnp.full(len(theta), 1e-2), objective, gradient, hessian, jnp.zeros(len(theta), bool))


@partial(jax.jit, static_argnums=0)
def _advance(curve: Curve, *state: Array, x: Array, y: Array, weights: Array, delta: Array) -> _State:
    step = jax.vmap(partial(_step, curve, delta), (0, None, 0, 0))
    going = lambda carry: (carry[0] < _ROUND) & ~jnp.all(carry[1].done)
    return jax.lax.while_loop(going, lambda carry: (carry[0] + 1, step(carry[1], x, y, weights)), (0, _State(*state)))[1]


def _measure(curve: Curve, delta: Array, theta: Array, x: Array, y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Objective, gradient, and the curvature of the weighted squares that stand for it."""
    prediction, push = jax.linearize(lambda theta: curve(theta, x), theta)
    slopes = jax.vmap(push)(jnp.eye(len(theta)))  # (params, points)
    residual = prediction - y
    size = jnp.abs(residual)
    curvature = weights * jnp.where(size <= delta, 1.0, _OUTER * delta / jnp.maximum(size, delta))
    gradient = slopes @ (weights * jnp.clip(residual, -delta, delta))
    return jnp.sum(weights * huber(residual, delta)), gradient, (slopes * curvature) @ slopes.T


def _step(curve: Curve, delta: Array, s: _State, x: Array, y: Array, weights: Array) -> _State:
    scale = jnp.diag(s.hessian)
    damped = s.hessian + s.damping * jnp.diag(scale + 1e-12 * jnp.max(scale) + 1e-30)
    theta = s.theta - jnp.linalg.solve(damped, s.gradient)
    objective, gradient, hessian = _measure(curve, delta, theta, x, y, weights)
    better = objective < s.objective  # False for NaN
    done = s.done | (better & (s.objective - objective <= _SETTLED * s.objective)) | (s.damping > _STUCK)
    take = better & ~s.done
    pick = lambda new, old: jnp.where(take, new, old)
    damping = jnp.where(better, jnp.maximum(0.2 * s.damping, 1e-12), 5 * s.damping)
    return _State(pick(theta, s.theta), damping, pick(objective, s.objective), pick(gradient, s.gradient),
                  pick(hessian, s.hessian), done)
