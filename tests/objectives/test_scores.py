"""Streamed scores against dense ones: every statistic, every gradient, on every kind of mesh."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from score_cases import assert_close, every, mesh_of, normal

from mof_jax.objectives.scores import Band, Diagonal, Groups, Labels, LabelSets, Statistic, Valid, scores

QUERIES, DIM = 48, 6
ALL = every()
NAMES = "query", "key", "scale", "offset", "key_offset", "other query", "other key", "other scale"


def draw(seed, keys=QUERIES):
    """Operands in the order of NAMES; keys of both matrices are `keys`."""
    rows = [normal(seed, n, d) for d, ns in ((DIM, (QUERIES, keys)), (5, (QUERIES, keys))) for n in ns]
    offsets = normal(seed + 1, QUERIES), normal(seed + 2, keys)
    return *rows[:2], np.float32(1.5), *offsets, *rows[2:], np.float32(0.2)


def reduced(statistics, operands, pairing, **options):
    """All statistics, expectations under a second pair of features."""
    query, key, scale, offset, key_offset, *second = operands
    options = dict(precision="highest", block_size=5) | options
    under = scores(*second[:2], scale=second[2], **options)
    s = scores(query, key, scale=scale, offset=offset, key_offset=key_offset, pairing=pairing, **options)
    return s.reduce(*statistics, under=under, learn_under=True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(statistics, options, operands, pairing):
    """Values, and gradients of their sum with weights between 1 and 2: no difference of large terms."""
    by_side = {"query": 1.5 + 0.5 * jnp.cos(operands[3]), "key": 1.5 + 0.5 * jnp.cos(operands[4])}

    def weighted(operands):
        values = reduced(statistics, operands, pairing, **dict(options))
        terms = [by_side[s.side] * jnp.where(jnp.isfinite(v), v, 0) for s, v in zip(statistics, values)]
        return sum(term.sum() for term in terms), values

    return jax.grad(weighted, has_aux=True)(operands)[::-1]


def integers(seed, *shape, low=-1, high=7):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def coins(seed, n, share=0.7):
    return np.random.default_rng(seed).random(n) < share


# name: (pairing, keys, mesh, options). 5 queries a block divide no device's share.
CASES = {
    "diagonal": (Diagonal(), 48, "none", {}),
    "diagonal, large blocks": (Diagonal(), 48, "4x2", {"block_size": 100}),
    "queue": (Diagonal(), 80, "8", {}),
    "fewer keys": (Diagonal(), 16, "2", {}),
    "groups": (Groups(integers(1, 48)), 48, "2x2", {}),
    "groups of a queue": (Groups(integers(1, 48), integers(2, 72)), 72, "4", {}),
    "label sets": (LabelSets(integers(3, 48, 3, high=20)), 48, "8", {}),
    "label sets of two widths": (LabelSets(integers(3, 48, 3), integers(4, 80, 2)), 80, "2", {}),
    "class table": (Labels(integers(5, 48, 3, high=80)), 80, "4x2", {}),
    "replicated class table": (Labels(integers(5, 48, 2, high=37)), 37, "8", {"replicated": True}),
    "replicated diagonal": (Diagonal(), 61, "2x2", {"replicated": True}),
    "valid groups": (Valid(coins(6, 48), coins(7, 48), of=Groups(integers(1, 48))), 48, "4", {}),
    "valid queries of classes": (Valid(coins(6, 48), of=Labels(integers(5, 48, 3, high=24))), 24, "1", {}),
    "band": (Band(high=np.abs(normal(8, 48)), of=Diagonal()), 48, "8", {}),
    "band of positives, too": (
        Band(normal(9, 48) - 2, np.abs(normal(8, 48)) * 2, of=LabelSets(integers(3, 48, 3)), drops="all"),
        48, "2", {}),
    "valid band": (
        Valid(coins(6, 48), coins(7, 80),
              of=Band(high=normal(8, 48) + 2, of=Groups(integers(1, 48), integers(2, 80)))),
        80, "4", {}),
    "rings of four": (Groups(integers(1, 48)), 48, "8", {"groups": 2}),
    "two blocks a device": (Diagonal(), 48, "2x2", {"groups": 8}),
    "blocks of a queue": (Valid(coins(6, 48), of=Diagonal()), 80, "none", {"groups": 4}),
    "blocks of a class table": (Labels(integers(5, 48, 2, high=20)), 80, "2", {"groups": 4}),
    "no rings": (Groups(integers(1, 48)), 48, "8", {"groups": 8}),
}


def asked(case):
    """A third of all statistics, in turn: each case sees every kind, and neighbours all sides and subsets."""
    if CASES[case][3].get("replicated"):
        return every(sides=("query",))
    return ALL[list(CASES).index(case) % 3 :: 3]


@pytest.mark.parametrize("case", CASES)
def test_streamed_is_dense_in_value_and_every_gradient(case):
    (pairing, keys, mesh, options), statistics = CASES[case], asked(case)
    operands = draw(10, keys)
    groups = {k: v for k, v in options.items() if k == "groups"}
    want = values_and_gradients(statistics, tuple((groups | {"how": "dense"}).items()), operands, pairing)
    got = values_and_gradients(statistics, tuple((options | mesh_of(mesh)).items()), operands, pairing)
    for s, a, b in zip(statistics, got[0], want[0], strict=True):
        assert_close(a, b, name=str(s))
    for name, a, b in zip(NAMES, got[1], want[1], strict=True):
        assert np.abs(b).max() > 0 and np.isfinite(a).all(), name
        assert_close(a, b, name=name)


def numpy_statistic(s, matrix, under, members):
    """One statistic in float64, written as its definition."""
    if s.side == "key":
        matrix, under, members = matrix.T, under.T, members.T
    out = []
    for row, other, chosen in zip(matrix, under, members):
        row, other = row[chosen], other[chosen]
        empty = -np.inf if s.kind in ("lse", "max", "kth") else 0
        with np.errstate(over="ignore"):
            out.append(empty if len(row) < (s.k or 1) else {
                "lse": lambda r, o: np.logaddexp.reduce(r),
                "sum": lambda r, o: r.sum(),
                "count": lambda r, o: len(r),
                "logistic": lambda r, o: np.logaddexp(0, -r if s.over == "positives" else r).sum(),
                "expit": lambda r, o: (1 / (1 + np.exp(-r))).sum(),
                "max": lambda r, o: r.max(),
                "kth": lambda r, o: np.sort(r)[-s.k],
                "expectation": lambda r, o: (np.exp(o) * r).sum() / np.exp(o).sum(),
                "weighted": lambda r, o: (np.exp(o) * r).sum(),
            }[s.kind](row, other))
    return np.array(out)


@jax.jit
def both_forms(operands, pairing):
    return [reduced(ALL, operands, pairing, how=how) for how in ("dense", "streamed")]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 9))
def test_statistics_are_what_they_say(seed):
    """Both forms, and pairings as sets: valid entries of label sets inside a band that spares positives."""
    rng = np.random.default_rng(seed)
    operands = query, key, scale, offset, key_offset, query2, key2, scale2 = draw(seed)
    labels, low, high = integers(seed, 48, 2, high=30), normal(seed, 48) - 3, normal(seed, 48) + 3
    rows, columns = rng.random((2, 48)) < 0.8
    pairing = Valid(rows, columns, of=Band(low, high, of=LabelSets(labels)))
    matrix = np.float64(scale * query @ key.T + offset[:, None] + key_offset)
    sets = [set(x) - {-1} for x in labels.tolist()]
    positive = np.array([[i == j or bool(a & b) for j, b in enumerate(sets)] for i, a in enumerate(sets)])
    inside = positive | ((matrix >= low[:, None]) & (matrix <= high[:, None]))
    takes_part = inside & rows[:, None] & columns
    near = np.minimum(np.abs(matrix - low[:, None]), np.abs(matrix - high[:, None])).min()
    if near < 1e-5:
        return  # float32 may round such a score to the other side of its bound
    over = {"positives": takes_part & positive, "negatives": takes_part & ~positive, "all": takes_part}
    under = np.float64(scale2 * query2 @ key2.T)
    for got in both_forms(operands, pairing):
        for s, a in zip(ALL, got):
            assert_close(a, numpy_statistic(s, matrix, under, over[s.over]), 2e-5, str(s))


@jax.jit
def totals(operands, group):
    """Value and gradients of the linear statistics, by `total` and by summing `reduce`, on four devices."""
    linear = every(("sum", "count", "logistic", "expit", "weighted"))
    where = dict(pairing=Groups(group), block_size=5, precision="highest") | mesh_of("4")

    def summed(operands, one_walk):
        query, key, scale, offset, key_offset, query2, key2, scale2 = operands
        s = scores(query, key, scale=scale, offset=offset, key_offset=key_offset, **where)
        t = scores(query2, key2, scale=scale2, **where)
        if one_walk:
            return s.total(*linear, under=t, learn_under=True)
        return sum(v.sum() for v in s.reduce(*linear, under=t, learn_under=True))

    return [jax.value_and_grad(summed)(operands, one_walk) for one_walk in (True, False)]


def test_the_total_is_the_sum_of_the_statistics():
    """In value and gradient, though it takes one walk and not two."""
    (value, gradient), (want, want_gradient) = totals(draw(3), integers(1, 48))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for name, a, b in zip(NAMES, gradient, want_gradient):
        assert_close(a, b, 2e-5, name)


def test_sharded_inputs_stay_sharded():
    where = mesh_of("4x2")
    spread = NamedSharding(where["mesh"], P(where["batch_axes"]))
    query, key = jax.device_put((normal(0, 48, 6), normal(1, 80, 6)), spread)
    wanted = Statistic("lse"), Statistic("sum", side="key")

    @jax.jit
    def step(query, key):
        values, back = jax.vjp(lambda q, k: scores(q, k, **where).reduce(*wanted), query, key)
        return values, back(values)

    (of_queries, of_keys), (dquery, dkey) = step(query, key)
    assert all(x.sharding.is_equivalent_to(spread, x.ndim) for x in (of_queries, of_keys, dquery, dkey))


def test_permuting_pairs_permutes_everything():
    operands, order = draw(0), np.random.default_rng(0).permutation(48)
    group = integers(1, 48)
    plain = values_and_gradients(ALL, (), operands, Groups(group))
    permuted = tuple(x[order] if np.ndim(x) else x for x in operands)
    moved = values_and_gradients(ALL, (), permuted, Groups(group[order]))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(moved), strict=True):
        assert_close(b, a[order] if np.ndim(a) else a, 2e-5)


def test_bfloat16_is_no_further_from_float64_than_dense():
    """At most twice as far as the dense form of the same bfloat16 features; values in float32."""
    statistics = ALL[1::3]
    operands = tuple(jnp.asarray(x, jnp.bfloat16) if np.ndim(x) == 2 else x for x in draw(4))
    pairing = Groups(integers(1, 48))
    on_four, whole = tuple(mesh_of("4").items()), (("how", "dense"),)
    streamed = jax.device_get(values_and_gradients(statistics, on_four, operands, pairing))
    dense = jax.device_get(values_and_gradients(statistics, whole, operands, pairing))
    assert streamed[0][0].dtype == np.float32 and streamed[1][0].dtype == jnp.bfloat16
    with jax.enable_x64(True):
        doubles = tuple(np.float64(x) for x in operands)
        exact = jax.device_get(values_and_gradients(statistics, whole, doubles, pairing))
    forms = ((*values, *gradients) for values, gradients in (streamed, dense, exact))
    for s, a, b, c in zip((*statistics, *NAMES), *forms, strict=True):
        finite = np.isfinite(c)
        far = [np.abs(np.float64(x)[finite] - np.float64(c)[finite]).max(initial=0) for x in (a, b)]
        assert far[0] <= 2 * far[1] + 1e-6 * np.abs(c[finite]).max(initial=0), s
