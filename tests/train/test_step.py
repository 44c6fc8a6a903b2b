"""One step, on a task small enough to do by hand."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit

from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh
from mof_jax.models.teacher import Teacher, follower
from mof_jax.nn.module import Skeleton, moving, param
from mof_jax.objectives.loss import Context, Loss, Mean
from mof_jax.objectives.objective import Objective, Ramp
from mof_jax.task import Task, _united, evaluate, taught
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.schedule import ScheduleConfig
from mof_jax.train.state import init_fn
from mof_jax.train.step import make_step

DECAY = 0.15  # above the warm-up (1 + t)/(10 + t) for the first step only


class Line(nnx.Module):
    def __init__(self, rngs):
        self.slope = param(rngs, nnx.initializers.constant(2.0), (3,), (None,))
        self.offset = param(rngs, nnx.initializers.constant(-1.0), (), ())


@dataclasses.dataclass(frozen=True)
class Squares(Objective):
    """Squared error, plus a random number as a metric to watch the step's key."""

    kind = "squares"
    reads = ("error",)

    def count(self, batch, context):
        return float(batch["y"].shape[0])

    def loss(self, own, features, context):
        error = features["error"]
        return Loss((error**2).sum(), float(error.shape[0]), {"noise": Mean(jax.random.uniform(context.key))})


class Regression(Task):
    terms = {"squares": Squares()}
    dims = {"error": 0, "scale": 0}

    def make(self, rngs):
        return Line(rngs)

    def forward(self, model, batch, wanted, context):
        return {"error": batch["x"] @ model.slope[...] + model.offset[...] - batch["y"]}, {}

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
    return state, quick_jit(make_step(task, skeleton, tx, seed, ema_decay=DECAY))


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


@dataclasses.dataclass(frozen=True)
class WeightedSquares(Objective):
    """Rows of unequal weight with noise keyed per row."""

    kind = "weighted"
    couples_rows = False
    reads = ("error", "noise", "y")

    def count(self, batch, context):
        return jnp.abs(batch["y"]).sum()

    def loss(self, own, features, context):
        weight, noise = jnp.abs(features["y"]), features["noise"]
        return Loss((weight * (features["error"] + noise) ** 2).sum(), weight.sum(), {"noise": Mean(noise.sum(), weight.sum())})


@dataclasses.dataclass(frozen=True)
class Spread(Objective):
    """A loss that needs all rows: the variance of the errors; it keeps their mean, and owns a scale."""

    kind = "spread"
    reads = ("error",)
    keeps: bool = False

    def build(self, rngs, dims):
        assert dims["error"] == 0
        return Scale(rngs)

    def count(self, batch, context):
        return 1.0

    def loss(self, own, features, context):
        error = features["error"]
        moved = {"mean": error.mean()} if self.keeps else {}
        return Loss(own.scale[...] * error.var(), 1.0, {"mean": Mean(own.mean[...])}, moved)


class Scale(nnx.Module):
    def __init__(self, rngs):
        self.scale = param(rngs, nnx.initializers.constant(0.5), (), ())
        self.mean = moving(jnp.float32(7.0), ())


class Noisy(Regression):
    """Any terms over the line's errors, with a teacher that follows the slope."""

    def __init__(self, **terms):
        self.terms, self.teacher = terms, Teacher("teacher/", "student/", 0.75, 10)

    def make(self, rngs):
        model = nnx.Module()
        model.student = Line(rngs)
        model.teacher = follower(model.student)
        return model

    def forward(self, model, batch, wanted, context):
        features, sums = super().forward(model.student, batch, wanted, context)
        noise = jnp.zeros(len(batch["y"])) if context.keys is None else jax.vmap(jax.random.normal)(context.keys)
        return {**features, "noise": noise}, sums


def noisy_step(microbatches, steps=1, change=lambda batch: batch, **terms):
    """State and metrics after some steps of plain descent."""
    task = Noisy(**(terms or {"weighted": WeightedSquares()}))
    skeleton = Skeleton.of(task.build)
    config = OptimizerConfig("sgd", lr=0.1, weight_decay=0.0, grad_clip=None, freeze=(("student/offset", True),))
    decisions = decide(config, skeleton)
    tx = make_optimizer(config, 10, decisions, skeleton.matrices)
    state = init_fn(task.build, {path: d.trained for path, d in decisions.items()}, tx, False)(jax.random.key(0))
    batch = change({name: np.concatenate([rows(i)[name] for i in range(4)]) for name in ("x", "y")})
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    step = quick_jit(make_step(task, skeleton, tx, 0, steps=10, microbatches=microbatches, mesh=mesh))
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


def test_micro_batches_add_up_to_the_whole_batch():
    """Weights differ between micro-batches, so a mean of means would be off; noise follows the row, not the split."""
    (whole, expected), (parts, got) = noisy_step(1), noisy_step(4)
    for name in ("loss", "grad_norm", "noise", "loss/weighted"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
    np.testing.assert_allclose(parts.params["student/slope"], whole.params["student/slope"], rtol=1e-6)


BOTH = {"weighted": WeightedSquares(weight=2.0), "spread": Spread()}


def test_terms_of_different_weights_add_up_however_the_rows_are_cut():
    """Each sum is divided by what its own term counts; the row-wise term is summed inside the parts, the other sees all rows."""
    (whole, expected), (parts, got) = noisy_step(1, **BOTH), noisy_step(4, **BOTH)
    for name in ("loss", "grad_norm", "loss/weighted", "loss/spread", "weighted/noise"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
    np.testing.assert_allclose(expected["loss"], 2.0 * expected["loss/weighted"] + expected["loss/spread"], rtol=1e-6)
    for path in ("student/slope", "objective/spread/scale"):
        assert abs(float(np.ravel(whole.params[path])[0]) - {"s": 2.0, "o": 0.5}[path[0]]) > 1e-3, "it is trained"
        np.testing.assert_allclose(parts.params[path], whole.params[path], rtol=1e-6)
    # The gradient of the whole is the sum of the terms' own, each with its weight.
    alone = [noisy_step(1, **{name: term}) for name, term in BOTH.items()]
    start = np.full(3, 2.0)
    weighted, spread = ((start - np.asarray(state.params["student/slope"])) for state, _ in alone)
    moved = start - np.asarray(whole.params["student/slope"])
    np.testing.assert_allclose(moved, weighted + spread, rtol=1e-5)


def test_a_term_with_nothing_to_count_adds_nothing_even_where_it_is_infinite():
    """0 times infinity is cut on both ways, to the features and to the term's own parameters."""
    def silent(batch):
        return {**batch, "y": np.zeros_like(batch["y"])}

    def infinite(batch):
        return {**silent(batch), "x": np.where(np.arange(16)[:, None] == 3, np.float32(3e38), batch["x"])}

    terms = {"quiet": WeightedSquares(weight=3.0), "spread": Spread()}
    (state, metrics), (alone, expected) = noisy_step(1, change=silent, **terms), noisy_step(1, change=silent, spread=Spread())
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(state.params["student/slope"], alone.params["student/slope"], rtol=1e-6)
    assert metrics["empty/quiet"] == 1.0 and metrics["loss/quiet"] == 0.0
    assert noisy_step(1, **terms)[1]["empty/quiet"] == 0.0 and metrics["quiet/noise"] == 0.0
    alone, metrics = noisy_step(1, change=silent)  # a loss of this term only stands still, and says so
    assert metrics["loss"] == metrics["grad_norm"] == metrics["noise"] == 0.0 and metrics["empty/weighted"] == 1.0
    assert int(alone.bad_step) == -1
    # A row that overflows gives the term with a count a loss that is not finite, and the one without none.
    values, gradient = terms_alone(infinite)
    assert values == 0.0 and np.isfinite(gradient).all() and not gradient.any()


def terms_alone(change):
    """The sum and the gradient of a term that has nothing to count, on rows whose errors overflow."""
    task = Noisy(quiet=WeightedSquares(), spread=Spread())
    skeleton = Skeleton.of(task.build)
    batch = change({name: np.concatenate([rows(i)[name] for i in range(4)]) for name in ("x", "y")})
    params = {path: jnp.full(x.shape, 2.0) for path, x in skeleton.shapes.items()}

    def loss(params):
        context = Context()
        model = skeleton.merge(params)
        whole = taught(task, model, batch, context)
        return evaluate(task, model, whole, context, {"quiet": jnp.bool_(False)})[0]["quiet"].sum

    value, gradient = jax.value_and_grad(loss)(params)
    return float(value), np.concatenate([np.ravel(g) for g in gradient.values()])


def test_the_weight_of_a_term_may_change():
    terms = {"weighted": WeightedSquares(weight=Ramp(1.0, 3.0, 2, begin=1)), "spread": Spread()}
    for steps, want in ((1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0), (6, 3.0)):
        metrics = noisy_step(1, steps, **terms)[1]
        np.testing.assert_allclose(metrics["loss"], want * metrics["loss/weighted"] + metrics["loss/spread"], rtol=1e-6)


def test_what_a_term_counts_is_what_its_loss_weighs():
    task = Noisy(**BOTH)
    skeleton, batch, context = Skeleton.of(task.build), rows(0), Context()
    model = skeleton.merge({path: jnp.ones(x.shape) for path, x in skeleton.shapes.items()})
    losses, _ = evaluate(task, model, taught(task, model, batch, context), context)
    for name, count in task.weights(batch, context).items():
        np.testing.assert_allclose(losses[name].weight, count, rtol=1e-6)


def test_what_moves_is_kept_for_the_next_step_and_not_where_a_step_is_skipped():
    state, metrics = noisy_step(1, spread=Spread(keeps=True))
    assert metrics["mean"] == 7.0 and state.frozen["objective/spread/mean"] != 7.0
    again, metrics = noisy_step(1, 2, spread=Spread(keeps=True))
    np.testing.assert_allclose(metrics["mean"], state.frozen["objective/spread/mean"])
    bad = lambda batch: {**batch, "y": np.where(np.arange(16) == 5, np.inf, batch["y"]).astype(np.float32)}
    still, metrics = noisy_step(1, change=bad, spread=Spread(keeps=True))
    assert still.frozen["objective/spread/mean"] == 7.0 and int(metrics["bad_step"]) == 0
    both, _ = noisy_step(1, spread=Spread(keeps=True), other=Spread(keeps=True))
    kept = [both.frozen[f"objective/{term}/mean"] for term in ("spread", "other")]
    assert kept[0] == kept[1] == state.frozen["objective/spread/mean"], "a term writes to what it owns, whatever it is called"
    with pytest.raises(ValueError, match="two parts of the loss move heads/near/mean"):
        _united([{"heads/near/mean": kept[0]}, {}, {"heads/near/mean": kept[0]}])


def test_a_teacher_follows_after_the_update():
    state, _ = noisy_step(1)
    for path in ("slope", "offset"):  # the offset is frozen itself, and followed all the same
        start = np.asarray({"slope": 2.0, "offset": -1.0}[path])
        student = np.asarray(state.model_params()[f"student/{path}"])
        np.testing.assert_allclose(state.frozen[f"teacher/{path}"], 0.75 * start + 0.25 * student, rtol=1e-6)
    assert float(Teacher("", "", 0.75, 10).at(jnp.float32(10))) == 1.0


def test_what_moves_is_never_trained():
    skeleton = Skeleton.of(Noisy(spread=Spread()).build)
    assert skeleton.moving == {"teacher/slope", "teacher/offset", "objective/spread/mean"}
    decisions = decide(OptimizerConfig(), skeleton)
    assert {path for path, d in decisions.items() if not d.trained} == skeleton.moving
    with pytest.raises(UserError, match="freeze: 'teacher/.*' would train teacher/.*, which moves without a gradient"):
        decide(OptimizerConfig(freeze=(("teacher/.*", False),)), skeleton)


def test_a_term_that_reads_what_is_not_there_is_named():
    task = Noisy(squares=Squares(), weighted=WeightedSquares())
    with pytest.raises(UserError, match="config.objective: weighted reads 'noise', which neither the model nor the data gives"):
        task.check({"x": None, "y": None})
