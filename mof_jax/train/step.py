"""One training step: loss, gradient, update, average; a pure function of (state, batch)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import optax

from mof_jax.nn.module import Params, Skeleton
from mof_jax.task import Batch, Loss, Task
from mof_jax.train.state import TrainState

Metrics = dict[str, Float[Array, ""]]


def make_step(
    task: Task, skeleton: Skeleton, tx: optax.GradientTransformation, seed: int, ema_decay: float | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step of `task`. All randomness is keyed by (seed, step)."""

    def loss_fn(params: Params, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Loss]:
        loss = task.loss(skeleton.merge({**state.frozen, **params}), batch, key)
        return loss.sum / loss.weight, loss

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.step)
        (mean, loss), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, state, batch, key)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, state.frozen, opt, average(state, params, ema_decay), state.bad_step)
        metrics = {"loss": mean, "grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
        # The update's norm, too: an infinite step of the temperature gives a finite loss ever after.
        new, bad = _stand_still_if_bad(state, new, jnp.isfinite(jnp.stack(list(metrics.values()))).all())
        metrics |= {name: x / loss.weight for name, x in loss.metrics.items()}
        return new, {**metrics, "bad_step": bad}

    return step


def average(state: TrainState, params: Params, decay: float | None) -> Params | None:
    """Exponential moving average with a warm-up, min(decay, (1 + t)/(10 + t)), so that early steps do not linger."""
    if decay is None:
        return None
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    return {path: d * state.ema[path] + (1 - d) * x for path, x in params.items()}


def _stand_still_if_bad(old: TrainState, new: TrainState, finite: Array) -> tuple[TrainState, Array]:
    """Keeps the last good state from the first non-finite step on; the host reads `bad_step` when it logs."""
    bad = jnp.where((old.bad_step < 0) & ~finite, old.step, old.bad_step)
    # Frozen parameters are the same on both sides; selecting them would copy a tower for nothing.
    keep = lambda o, n: jax.tree.map(lambda a, b: jnp.where(bad < 0, b, a), o, n)
    return TrainState(
        keep(old.step, new.step), keep(old.params, new.params), old.frozen, keep(old.opt, new.opt),
        keep(old.ema, new.ema), bad), bad
