"""One training step: loss, gradient, update, average; a pure function of (state, batch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
import optax

from mof_jax.nn.module import Params, Skeleton
from mof_jax.objectives.loss import Context, Loss
from mof_jax.task import Batch, Task, evaluate, taught
from mof_jax.train.state import TrainState

Metrics = dict[str, Float[Array, ""]]
Losses = Mapping[str, Loss]


def make_step(
    task: Task, skeleton: Skeleton, tx: optax.GradientTransformation, seed: int, *, steps: int = 1,
    ema_decay: float | None = None, microbatches: int = 1, mesh: Mesh | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step of `task`. All randomness is keyed by (seed, step).

    Where something is not finite, a state that counts `skipped` updates drops this one; any other stands still from there on.

    Args:
      steps: of the whole run, for whatever follows a schedule.
      microbatches: parts in which rows go through the model. Where terms need all rows at once, the model is recomputed in the
        backward pass and they see them; else each part has its gradient.
      mesh: that the rows of a batch are spread over.
    """

    def losses_and_grads(state: TrainState, batch: Batch, key: Array) -> tuple[Losses, Params, Params, Balance]:
        context = Context(state.step, steps, mesh, microbatches, key, task.keys(batch, key))
        every = {**state.frozen, **state.params}
        whole = taught(task, skeleton.merge(every), batch, context)
        balance = Balance.of(task, task.weights(whole, context), state.step)

        def total(params: Params, batch: Batch, context: Context) -> tuple[Array, tuple[Losses, Params]]:
            model = skeleton.merge({**state.frozen, **params})
            losses, moved = evaluate(task, model, batch, context, balance.present)
            return balance.total(losses), (losses, moved)

        gradient = jax.grad(total, has_aux=True)
        if microbatches == 1 or task.couples_rows:
            grads, (losses, moved) = gradient(state.params, whole, context)
        else:
            def part(i: Int[Array, ""]) -> tuple[Params, Losses]:
                keys = context.part(context.keys, i)
                own = dataclasses.replace(context, microbatches=1, keys=keys)
                grads, (losses, moved) = gradient(state.params, context.part(whole, i), own)
                if moved:
                    raise ValueError(f"{next(iter(moved))} moves, and no term of this loss couples rows")
                return grads, losses

            # From zeros and not from the first part: outside of the loop, its activations would lie beside the loop's.
            zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.result_type(x)), jax.eval_shape(part, 0))
            add = lambda total, i: (jax.tree.map(jnp.add, total, part(i)), None)
            (grads, losses), _ = jax.lax.scan(add, zeros, jnp.arange(microbatches))
            moved = {}
        return losses, {path: g / balance.whole for path, g in grads.items()}, moved, balance

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.step)
        losses, grads, moved, balance = losses_and_grads(state, batch, key)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        frozen = _moved(skeleton, state.frozen, moved)
        if task.teacher is not None:
            frozen |= task.teacher.follow(state.step, params, frozen)
        new = TrainState(state.step + 1, params, frozen, opt, average(state, params, ema_decay), state.bad_step,
                         batch.get("cursor"), state.skipped)
        metrics = {"loss": balance.total(losses) / balance.whole, "grad_norm": optax.tree.norm(grads),
                   "update_norm": optax.tree.norm(updates)}
        # The update's norm, too: an infinite step of the temperature gives a finite loss ever after.
        finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        new = _stand_still_if_bad(state, new, finite) if state.skipped is None else _skip_if_bad(state, new, finite)
        metrics |= balance.figures(losses)
        metrics |= {name: mean.sum / mean.weight for name, mean in task.figures(batch).items()}
        metrics |= {} if new.skipped is None else {"skipped_updates": new.skipped}
        return new, {**metrics, "bad_step": new.bad_step}

    return step


class Balance(NamedTuple):
    """How the terms of a loss add up: Σ_k weight_k · sum_k / count_k, as one sum over `whole`.

    What is differentiated is Σ_k c_k · sum_k with c_k = weight_k · whole / count_k, and gradients are divided by `whole`, the
    count of the first term, at last: one term of weight 1 is its plain sum. A term with nothing to count adds nothing.

    Attributes:
      counts: of each term, from the whole batch.
      coefficients: c_k; None for exactly 1.
      present: of the terms whose count is known only by the data, beside others, whether there is any.
    """

    whole: Float[Array, ""] | float
    counts: Mapping[str, Any]
    coefficients: Mapping[str, Any]
    present: Mapping[str, Bool[Array, ""]]

    @classmethod
    def of(cls, task: Task, counts: Mapping[str, Any], step: Int[Array, ""]) -> Balance:
        """Of a task whose terms count so much in a batch."""
        names = sorted(counts)
        safe = {name: count if isinstance(count, float) and count else jnp.where(count == 0, 1.0, count)
                for name, count in counts.items()}
        whole = safe[names[0]]
        weights = {name: term.weight if isinstance(term.weight, float) else term.weight.at(step)
                   for name, term in task.terms.items()}
        if len(names) == 1 and isinstance(weights[names[0]], float) and weights[names[0]] == 1.0:
            return cls(whole, counts, {names[0]: None}, {})
        found = {name: weights[name] * whole / safe[name] for name in names}
        present = {name: count > 0 for name, count in counts.items() if not isinstance(count, float) and len(names) > 1}
        return cls(whole, counts, found | {name: jnp.where(on, found[name], 0.0) for name, on in present.items()}, present)

    def total(self, losses: Losses) -> Float[Array, ""]:
        """Σ_k c_k · sum_k, in the order of the names."""
        parts = [losses[name].sum if c is None else c * losses[name].sum for name, c in sorted(self.coefficients.items())]
        return sum(parts[1:], parts[0])

    def figures(self, losses: Losses) -> Metrics:
        """What the log shows: each term by itself, and its figures, under the term's name where there are several."""
        found = {}
        for name, loss in losses.items():
            found[f"loss/{name}"] = _ratio(loss.sum, self.counts[name])
            prefix = f"{name}/" if len(losses) > 1 else ""
            found |= {f"{prefix}{key}": _ratio(*mean) for key, mean in loss.metrics.items()}
            if not isinstance(self.counts[name], float):
                found[f"empty/{name}"] = jnp.float32(self.counts[name] == 0)
        return found


def _ratio(total: Array, count: Array | float) -> Float[Array, ""]:
    """A figure for the log; that of a term with nothing to count is 0, not a division by 0."""
    if isinstance(count, float) and count:
        return total / count
    return jnp.where(count == 0, 0.0, total / jnp.where(count == 0, 1.0, count))


def _moved(skeleton: Skeleton, frozen: Params, moved: Params) -> Params:
    """`frozen` with the new values of moving variables in it.

    Raises:
      ValueError: a path that does not move, or a value of another shape or dtype than the variable's.
    """
    for path, x in moved.items():
        if path not in skeleton.moving:
            raise ValueError(f"the loss moves {path}, which is no moving variable of this model")
        if (x.shape, x.dtype) != (frozen[path].shape, frozen[path].dtype):
            raise ValueError(f"{path} is {frozen[path].dtype}{frozen[path].shape}, and was to become {x.dtype}{x.shape}")
    return {**frozen, **jax.lax.stop_gradient(moved)}


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
