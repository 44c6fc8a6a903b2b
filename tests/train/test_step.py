"""One step, on a task small enough to do by hand."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from small_models import quick_jit

from mof_jax.nn.module import Skeleton, param
from mof_jax.task import Loss, Task
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.schedule import ScheduleConfig
from mof_jax.train.state import init_fn
from mof_jax.train.step import make_step

DECAY = 0.15  # above the warm-up (1 + t)/(10 + t) for the first step only


class Line(nnx.Module):
    def __init__(self, rngs):
        self.slope = param(rngs, nnx.initializers.constant(2.0), (3,), (None,))
        self.offset = param(rngs, nnx.initializers.constant(-1.0), (), ())


class Regression(Task):
    """Squared error, plus a random number as a metric to watch the step's key."""

    def build(self, rngs):
        return Line(rngs)

    def loss(self, model, batch, key):
        error = batch["x"] @ model.slope[...] + model.offset[...] - batch["y"]
        rows = jnp.float32(error.shape[0])
        return Loss((error**2).sum(), rows, {"noise": jax.random.uniform(key) * rows})

    def flops(self, batch_size, trained):
        return {}


@functools.cache
def setup(seed=0):
    """(initial state, jitted step) with plain gradient descent and a frozen offset."""
    task = Regression()
    skeleton = Skeleton.of(task.build)
    config = OptimizerConfig("sgd", lr=0.1, b1=0.0, weight_decay=0.0, grad_clip=None, ema=DECAY,
                             schedule=ScheduleConfig("constant"), freeze=(("offset", True),))
    decisions = decide(config, skeleton)
    tx = make_optimizer(config, 10, decisions, skeleton.matrices)
    state = init_fn(task.build, {path: d.trained for path, d in decisions.items()}, tx, True)(jax.random.key(0))
    return state, quick_jit(make_step(task, skeleton, tx, seed, DECAY))


def rows(seed):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((4, 3)).astype(np.float32), "y": rng.standard_normal(4).astype(np.float32)}


def test_steps_by_hand():
    """Gradient descent, the mean loss, the norms and the moving average with its warm-up."""
    state, step = setup()
    slope = average = np.full(3, 2.0)
    for t in range(4):
        batch = rows(t)
        error = batch["x"] @ slope - 1.0 - batch["y"]
        gradient = 2 * batch["x"].T @ error / 4
        slope = slope - 0.1 * gradient
        d = min(DECAY, (1 + t) / (10 + t))
        average = d * average + (1 - d) * slope
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
        np.testing.assert_allclose(metrics["update_norm"], 0.1 * np.linalg.norm(gradient), rtol=1e-5)
        np.testing.assert_allclose(state.params["slope"], slope, rtol=1e-5)
        np.testing.assert_allclose(state.ema["slope"], average, rtol=1e-5)
    assert int(state.step) == 4 and int(state.bad_step) == -1
    assert state.frozen == {"offset": -1.0} and set(state.params) == set(state.ema) == {"slope"}
    np.testing.assert_array_equal(state.model_params(ema=True)["slope"], state.ema["slope"])
    np.testing.assert_array_equal(state.model_params()["slope"], state.params["slope"])
    assert state.model_params()["offset"] == -1.0


def test_from_a_bad_loss_on_the_state_stands_still():
    state, step = setup()
    state, _ = step(state, rows(0))
    bad = rows(1)
    bad["y"][2] = np.inf
    frozen, metrics = step(state, bad)
    assert int(metrics["bad_step"]) == 1 and not np.isfinite(metrics["loss"])
    for batch in (rows(2), bad, rows(3)):  # good batches do not thaw it, bad ones do not move the record
        frozen, metrics = step(frozen, batch)
        assert int(metrics["bad_step"]) == int(frozen.bad_step) == 1
    for name in ("step", "params", "opt", "ema", "frozen"):
        for a, b in zip(jax.tree.leaves(getattr(frozen, name)), jax.tree.leaves(getattr(state, name)), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_gradient_that_is_not_finite_counts_as_bad():
    """A loss of order 1e37 is finite, the square of its gradient is not."""
    state, step = setup()
    batch = {"x": np.full((4, 3), 1e19, np.float32), "y": np.full(4, 5.5e19, np.float32)}  # 3 · 2e19 - y is 5e18
    stopped, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert int(stopped.bad_step) == 0
    np.testing.assert_array_equal(stopped.params["slope"], state.params["slope"])


def test_randomness_belongs_to_seed_and_step():
    def noise(seed):
        state, step = setup(seed)
        seen = []
        for t in range(3):
            state, metrics = step(state, rows(t))
            seen.append(float(metrics["noise"]))
        return seen

    assert noise(0) == noise(0) and len(set(noise(0) + noise(1))) == 6
    state, step = setup()
    again = step(step(state, rows(0))[0], rows(0))[1]["noise"]
    assert float(again) == noise(0)[1], "the key follows the step's number, not the data"


class Noisy(Regression):
    """Rows of unequal weight with noise keyed per row, in micro-batches; and an offset that follows the slope."""

    def __init__(self, accumulate):
        self.accumulate = accumulate

    def keyed(self, batch, key):
        return {**batch, "keys": jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch["x"].shape[0]))}

    def loss(self, model, batch, key):
        batch = batch if key is None else self.keyed(batch, key)
        noise = jax.vmap(lambda k: jax.random.normal(k))(batch["keys"])
        error = batch["x"] @ model.slope[...] + noise - batch["y"]
        weight = jnp.abs(batch["y"])
        return Loss((weight * error**2).sum(), weight.sum(), {"noise": noise.sum()})

    def advance(self, step, params, frozen):
        return {"offset": frozen["offset"] * 0.5 + params["slope"].sum() * (step + 1)}


def noisy_step(accumulate):
    task = Noisy(accumulate)
    skeleton = Skeleton.of(task.build)
    config = OptimizerConfig("sgd", lr=0.1, weight_decay=0.0, grad_clip=None, freeze=(("offset", True),))
    tx = make_optimizer(config, 10, decide(config, skeleton), skeleton.matrices)
    state = init_fn(task.build, {"slope": True, "offset": False}, tx, False)(jax.random.key(0))
    batch = {name: np.concatenate([rows(i)[name] for i in range(4)]) for name in ("x", "y")}
    return quick_jit(make_step(task, skeleton, tx, 0, shards=2))(state, batch)


def test_micro_batches_add_up_to_the_whole_batch():
    """Weights differ between micro-batches, so a mean of means would be off; noise follows the row, not the split."""
    (whole, expected), (parts, got) = noisy_step(1), noisy_step(4)
    for name in ("loss", "grad_norm", "noise"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
    np.testing.assert_allclose(parts.params["slope"], whole.params["slope"], rtol=1e-6)


def test_a_task_moves_what_no_gradient_trains():
    state, _ = noisy_step(1)
    np.testing.assert_allclose(state.frozen["offset"], -0.5 + np.asarray(state.params["slope"]).sum(), rtol=1e-6)
