"""The optimizer: a gradient transformation by name, and rules for everything that is decided per parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from mof_jax.errors import UserError, lookup
from mof_jax.nn.module import Matrix, Params, Skeleton
from mof_jax.parsing import is_number, show
from mof_jax.ranges import NotNegative, PartOf, Positive
from mof_jax.rules import Rule, resolve, user_rules
from mof_jax.train.schedule import ScheduleConfig, make_schedule

EVERYTHING = ".*"
_UNSAID = object()  # by no rule of the config


def _is_factor(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_interval(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))
    return value is None or (pair and value[0] <= value[1])


# What a rule of each list may give.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "freeze": (lambda value: isinstance(value, bool), "True or False"),
    "lr_factors": (lambda value: _is_factor(value) or (isinstance(value, (list, tuple)) and all(map(_is_factor, value))),
                   "a factor of at least 0, or a list of them"),
    "decay": (_is_factor, "a factor of at least 0"),
    "bounds": (_is_interval, "(low, high) or None"),
}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move.

    Attributes:
      name: one of `OPTIMIZERS`.
      lr: peak learning rate. weight_decay: decoupled, multiplied by the learning rate (AdamW).
      b1, b2, eps: of Adam and of those built on it.
      grad_clip: bound of the global gradient norm, None for none.
      ema: decay of the exponential moving average of the trained parameters, None for none.
      freeze: rules `(regex, True | False)`; a frozen parameter has no gradient and no optimizer state.
      lr_factors: rules `(regex, factor)`; a list gives one factor a layer of a scanned stack.
      decay: rules `(regex, factor)` on `weight_decay`; biases, norms and embeddings of position default to 0.
      bounds: rules `(regex, (low, high) | None)`: the parameter is clipped to the interval after each update.
      options: further keyword arguments of the transformation.
    """

    name: str = "adamw"
    lr: NotNegative = 1e-3
    weight_decay: NotNegative = 1e-4
    b1: PartOf = 0.9
    b2: PartOf = 0.98
    eps: NotNegative = 1e-8
    grad_clip: Positive | None = 1.0
    ema: PartOf | None = None
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    freeze: tuple[Any, ...] = ()
    lr_factors: tuple[Any, ...] = ()
    decay: tuple[Any, ...] = ()
    bounds: tuple[Any, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, (right, wanted) in _VALUES.items():
            for i, rule in enumerate(getattr(self, name)):
                if isinstance(rule, (list, tuple)) and len(rule) == 2 and not right(rule[1]):  # other forms: `user_rules`
                    raise ValueError(f"{name}.{i}: {show(rule[1])} is not {wanted}")


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the rules say of one parameter."""

    trained: bool
    lr_factor: Any
    decay: float
    bounds: tuple[float, float] | None


def decide(config: OptimizerConfig, skeleton: Skeleton) -> dict[str, Decision]:
    """Resolves the config's rules, then what the parameters themselves say, on every path. What moves is never trained.

    Raises:
      UserError: a rule that matches nothing, or would train what only moves.
    """
    tables = {}
    for name in ("freeze", "lr_factors", "decay", "bounds"):
        where = f"config.optimizer.{name}"
        rules = [*user_rules(getattr(config, name), where), Rule(EVERYTHING, _UNSAID, optional=True)]
        tables[name] = resolve(rules, skeleton.shapes, where)
    for regex, value in config.freeze:
        touched = [path for path in skeleton.shapes if re.fullmatch(regex, path)]
        if value is False and skeleton.moving.issuperset(touched):
            raise UserError(f"config.optimizer.freeze: {regex!r} would train {touched[0]}, which moves without a gradient")
    said = lambda name, path, default: default if tables[name][path] is _UNSAID else tables[name][path]
    decisions = {}
    for path, shape in skeleton.shapes.items():
        factor = said("lr_factors", path, 1.0)
        if isinstance(factor, (list, tuple)) and shape.shape[:1] != (len(factor),):
            raise UserError(
                f"config.optimizer.lr_factors: {path} has shape {shape.shape}, {len(factor)} factors were given "
                "(one a layer of a scanned stack)")
        decisions[path] = Decision(
            not said("freeze", path, False) and path not in skeleton.moving, factor,
            said("decay", path, 0.0 if path in skeleton.undecayed else 1.0), said("bounds", path, skeleton.bounds.get(path)))
    if not any(d.trained for d in decisions.values()):
        raise UserError("config.optimizer.freeze: every parameter is frozen")
    return decisions


def make_optimizer(
    config: OptimizerConfig, steps: int, decisions: Mapping[str, Decision], matrices: Mapping[str, Matrix]
) -> optax.GradientTransformation:
    """The chain: clip the gradient, transform, decay, scale by factor and schedule, keep inside the bounds."""
    trained = {path: d for path, d in decisions.items() if d.trained}
    try:
        schedule = make_schedule(config.schedule, steps)
    except ValueError as error:
        raise UserError(f"config.optimizer.schedule: {error}") from None
    transform = lookup(OPTIMIZERS, config.name, "optimizer")
    try:
        core = transform(config, {path: matrices[path] for path in trained if path in matrices})
    except TypeError as error:
        raise UserError(f"config.optimizer.options: {config.name}: {error}") from None
    factors = {path: np.asarray(d.lr_factor, np.float32) for path, d in trained.items()}
    decay = {path: config.weight_decay * d.decay for path, d in trained.items()}
    chain = [] if config.grad_clip is None else [optax.clip_by_global_norm(config.grad_clip)]
    chain += [core, _add_decay(decay), _scale_by_factor(factors), optax.scale_by_schedule(schedule), optax.scale(-config.lr)]
    chain += [_bound({path: d.bounds for path, d in trained.items() if d.bounds is not None})]
    return optax.chain(*chain)


def _add_decay(decay: Mapping[str, float]) -> optax.GradientTransformation:
    """u + λ·p with a λ a parameter."""
    return optax.stateless(lambda updates, params: {
        path: u + decay[path] * params[path] if decay[path] else u for path, u in updates.items()})


def _scale_by_factor(factors: Mapping[str, np.ndarray]) -> optax.GradientTransformation:
    """u · factor, with a vector of factors along the leading (layer) dimension."""
    column = lambda factor, u: factor.reshape(factor.shape + (1,) * (u.ndim - factor.ndim))
    return optax.stateless(lambda updates, params: {
        path: u if (factors[path] == 1.0).all() else u * column(factors[path], u) for path, u in updates.items()})


def _bound(bounds: Mapping[str, tuple[float, float]]) -> optax.GradientTransformation:
    """Shortens an update so that p + u stays inside [low, high]: a projection, so the gradient is never blocked."""
    return optax.stateless(lambda updates, params: {
        path: jnp.clip(params[path] + u, *bounds[path]) - params[path] if path in bounds else u
        for path, u in updates.items()})


# --- transformations by name: (config, matrices among the trained parameters) -> transformation of a flat dict -----------


def _adam(config: OptimizerConfig, matrices: Mapping[str, Matrix]) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2, config.eps, **config.options)


def _muon(config: OptimizerConfig, matrices: Mapping[str, Matrix]) -> optax.GradientTransformation:
    """Muon on the linear maps, each layer of a stack on its own; Adam on the rest.

    Updates are scaled by 0.2·√max(inputs, outputs), which gives them Adam's usual RMS (arXiv 2502.16982, eq. 4), so that
    one learning rate and weight decay serve both halves. optax takes every array that is not 2-D for "the rest" unless it
    is told the dimensions, which would quietly train a scanned transformer with Adam.
    """
    options = {"rms": 0.2, "embeddings": False} | config.options
    rms = options.pop("rms")
    if not options.pop("embeddings"):
        # The first and the last layer see data and embeddings, not hidden states: Muon's authors leave them to Adam.
        matrices = {path: m for path, m in matrices.items() if "blocks" in path.split("/")}

    def muon(params: Params) -> optax.GradientTransformation:
        dims = {path: contrib.MuonDimensionNumbers(*(tuple(params[path].ndim + d for d in side) for side in matrices[path]))
                for path in params}
        size = lambda path, side: np.prod([params[path].shape[d] for d in side])
        factors = {path: np.float32(rms * np.sqrt(max(size(path, m.inputs), size(path, m.outputs))))
                   for path, m in matrices.items()}
        return optax.chain(contrib.scale_by_muon(weight_dimension_numbers=dims, **options), _scale_by_factor(factors))

    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return _split(lambda path: path in matrices, muon, lambda params: adam)


def _split(
    first: Callable[[str], bool],
    on_first: Callable[[Params], optax.GradientTransformation],
    on_rest: Callable[[Params], optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Two transformations on the two halves of a flat dict; each half is built knowing its own parameters."""
    pick = lambda tree, want: {path: x for path, x in tree.items() if first(path) == want}
    makers = ((True, on_first), (False, on_rest))

    def init(params: Params) -> tuple[Any, Any]:
        return tuple(make(pick(params, want)).init(pick(params, want)) for want, make in makers)

    def update(updates: Params, state: tuple[Any, Any], params: Params) -> tuple[Params, tuple[Any, Any]]:
        results = [make(pick(params, want)).update(pick(updates, want), s, pick(params, want))
                   for (want, make), s in zip(makers, state)]
        merged = results[0][0] | results[1][0]
        return {path: merged[path] for path in updates}, tuple(s for _, s in results)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig, Mapping[str, Matrix]], optax.GradientTransformation]] = {
    "adamw": _adam,
    "muon": _muon,
    "lion": lambda c, m: optax.scale_by_lion(c.b1, c.b2, **c.options),
    "adafactor": lambda c, m: optax.scale_by_factored_rms(**c.options),
    "lamb": lambda c, m: optax.chain(optax.scale_by_adam(c.b1, c.b2, c.eps), optax.scale_by_trust_ratio(**c.options)),
    "ademamix": lambda c, m: contrib.scale_by_ademamix(c.b1, c.b2, **{"b3": 0.9999, "alpha": 5.0, **c.options}),
    "novograd": lambda c, m: optax.scale_by_novograd(c.b1, c.b2, c.eps, **c.options),
    "sgd": lambda c, m: optax.trace(c.b1, **c.options),
}
