"""The optimizer: decisions by rules, AdamW, Muon on stacks, bounds."""

import dataclasses
import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import quick_jit, two_tower, weights

from mof_jax.errors import UserError
from mof_jax.nn.module import Matrix, Skeleton
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask
from mof_jax.train.optim import OPTIMIZERS, Decision, OptimizerConfig, decide, make_optimizer
from mof_jax.train.schedule import ScheduleConfig

FLAT = ScheduleConfig("constant")
PLAIN = Decision(True, 1.0, 1.0, None)


@functools.cache
def model():
    """Of the small two-tower model."""
    task = ContrastiveTask(two_tower(), Softmax())
    return Skeleton.of(task.build)


def decisions(**rules):
    return decide(OptimizerConfig(**rules), model())


def moves(config, decisions, params, grads, steps=1, matrices=MappingProxyType({})):
    """What the parameters become after `steps` equal gradients."""
    tx = make_optimizer(config, 100, decisions, matrices)

    @quick_jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)[0][0]

    return run(params)


def random(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name.replace("__", "/"): jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


# --- rules ---------------------------------------------------------------------------------------------------------------


def test_defaults_spare_biases_norms_and_positions():
    got = decisions()
    for path in ("image/pos_embed", "image/cls", "text/pos_embed", "image/blocks/layers/norm1/scale", "logit_scale",
                 "image/blocks/layers/attn/qkv_bias", "text/final_norm/bias", "image/patch_embed/bias"):
        assert got[path].decay == 0.0, path
    for path in ("image/blocks/layers/attn/qkv", "text/embed", "image/project/kernel", "image/patch_embed/kernel"):
        assert got[path].decay == 1.0, path
    assert all(d.trained and d.lr_factor == 1.0 for d in got.values())


def test_the_config_speaks_before_the_defaults():
    got = decisions(decay=[("image/pos_embed", 0.5)], freeze=[("text/embed", False), ("text/.*", True)],
                    bounds=[("logit_scale", None)])
    assert got["image/pos_embed"].decay == 0.5 and got["text/pos_embed"].decay == 0.0
    assert got["text/embed"].trained and not got["text/pos_embed"].trained
    assert got["logit_scale"].bounds is None and decisions()["logit_scale"].bounds == (0.0, np.log(100.0))


@pytest.mark.parametrize("rules, message", [
    (dict(freeze=[("imag/.*", True)]), r"config.optimizer.freeze: rule 'imag/\.\*' matches no parameter"),
    (dict(freeze=[(".*", True)]), "config.optimizer.freeze: every parameter is frozen"),
    (dict(lr_factors=[("image/cls", [1.0, 0.5])]), r"lr_factors: image/cls has shape \(16,\), 2 factors"),
    (dict(lr_factors=[("image/blocks/.*", [1.0, 0.5, 0.1])]), "3 factors were given"),
    (dict(decay=["text/.*"]), "config.optimizer.decay: a rule is"),
])
def test_rules_that_cannot_be_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        decisions(**rules)


def test_unknown_names_and_options():
    for config, message in [(OptimizerConfig("adam_w"), "did you mean 'adamw'"),
                            (OptimizerConfig(options={"beta": 1}), "config.optimizer.options: adamw"),
                            (OptimizerConfig(schedule=ScheduleConfig(warmup=200)), "config.optimizer.schedule: warmup 200")]:
        with pytest.raises(UserError, match=message):
            make_optimizer(config, 100, {"w": PLAIN}, {})


# --- what the chain does -----------------------------------------------------------------------------------------------


def test_adamw_is_optax_adamw():
    params, grads = random(0, w=(4, 3), b=(3,)), random(1, w=(4, 3), b=(3,))
    config = OptimizerConfig(lr=0.1, weight_decay=0.3, b1=0.8, b2=0.9, eps=1e-6, grad_clip=0.5)
    plan = {"w": PLAIN, "b": dataclasses.replace(PLAIN, decay=0.0)}
    got = moves(config, plan, params, grads, steps=4)
    cosine = lambda t: 0.1 * 0.5 * (1 + jnp.cos(jnp.pi * t / 100))
    reference = optax.chain(optax.clip_by_global_norm(0.5),
                            optax.adamw(cosine, 0.8, 0.9, 1e-6, weight_decay=0.3, mask={"w": True, "b": False}))
    state, want = reference.init(params), params
    for _ in range(4):
        updates, state = reference.update(grads, state, want)
        want = optax.apply_updates(want, updates)
    for path in params:
        np.testing.assert_allclose(got[path], want[path], rtol=1e-5)


def test_factors_scale_updates_layer_by_layer():
    params, grads = random(0, stack=(3, 2, 2), w=(2,)), random(1, stack=(3, 2, 2), w=(2,))
    config = OptimizerConfig(lr=0.1, schedule=FLAT, grad_clip=None)
    step = lambda factor: moves(config, {"stack": dataclasses.replace(PLAIN, lr_factor=factor), "w": PLAIN}, params, grads)
    whole, scaled = step(1.0), step([0.0, 0.5, 1.0])
    for layer, factor in enumerate([0.0, 0.5, 1.0]):
        moved, full = (x["stack"][layer] - params["stack"][layer] for x in (scaled, whole))
        np.testing.assert_allclose(moved, factor * full, atol=1e-6)
    np.testing.assert_array_equal(scaled["w"], whole["w"])


def test_bounds_hold_after_each_update_and_do_not_trap():
    config = OptimizerConfig(lr=1.0, schedule=FLAT, weight_decay=0.0)
    plan = {"s": dataclasses.replace(PLAIN, bounds=(0.0, 2.0))}
    up, down = {"s": jnp.float32(-1.0)}, {"s": jnp.float32(1.0)}
    at = {"s": jnp.float32(1.5)}
    top = moves(config, plan, at, up, steps=3)
    np.testing.assert_allclose(top["s"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(moves(config, plan, at, down, steps=5)["s"], 0.0, atol=1e-6)
    np.testing.assert_allclose(moves(config, plan, top, down)["s"], 1.0, atol=1e-3)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_downhill(name):
    """On |w - 1|², from 0, with the small learning rate each can take."""
    params = {"m/blocks/w": jnp.zeros((4, 4)), "b": jnp.zeros(4)}
    config = OptimizerConfig(name, lr=0.05, schedule=FLAT, weight_decay=0.0)
    tx = make_optimizer(config, 100, dict.fromkeys(params, PLAIN), {"m/blocks/w": Matrix()})
    loss = lambda p: sum(((x - 1.0) ** 2).sum() for x in p.values())

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jax.tree.map(lambda x: x + 0.1, params)
    (end, _), _ = quick_jit(lambda start: jax.lax.scan(step, (start, tx.init(start)), None, length=20))(start)
    assert loss(end) < 0.9 * loss(start)


# --- Muon ----------------------------------------------------------------------------------------------------------------

MUON = OptimizerConfig("muon", lr=1.0, schedule=FLAT, weight_decay=0.0, grad_clip=None)


def muon_update(grads, matrices):
    zeros = jax.tree.map(jnp.zeros_like, grads)
    return jax.tree.map(lambda x: -np.asarray(x), moves(MUON, dict.fromkeys(grads, PLAIN), zeros, grads, matrices=matrices))


@functools.cache
def muon_on_the_model():
    skeleton = model()
    # Layers of very different size: a joint orthogonalisation could not make both equal.
    grads = {path: g * (np.array([1.0, 100.0], np.float32).reshape(-1, *[1] * (g.ndim - 1)) if "/blocks/" in path else 1.0)
             for path, g in weights(skeleton, 5).items()}
    return grads, muon_update(grads, skeleton.matrices)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_muon_orthogonalises_each_matrix_of_each_layer(tower):
    grads, updates = muon_on_the_model()
    matrices = {}
    for layer in range(2):
        of = lambda tree, name: np.asarray(tree[f"{tower}/blocks/layers/{name}"][layer])
        for i in range(3):
            matrices[layer, "qkv"[i]] = [of(t, "attn/qkv")[:, i].reshape(16, 16) for t in (grads, updates)]
        matrices[layer, "out"] = [of(t, "attn/out").reshape(16, 16) for t in (grads, updates)]
        matrices[layer, "up"] = [of(t, "mlp/up/kernel") for t in (grads, updates)]
    for where, (grad, update) in matrices.items():
        before, after = (np.linalg.svd(x, compute_uv=False) for x in (grad, update))
        # Five Newton-Schulz steps bring every singular value into about [0.7, 1.2], times 0.2·√16; the tiniest may lag.
        size = 0.2 * np.sqrt(16)
        assert before[0] / before[-3] > 4 and (0.6 * size < after[:-2]).all() and (after < 1.3 * size).all(), (where, after)


def test_muon_leaves_the_rest_to_adam():
    grads, updates = muon_on_the_model()
    for path in ("image/patch_embed/kernel", "text/embed", "image/blocks/layers/norm1/scale", "image/project/kernel"):
        np.testing.assert_allclose(updates[path], np.sign(grads[path]), atol=1e-3, err_msg=path)  # Adam's first step


def test_muon_on_a_stack_is_muon_on_each_layer():
    shape = (3, 8, 6)
    stacked = random(2, m__blocks__w=shape)
    together = muon_update(stacked, {"m/blocks/w": Matrix()})["m/blocks/w"]
    for layer in range(3):
        apart = muon_update({"m/blocks/w": stacked["m/blocks/w"][layer]}, {"m/blocks/w": Matrix()})["m/blocks/w"]
        np.testing.assert_allclose(together[layer], apart, atol=2e-5)


def test_muon_takes_blocks_at_the_root_too():
    """An encoder on its own has paths that begin with `blocks/`."""
    grads = random(3, blocks__w=(8, 8))
    update = muon_update(grads, {"blocks/w": Matrix()})["blocks/w"]
    assert np.abs(update - np.sign(grads["blocks/w"])).max() > 0.1, "this was Adam's step"


@pytest.mark.parametrize("name, value", [
    ("freeze", "no"), ("freeze", 1), ("freeze", None), ("lr_factors", "abc"), ("lr_factors", {"a": 1}), ("lr_factors", -1.0),
    ("lr_factors", None), ("lr_factors", [1.0, -1.0]), ("lr_factors", float("nan")), ("decay", "x"), ("decay", -0.1),
    ("bounds", 3), ("bounds", ("a", "b")), ("bounds", (5.0, 1.0)), ("bounds", (1.0,)), ("bounds", (0.0, float("inf")))])
def test_what_a_rule_cannot_give_is_refused_by_name(name, value):
    """`"no"` is true, and would freeze."""
    from mof_jax import config as configs

    good = {"freeze": True, "bounds": None}.get(name, 1.0)
    with pytest.raises(UserError, match=f"config.optimizer: {name}.1: .* is not "):
        configs.build(OptimizerConfig, {name: [("image/.*", good), ("text/.*", value)]}, "config.optimizer")
