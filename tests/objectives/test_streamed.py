"""The core: properties of the statistics, and what they cost in memory."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.objectives import contrastive
from mof_jax.objectives.streamed import Statistic, score_statistics, score_total

ALL = [
    Statistic(kind, over, side)
    for kind in ("lse", "sum", "logistic")
    for over in ("positives", "negatives")
    for side in ("query", "key")
]


def draw(seed, pairs=24, dim=6):
    rng = np.random.default_rng(seed)
    query, key = rng.standard_normal((2, pairs, dim)).astype(np.float32)
    return query, key, rng.integers(-1, 5, pairs).astype(np.int32), rng


@jax.jit
def statistics(query, key, group, offset):
    return score_statistics(query, key, 2.0, ALL, offset=offset, group=group, strip=7, precision="highest")


@jax.jit
def gradients(query, key, group, offset, cotangents):
    return jax.vjp(lambda q, k, o: statistics(q, k, group, o), query, key, offset)[1](cotangents)


@jax.jit
def totals(query, key, group, offset):
    """Value and gradients of the linear statistics, by `score_total` and by summing `score_statistics`."""
    linear = [s for s in ALL if s.kind != "lse"]
    where = dict(group=group, strip=7, precision="highest")
    one = lambda q, k, scale, o: score_total(q, k, scale, linear, offset=o, **where)
    two = lambda q, k, scale, o: sum(v.sum() for v in score_statistics(q, k, scale, linear, offset=o, **where))
    return tuple(jax.value_and_grad(f, (0, 1, 2, 3))(query, key, jnp.float32(2), offset) for f in (one, two))


seeds = st.integers(0, 2**31)
few = settings(max_examples=15, deadline=None)


@few
@given(seeds)
def test_statistics_are_what_they_say(seed):
    query, key, group, rng = draw(seed)
    offset = rng.standard_normal(24).astype(np.float32)
    s = np.float64(2 * query @ key.T + offset[:, None])
    mask = np.eye(24, dtype=bool) | ((group[:, None] == group) & (group[:, None] != -1))
    for statistic, got in zip(ALL, statistics(query, key, group, offset)):
        members = mask if statistic.over == "positives" else ~mask
        sign = -1 if statistic.over == "positives" else 1
        entries = {"lse": np.exp(s), "sum": s, "logistic": np.logaddexp(0, sign * s)}[statistic.kind]
        want = np.where(members, entries, 0).sum(1 if statistic.side == "query" else 0)
        want = np.log(want) if statistic.kind == "lse" else want
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4, err_msg=str(statistic))


@few
@given(seeds)
def test_permuting_pairs_permutes_everything(seed):
    query, key, group, rng = draw(seed)
    offset, order = rng.standard_normal(24).astype(np.float32), rng.permutation(24)
    plain = statistics(query, key, group, offset)
    cotangents = tuple(rng.standard_normal((len(ALL), 24)).astype(np.float32))
    moved = statistics(query[order], key[order], group[order], offset[order])
    for a, b in zip(plain, moved):
        np.testing.assert_allclose(a[order], b, rtol=1e-5, atol=1e-4)
    grads = gradients(query, key, group, offset, cotangents)
    moved = gradients(query[order], key[order], group[order], offset[order], tuple(c[order] for c in cotangents))
    for a, b in zip(grads, moved):
        np.testing.assert_allclose(a[order], b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


@few
@given(seeds)
def test_a_score_shift_moves_only_what_it_should(seed):
    """Adding c to all scores adds c to every lse, so offsets' gradients sum to the cotangents' sum."""
    query, key, group, rng = draw(seed)
    zero = np.zeros(24, np.float32)
    cotangents = tuple(rng.standard_normal(24).astype(np.float32) * (s.kind == "lse") for s in ALL)
    doffset = gradients(query, key, group, zero, cotangents)[2]
    np.testing.assert_allclose(doffset.sum(), sum(c.sum() for c in cotangents), atol=1e-3)


def test_softmax_gradient_ignores_a_common_shift_of_one_row():
    """InfoNCE row by row: weights over the keys sum to zero, so identical keys give no gradient to the queries."""
    query, _, _, _ = draw(0)
    key = np.tile(query[:1], (24, 1))
    wanted = [Statistic("lse", "negatives")]

    def rows(q):
        n = score_statistics(q, key, 2.0, wanted, strip=7, precision="highest")[0]
        return jax.nn.softplus(n - contrastive.pair_scores(q, key, 2.0)).sum()

    assert np.abs(jax.jit(jax.grad(rows))(query)).max() < 1e-5


def test_misuse_is_named():
    query, key, *_ = draw(0)
    with pytest.raises(UserError, match="pairs, dim"):
        score_statistics(query, key[:5], 1.0, ALL)
    with pytest.raises(UserError, match="strip"):
        score_statistics(query, key, 1.0, ALL, strip=0)
    with pytest.raises(ValueError, match="score_total takes sums over scores, not lse"):
        score_total(query, key, 1.0, ALL)


@few
@given(seeds)
def test_the_total_is_the_sum_of_the_statistics(seed):
    """In value and gradient, though it takes one walk and not two."""
    query, key, group, rng = draw(seed)
    offset = rng.standard_normal(24).astype(np.float32)
    (value, gradient), (want, want_gradient) = totals(query, key, group, offset)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for name, a, b in zip(("query", "key", "scale", "offset"), gradient, want_gradient):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4, err_msg=name)


def temporary_mib(loss, pairs, dim, devices=1):
    """Compiled temporary memory a device of loss and gradients; nothing is run."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",)) if devices > 1 else None

    def shaped(shape, spec):
        sharding = None if mesh is None else NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    def mean(image, text, *scalars):
        out = loss(image, text, *scalars, mesh=mesh, batch_axes=("data",))
        return out.sum / out.weight

    scalars = (1 + (loss is contrastive.sigmoid_loss)) * [shaped((), P())]
    args = [shaped((pairs, dim), P("data")), shaped((pairs, dim), P("data")), *scalars]
    compiled = jax.jit(jax.value_and_grad(mean, tuple(range(len(args))))).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


@pytest.mark.parametrize("loss", [contrastive.softmax_loss, contrastive.sigmoid_loss])
def test_memory_is_linear_in_the_batch_and_flat_in_devices(loss):
    half, whole = temporary_mib(loss, 16384, 512), temporary_mib(loss, 32768, 512)
    assert whole <= 256 and whole <= 2.05 * half  # one full matrix would be 4,096
    two, eight = temporary_mib(loss, 2 * 4096, 512, 2), temporary_mib(loss, 8 * 4096, 512, 8)
    assert eight <= 1.02 * two <= 64
