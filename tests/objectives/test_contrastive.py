"""Losses against the full-matrix form, on one device and sharded; identities; closed forms."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
import numpy as np
import pytest
from score_cases import MESHES, mesh_of
import textbook

from mof_jax.errors import UserError
from mof_jax.objectives.decoupled import decoupled_loss
from mof_jax.objectives.decoupled_softmax import decoupled_softmax_loss
from mof_jax.objectives.pairwise import reduce_both
from mof_jax.objectives.sigmoid import sigmoid_loss
from mof_jax.objectives.softmax import softmax_loss

LOSSES = {loss.__name__: loss for loss in (softmax_loss, sigmoid_loss, decoupled_loss, decoupled_softmax_loss)}
PAIRS, DIM = 192, 24
GROUP = np.random.default_rng(2).integers(-1, 40, PAIRS).astype(np.int32)
CASES = {
    "softmax": ("softmax_loss", {}),
    "softmax smooth": ("softmax_loss", {"label_smoothing": 0.1}),
    "softmax groups smooth": ("softmax_loss", {"group": GROUP, "label_smoothing": 0.1}),
    "sigmoid": ("sigmoid_loss", {}),
    "sigmoid groups": ("sigmoid_loss", {"group": GROUP}),
    "decoupled": ("decoupled_loss", {}),
    "decoupled groups": ("decoupled_loss", {"group": GROUP}),
    "decoupled softmax": ("decoupled_softmax_loss", {"group": GROUP}),
}


def features(pairs=PAIRS, dim=DIM, alike=0.5, dtype=np.float32):
    """Unit features; partners are more alike the larger `alike` is."""
    a, b = np.random.default_rng(0).standard_normal((2, pairs, dim))
    b = alike * a + b
    return [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype) for x in (a, b)]


def compiled(name, count, **options):
    """Jitted mean loss and gradients of `count` arguments; the full-matrix form when options name no mesh."""

    def mean(*args):
        if "mesh" not in options:
            return getattr(textbook, name)(*args, **options)
        out = LOSSES[name](*args, **options)
        return out.sum / out.weight

    return jax.jit(jax.value_and_grad(mean, tuple(range(count))))


def with_grads(name, args, **options):
    """The mean loss and its gradients for every argument."""
    return compiled(name, len(args), **options)(*args)


@functools.cache
def full_matrix(case, scale):
    """What `CASES[case]` should give, in float32 with the whole matrix."""
    name, _ = CASES[case]
    return _full_matrix(case)(*features(), *scalars(name, scale))


@functools.cache
def _full_matrix(case):
    name, options = CASES[case]
    return compiled(name, 2 + len(scalars(name, 1.0)), **options, precision="highest")


def assert_equal_grads(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for g, w in zip(got[1], want[1], strict=True):
        assert np.isfinite(g).all()
        assert np.abs(g - w).max() <= tolerance * np.abs(w).max()


def scalars(name, scale):
    return [np.float32(scale)] + ([np.float32(-9.0)] if name == "sigmoid_loss" else [])


# Two cases see every mesh; between them they use every kind of statistic. The others see the two extremes.
EVERYWHERE = "softmax groups smooth", "sigmoid groups"
PLACES = [(c, m) for c in CASES for m in MESHES if c in EVERYWHERE or m in ("none", "4x2")]


@pytest.mark.parametrize(("case", "mesh"), PLACES)
def test_value_and_every_gradient_equal_the_full_matrix(case, mesh):
    name, options = CASES[case]
    count = 2 + len(scalars(name, 1.0))
    step = compiled(name, count, **options, **mesh_of(mesh), block_size=20, precision="highest")  # 20 divides no shard
    for scale in (1.0, 100.0):
        assert_equal_grads(step(*features(), *scalars(name, scale)), full_matrix(case, scale))


@pytest.mark.parametrize("block_size", [1, 32, 1000])
def test_any_block_size_gives_the_same(block_size):
    args = features(pairs=96) + [np.float32(14.0)]
    got = with_grads("softmax_loss", args, **mesh_of("2"), block_size=block_size, precision="highest")  # 48 pairs a device
    assert_equal_grads(got, with_grads("softmax_loss", args, precision="highest"))


def test_sharded_inputs_stay_sharded():
    where = mesh_of("4x2")
    sharding = NamedSharding(where["mesh"], P(where["batch_axes"]))
    image, text = jax.device_put(features(), sharding)
    _, (dimage, dtext, _) = with_grads("softmax_loss", [image, text, np.float32(10.0)], **where)
    assert dimage.sharding.is_equivalent_to(sharding, 2) and dtext.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("name", ["softmax_loss", "sigmoid_loss"])
def test_nearly_solved_pairs_keep_their_gradient(name):
    """Softmax loss 3e-9: the textbook form in float32 returns 0, the streamed one still agrees with float64."""
    args = features(alike=4.0) + scalars(name, 60.0)
    if name == "sigmoid_loss":
        args[3] = np.float32(-50.0)
    got = with_grads(name, args, mesh=None, precision="highest")
    with jax.enable_x64(True):
        want = jax.device_get(with_grads(name, [np.float64(a) for a in args]))
    assert want[0] < 1e-3
    assert_equal_grads(jax.device_get(got), want, tolerance=2e-5)  # scores near 60 round at 4e-6


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        args = features(pairs=12, dim=5, dtype=np.float64) + [np.float64(3.0), np.float64(-1.0)]
        group = np.array([0, 0, 1, 1, 1, -1, -1, 2, 3, 2, 4, 5], np.int32)

        def total(image, text, scale, bias):
            options = {"group": group, "block_size": 5}
            a = softmax_loss(image, text, scale, label_smoothing=0.2, **options).sum
            b = decoupled_softmax_loss(image, text, scale, **options).sum
            return a + b + sigmoid_loss(image, text, scale, bias, **options).sum

        check_grads(jax.jit(total), args, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_identities_between_losses():
    where = {"precision": "highest", "block_size": 50}
    alone = np.full(PAIRS, -1, np.int32)

    @jax.jit
    def sums(image, text):
        forward, back = reduce_both(image, text, 14.0, **where)
        out = {"by terms": sum(jax.nn.softplus(d.negatives - d.positive_mean) for d in (forward, back)).sum() / 2}
        for name, (loss, options) in CASES.items():
            if loss != "sigmoid_loss" and "smooth" not in name:
                group = {"group": alone} if "group" in options else {}
                out[name] = LOSSES[loss](image, text, 14.0, **group, **where).sum
        return out

    got = sums(*features())
    for name in ("softmax", "decoupled softmax"):  # InfoNCE_i = softplus(DCL_i); with one positive DEXML is InfoNCE
        np.testing.assert_allclose(got[name], got["by terms"], rtol=1e-6)
    np.testing.assert_allclose(got["decoupled"], got["decoupled groups"], rtol=1e-6)


def test_collapsed_features_have_closed_forms():
    same = np.tile(np.eye(1, DIM, dtype=np.float32), (PAIRS, 1))
    mean = lambda out: float(out.sum / out.weight)
    assert mean(softmax_loss(same, same, 10.0)) == pytest.approx(np.log(PAIRS), rel=1e-5)
    assert mean(decoupled_loss(same, same, 10.0)) == pytest.approx(np.log(PAIRS - 1), rel=1e-5)
    got = mean(sigmoid_loss(same, same, 10.0, -10.0))  # every score is 0
    assert got == pytest.approx(PAIRS * np.log(2), rel=1e-5)


def test_separated_groups_reach_their_floors():
    """P solved positives: softmax stays at ln P, because they compete; the decoupled softmax reaches 0 (DEXML)."""
    group = np.repeat(np.arange(4, dtype=np.int32), 4)
    x = np.eye(4, dtype=np.float32)[group]
    softmax = softmax_loss(x, x, 60.0, group=group)
    assert float(softmax.sum / softmax.weight) == pytest.approx(np.log(4), rel=1e-5)
    assert float(decoupled_softmax_loss(x, x, 60.0, group=group).sum) == pytest.approx(0, abs=1e-5)


def test_one_pair_has_nothing_to_learn():
    image, text = features(pairs=1)
    value, grads = with_grads("softmax_loss", [image, text, np.float32(10.0)], mesh=None)
    assert value == 0 and all(np.all(g == 0) for g in grads)


def test_bfloat16_features_are_reduced_in_float32():
    args = [jnp.asarray(x, jnp.bfloat16) for x in features()] + [jnp.float32(20.0)]
    value, grads = with_grads("softmax_loss", args, mesh=None, precision="highest")
    want = with_grads("softmax_loss", [a.astype(jnp.float32) for a in args], precision="highest")
    np.testing.assert_allclose(value, want[0], rtol=1e-5)
    assert grads[0].dtype == jnp.bfloat16 and grads[2].dtype == jnp.float32
    np.testing.assert_allclose(grads[0].astype(jnp.float32), want[1][0], rtol=8e-3, atol=3e-4)


def test_loss_is_a_sum_with_a_weight():
    image, text = features()
    out = softmax_loss(image, text, 10.0)
    assert out.weight == PAIRS and 0 < out.metrics["positive_probability"].sum < PAIRS
    np.testing.assert_allclose(out.metrics["positive_cosine"].sum, (image * text).sum(), rtol=1e-5)


def test_batch_that_the_mesh_does_not_divide_is_a_user_error():
    image, text = features(pairs=30)
    with pytest.raises(UserError, match=r"30 pairs.*8 devices \(data=4, fsdp=2\)"):
        softmax_loss(image, text, 10.0, **mesh_of("4x2"))
    with pytest.raises(UserError, match="rows"):
        softmax_loss(image, text, 10.0, mesh=mesh_of("2")["mesh"], batch_axes=("rows",))
    with pytest.raises(UserError, match="Groups.query"):
        softmax_loss(image, text, 10.0, group=GROUP)
