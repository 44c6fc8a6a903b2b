"""One training step: loss, gradient, update, average; a pure function of (state, batch)."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import optax

from mof_jax.mesh import part_of_rows
from mof_jax.nn.module import Params, Skeleton
from mof_jax.task import Batch, Loss, Task
from mof_jax.train.state import TrainState

Metrics = dict[str, Float[Array, ""]]


def make_step(
    task: Task, skeleton: Skeleton, tx: optax.GradientTransformation, seed: int, ema_decay: float | None = None, shards: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step of `task`, for batches whose rows lie on `shards` devices. All randomness is keyed by (seed, step).

    Where something is not finite, a state that counts `skipped` updates drops this one; any other stands still from there on.
    """

    def loss_fn(params: Params, state: TrainState, batch: Batch, key: Array | None) -> tuple[Array, Loss]:
        loss = task.loss(skeleton.merge({**state.frozen, **params}), batch, key)
        return loss.sum, loss

    def loss_and_grads(state: TrainState, batch: Batch, key: Array) -> tuple[Loss, Params]:
        gradient = jax.grad(loss_fn, has_aux=True)
        if task.accumulate == 1:
            grads, loss = gradient(state.params, state, batch, key)
        else:
            whole = dict(task.keyed(batch, key))
            part = lambda i: jax.tree.map(lambda x: part_of_rows(x, i, task.accumulate, shards), whole)
            one = lambda i: gradient(state.params, state, part(i), None)
            # From zeros and not from the first part: outside of the loop, its activations would lie beside the loop's.
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
            add = lambda total, i: (jax.tree.map(jnp.add, total, one(i)), None)
            (grads, loss), _ = jax.lax.scan(add, zeros, jnp.arange(task.accumulate))
        return loss, {path: g / loss.weight for path, g in grads.items()}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.step)
        loss, grads = loss_and_grads(state, batch, key)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        frozen = task.advance(state.step, params, state.frozen)
        new = TrainState(state.step + 1, params, frozen, opt, average(state, params, ema_decay), state.bad_step,
                         batch.get("cursor"), state.skipped)
        metrics = {"loss": loss.sum / loss.weight, "grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
        # The update's norm, too: an infinite step of the temperature gives a finite loss ever after.
        finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        new = _stand_still_if_bad(state, new, finite) if state.skipped is None else _skip_if_bad(state, new, finite)
        metrics |= {name: x / loss.weight for name, x in loss.metrics.items()}
        metrics |= {} if new.skipped is None else {"skipped_updates": new.skipped}
        return new, {**metrics, "bad_step": new.bad_step}

    return step


def average(state: TrainState, params: Params, decay: float | None) -> Params | None:
    """Exponential moving average with a warm-up, min(decay, (1 + t)/(10 + t)), so that early steps do not linger."""
    if decay is None:
        return None
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    return {path: d * state.ema[path] + (1 - d) * x for path, x in params.items()}


def _stand_still_if_bad(old: TrainState, new: TrainState, finite: Array) -> TrainState:
    """Keeps the last good state from the first non-finite step on; the host reads `bad_step` when it logs."""
    bad = jnp.where((old.bad_step < 0) & ~finite, old.step, old.bad_step)
    return dataclasses.replace(_choose(bad < 0, new, old), bad_step=bad)


def _skip_if_bad(old: TrainState, new: TrainState, finite: Array) -> TrainState:
    """Drops the update of a non-finite step and counts it; the data moves on."""
    kept = _choose(finite, new, old)
    return dataclasses.replace(kept, step=new.step, cursor=new.cursor, skipped=old.skipped + ~finite)


def _choose(condition: Array, new: TrainState, old: TrainState) -> TrainState:
    # What did not move is the same array on both sides; selecting it would copy a frozen tower for nothing.
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), new, old)
