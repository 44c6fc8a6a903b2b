"""What papers lean on: identities of statistics, ties, rows that do not exist, and memory."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from score_cases import assert_close, every, mesh_of, normal

from mof_jax.errors import UserError
from mof_jax.objectives.decoupled_softmax import decoupled_softmax_loss
from mof_jax.objectives.pairwise import pair_scores
from mof_jax.objectives.scores import (
    Band,
    DenseScores,
    Diagonal,
    Groups,
    Labels,
    LabelSets,
    Statistic,
    Valid,
    scores,
)
from mof_jax.objectives.sigmoid import sigmoid_loss
from mof_jax.objectives.softmax import softmax_loss

WHERE = dict(block_size=5, precision="highest")
ALL_ENTRIES = Statistic("lse", "all")


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def largest(how, mesh, statistics, query, key, offset):
    """Values, and for each statistic the gradient of its sum to query and key."""
    def reduced(query, key):
        where = WHERE | mesh_of(mesh) if how == "streamed" else {}
        return scores(query, key, offset=offset, how=how, **where).reduce(*statistics)

    values, back = jax.vjp(reduced, query, key)
    ones = [tuple(jnp.full_like(v, i == j) for j, v in enumerate(values)) for i in range(len(values))]
    return values, [back(cotangent) for cotangent in ones]


@pytest.mark.parametrize("mesh", ["none", "8"])
def test_of_equal_scores_the_earlier_position_counts_as_the_larger(mesh):
    """Small integers: scores are exact, many are equal, and forms agree in all bits of value and gradient."""
    kinds, sides = (("max", 1), ("kth", 1), ("kth", 2), ("kth", 9)), (("negatives", "query"), ("all", "key"))
    statistics = tuple(Statistic(kind, *side, k) for kind, k in kinds for side in sides)
    rng = np.random.default_rng(0)
    query, key = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (24, 32))
    operands = statistics, query, key, np.zeros(24, np.float32)
    dense, streamed = largest("dense", "none", *operands), largest("streamed", mesh, *operands)
    for a, b in zip(jax.tree.leaves(streamed), jax.tree.leaves(dense), strict=True):
        np.testing.assert_array_equal(a, b)
    matrix = query @ key.T
    order = np.argsort(np.where(np.eye(24, 32, dtype=bool), np.inf, -matrix), axis=1, kind="stable")
    for i, nth in ((0, 0), (2, 0), (4, 1), (6, 8)):  # of queries: the gradient is the key that was chosen
        chosen = order[:, nth]
        np.testing.assert_array_equal(streamed[0][i], matrix[np.arange(24), chosen])
        np.testing.assert_array_equal(streamed[1][i][0], key[chosen])


def test_fewer_than_k_entries_have_no_kth():
    query = key = normal(0, 8, 3)
    asked = ("negatives", 7), ("negatives", 8), ("positives", 20)
    statistics = tuple(Statistic("kth", over, k=k) for over, k in asked)
    (some, *none), gradients = largest("streamed", "2", statistics, query, key, np.zeros(8, np.float32))
    assert np.isfinite(some).all() and all((v == -np.inf).all() for v in none)
    assert all((g == 0).all() for pair in gradients[1:] for g in pair)


def test_hard_negatives_are_a_band():
    """One pass finds each query's third negative, a second reduces those that are as large (UniME, UBCL)."""
    query, key = normal(0, 24, 5), normal(1, 24, 5)
    s = functools.partial(scores, query, key, **WHERE, **mesh_of("4"))
    third, = s().reduce(Statistic("kth", "negatives", k=3))
    band = s(pairing=Band(low=third - 1e-4))
    hard, count = band.reduce(Statistic("lse", "negatives"), Statistic("count", "all"))
    matrix = np.where(np.eye(24, dtype=bool), -np.inf, query @ key.T)
    np.testing.assert_allclose(hard, jax.nn.logsumexp(np.sort(matrix, 1)[:, -3:], axis=1), rtol=1e-5)
    assert (np.asarray(count) == 4).all()  # the positive stays, however small


@jax.jit
def divergence(query, key, query2, key2):
    """KL of two softmaxes, by rows, and its gradients; and by the textbook."""
    where = WHERE | mesh_of("4")

    def streamed(*operands):
        s, t = scores(*operands[:2], scale=2.0, **where), scores(*operands[2:], scale=3.0, **where)
        both = ALL_ENTRIES, Statistic("expectation", "all")
        (of_s, mean_s), (of_t, mean_t) = (x.reduce(*both, under=t, learn_under=True) for x in (s, t))
        return of_s - of_t + mean_t - mean_s

    def textbook(*operands):
        p, q = (jax.nn.log_softmax(c * a @ b.T) for c, (a, b) in zip((2, 3), (operands[:2], operands[2:])))
        return (jnp.exp(q) * (q - p)).sum(1)

    with jax.default_matmul_precision("highest"):
        return [jax.value_and_grad(lambda *x, f=f: f(*x).sum(), (0, 1, 2, 3))(query, key, query2, key2)
                for f in (streamed, textbook)]


def test_divergence_of_two_softmaxes():
    """KL = lse_s - lse_t + E_t[t] - E_t[s], in value and in all gradients, the teacher's among them."""
    (value, got), (want, gradients) = divergence(*(normal(i, 24, 4) for i in range(4)))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for a, b in zip(got, gradients):
        assert_close(a, b, 3e-5)


def test_weights_are_constants_unless_learned():
    query, key = normal(0, 16, 3), normal(1, 16, 3)

    def total(other, **how):
        s, how = scores(query, key), how | {"under": scores(other, key)}
        return s.reduce(Statistic("expectation"), **how)[0].sum() + s.total(Statistic("weighted"), **how)

    assert not jax.grad(total)(query).any() and jax.grad(total)(query, learn_under=True).any()


def test_an_expectation_under_equal_weights_is_the_mean():
    query, key = normal(0, 24, 5), normal(1, 40, 5)
    where = WHERE | mesh_of("8")
    teacher = scores(np.zeros((24, 2), np.float32), normal(2, 40, 2), offset=normal(3, 24), **where)
    mean, = scores(query, key, **where).reduce(Statistic("expectation", "all"), under=teacher)
    np.testing.assert_allclose(mean, (query @ key.T).mean(1), rtol=1e-4, atol=1e-6)


def test_sinkhorn_without_a_matrix():
    """Half-iterations are log-sum-exps with the other side's potential, targets a weighted sum (SwALIP)."""
    query, key, teacher = normal(0, 16, 3), normal(1, 16, 3), normal(2, 16, 3)
    where = WHERE | mesh_of("4")

    @jax.jit
    def streamed():
        u = v = jnp.zeros(16)
        for _ in range(5):
            u = -scores(teacher, key, key_offset=v, **where).reduce(ALL_ENTRIES)[0]
            v = -scores(teacher, key, offset=u, **where).reduce(Statistic("lse", "all", "key"))[0]
        plan = scores(teacher, key, offset=u, key_offset=v, **where)
        s = scores(query, key, **where)
        columns, = plan.reduce(Statistic("lse", "all", "key"))
        return *s.reduce(Statistic("weighted", "all"), under=plan), columns

    weights = np.exp(np.float64(teacher @ key.T))
    for _ in range(5):
        weights /= weights.sum(1, keepdims=True)
        weights /= weights.sum(0)
    expected, columns = streamed()
    np.testing.assert_allclose(expected, (weights * (query @ key.T)).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(columns, np.zeros(16), atol=1e-5)


def test_a_queue_is_more_keys_or_a_call_of_its_own():
    """Negatives of batch and queue in one call, or in two; devices need not divide a replicated queue."""
    query, key, queue = normal(0, 16, 3), normal(1, 16, 3), normal(2, 40, 3)
    where, wanted = WHERE | mesh_of("8"), Statistic("lse", "negatives")
    nobody = Labels(np.full((16, 1), -1))

    def extra(queue, **options):
        return scores(query, queue, pairing=nobody, **where, **options).reduce(wanted)[0]

    together, = scores(query, np.concatenate([key, queue]), **where).reduce(wanted)
    own, = scores(query, key, **where).reduce(wanted)
    np.testing.assert_allclose(jnp.logaddexp(own, extra(queue)), together, rtol=1e-5)
    want = jax.nn.logsumexp(query @ queue[:37].T, axis=1)
    np.testing.assert_allclose(extra(queue[:37], replicated=True), want, rtol=1e-5)


def test_rows_that_do_not_exist_are_as_if_deleted():
    """Statistics and gradients of the others; those of the missing are defined and 0, NaN features or not."""
    statistics, rng = every(overs=("positives", "negatives")), np.random.default_rng(0)
    query, key, query2, key2 = (normal(i, 24, 4) for i in range(4))
    group, valid = rng.integers(-1, 5, 24).astype(np.int32), np.arange(24) % 3 > 0
    holes = [np.where(valid[:, None], x, np.nan) for x in (query, key)]

    @functools.partial(jax.jit, static_argnums=1)
    def step(operands, mesh, second, pairing):
        def reduced(query, key):
            where = WHERE | mesh_of(mesh)
            under = scores(*second, scale=0.3, **where)
            return scores(query, key, pairing=pairing, **where).reduce(*statistics, under=under)

        values, back = jax.vjp(reduced, *operands)
        # Where there is no value, a cotangent of NaN must do no harm either.
        return values, back(tuple(jnp.where(jnp.isfinite(v), 1.0, jnp.nan) for v in values))

    values, gradients = step(holes, "8", (query2, key2), Valid(valid, valid, of=Groups(group)))
    fewer = [x[valid] for x in (query, key, query2, key2)]
    want, want_gradients = step(fewer[:2], "none", tuple(fewer[2:]), Groups(group[valid]))
    nothing = {"lse": -np.inf, "max": -np.inf, "kth": -np.inf}
    for s, a, b in zip(statistics, values, want, strict=True):
        assert_close(a[valid], b, name=str(s))
        np.testing.assert_array_equal(a[~valid], nothing.get(s.kind, 0), err_msg=str(s))
    for a, b in zip(gradients, want_gradients, strict=True):
        assert_close(a[valid], b)
        assert (np.asarray(a)[~valid] == 0).all()


def test_groups_of_the_batch_are_batches_of_their_own():
    """A loss over four blocks is the sum of four losses, siblings and smoothing included (M2-Encoder)."""
    image, text = normal(0, 48, 5), normal(1, 48, 5)
    group = np.random.default_rng(2).integers(-1, 5, 48).astype(np.int32)

    @functools.partial(jax.jit, static_argnums=(3, 4))
    def loss(image, text, group, mesh, blocks):
        where = dict(group=group, block_size=5, precision="highest", groups=blocks) | mesh_of(mesh)
        smooth = softmax_loss(image, text, 3.0, label_smoothing=0.1, **where).sum
        return smooth + decoupled_softmax_loss(image, text, 3.0, **where).sum

    blocks = [[x[i : i + 12] for x in (image, text, group)] for i in range(0, 48, 12)]
    want = sum(float(loss(*block, "none", 1)) for block in blocks)
    for mesh in ("none", "2", "8"):
        assert float(loss(image, text, group, mesh, 4)) == pytest.approx(want, rel=1e-5)


def test_dense_scores_give_the_matrix():
    query, key = normal(0, 6, 3), normal(1, 9, 3)
    offsets = dict(offset=-1.0, key_offset=np.arange(9.0))
    s = scores(query, key, scale=2.0, **offsets, how="dense", precision="highest")
    assert isinstance(s, DenseScores)
    np.testing.assert_allclose(s.matrix, 2 * query @ key.T - 1 + np.arange(9.0), rtol=1e-5)
    assert s.members.takes_part is None and np.array_equal(s.members.positive, np.eye(6, 9, dtype=bool))


Q, K = normal(0, 24, 3), normal(1, 40, 3)
MISTAKES = {
    r"\[pairs, dim\] of one dim.*got \(24, 3\) and \(40, 2\)": lambda: scores(Q, K[:, :2]),
    "block_size=0": lambda: scores(Q, K, block_size=0),
    "pairing=<class .*> is none": lambda: scores(Q, Q, pairing=Diagonal),
    "how='sparse': scores are streamed or dense": lambda: scores(Q, K, how="sparse"),
    r"scale is one number, got shape \(24,\)": lambda: scores(Q, K, scale=np.ones(24)),
    r"key_offset has shape \(24,\).*each of 40 rows": lambda: scores(Q, K, key_offset=np.ones(24)),
    r"Groups.query has shape \(40,\); each of 24 rows": lambda: scores(Q, Q, pairing=Groups(np.ones(40))),
    "LabelSets.key is missing: 24 queries and": lambda: scores(Q, K, pairing=LabelSets(np.ones((24, 2)))),
    r"Labels.columns has shape \(24,\).*row of numbers": lambda: scores(Q, K, pairing=Labels(np.ones(24))),
    r"Band.high has shape \(\)": lambda: scores(Q, K, pairing=Valid(of=Band(high=1.0))),
    "Band.drops is negatives or all, not 'some'": lambda: scores(Q, Q, pairing=Band(drops="some")),
    r"batch_axes \['rows'\]: the mesh has axes data": lambda: scores(
        Q, K, mesh=mesh_of("2")["mesh"], batch_axes=("rows",)),
    r"25 queries is not .* of 8 devices \(data=4, fsdp=2\)": lambda: scores(K[:25], K, **mesh_of("4x2")),
    r"39 keys is not a multiple of 8 devices": lambda: scores(Q, K[:39], **mesh_of("8")),
    "groups=7 does not divide 24 queries and 40 keys": lambda: scores(Q, K, groups=7),
    r"groups=12 cannot lie on 8 devices \(data=8\): neither": lambda: scores(Q, Q, groups=12, **mesh_of("8")),
    "groups=2: keys that every device has": lambda: scores(Q, K, groups=2, replicated=True),
    "unknown kind of statistic 'mean'": lambda: scores(Q, K).reduce(Statistic("mean")),
    "side is query or key": lambda: scores(Q, K).reduce(Statistic("lse", side="row")),
    "has no one sign": lambda: scores(Q, K).reduce(Statistic("logistic", "all")),
    "only for kth": lambda: scores(Q, K).reduce(Statistic("max", k=2)),
    "a replicated key is": lambda: scores(Q, K, replicated=True).reduce(Statistic("lse", side="key")),
    "no statistic is asked for": lambda: scores(Q, K).reduce(),
    "total takes sums over scores, not lse": lambda: scores(Q, K).total(Statistic("sum"), Statistic("lse")),
    "needs `under`": lambda: scores(Q, K).reduce(Statistic("expectation")),
    "no statistic takes weights from it": lambda: scores(Q, K).reduce(Statistic("sum"), under=scores(Q, K)),
    "both streamed or": lambda: scores(Q, K).reduce(Statistic("weighted"), under=scores(Q, K, how="dense")),
    "in another place": lambda: scores(Q, K).reduce(Statistic("weighted"), under=scores(Q, Q)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_misuse_is_named(message):
    with pytest.raises(UserError, match=message):
        MISTAKES[message]()


def temporary_mib(loss, pairs, dim, devices=1):
    """Compiled temporary memory a device of the mean loss and its gradients; nothing is run."""
    where = mesh_of(str(devices)) if devices > 1 else {"mesh": None}

    def shaped(shape, spec):
        sharding = None if where["mesh"] is None else NamedSharding(where["mesh"], spec)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    def mean(scalars, *features):
        return loss(*features, *scalars, **where)

    scalars = [shaped((), P())] * 2
    features = [shaped((pairs, dim), P("data"))] * (4 if loss is soft_targets else 2)
    compiled = jax.jit(jax.value_and_grad(mean, (0, 1, 2))).lower(scalars, *features).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def softmax(image, text, scale, bias, **where):
    out = softmax_loss(image, text, scale, **where)
    return out.sum / out.weight


def sigmoid(image, text, scale, bias, **where):
    out = sigmoid_loss(image, text, scale, bias, **where)
    return out.sum / out.weight


def soft_targets(image, text, teacher_image, teacher_text, scale, bias, **where):
    """Cross-entropy against a teacher's softmax, both matrices streamed."""
    s, t = scores(image, text, scale=scale, **where), scores(teacher_image, teacher_text, scale=30.0, **where)
    own, expected = s.reduce(ALL_ENTRIES, Statistic("expectation", "all"), under=t)
    return (own - expected).mean()


@pytest.mark.parametrize("loss", [softmax, sigmoid, soft_targets])
def test_memory_is_linear_in_the_batch_and_flat_in_devices(loss):
    half, whole = temporary_mib(loss, 16384, 512), temporary_mib(loss, 32768, 512)
    assert whole <= 256 and whole <= 2.05 * half  # one full matrix would be 4,096
    two, eight = temporary_mib(loss, 2 * 4096, 512, 2), temporary_mib(loss, 8 * 4096, 512, 8)
    assert eight <= 1.02 * two <= (96 if loss is soft_targets else 64)  # a teacher's features travel, too


def test_gradient_of_a_common_shift_is_the_sum_of_cotangents():
    """Adding c to all scores adds c to every log-sum-exp, maximum and expectation."""
    query, key, offset = normal(0, 24, 3), normal(1, 24, 3), np.zeros(24, np.float32)
    wanted = every(("lse", "max", "kth", "expectation"), overs=("negatives", "all"))
    second = normal(2, 24, 3), normal(3, 24, 3)

    def reduced(offset):
        s = scores(query, key, offset=offset, **WHERE, **mesh_of("4"))
        return s.reduce(*wanted, under=scores(*second, **WHERE, **mesh_of("4")))

    cotangents = tuple(normal(i, 24) for i in range(len(wanted)))
    doffset, = jax.jit(lambda o, c: jax.vjp(reduced, o)[1](c))(offset, cotangents)
    np.testing.assert_allclose(doffset.sum(), sum(c.sum() for c in cotangents), atol=1e-3)


def test_identical_keys_give_the_queries_of_a_softmax_no_gradient():
    """InfoNCE row by row: weights over the keys sum to zero."""
    query = normal(0, 24, 6)
    key = np.tile(query[:1], (24, 1))

    def rows(q):
        n, = scores(q, key, scale=2.0, pairing=Diagonal(), **WHERE).reduce(Statistic("lse", "negatives"))
        return jax.nn.softplus(n - pair_scores(q, key, 2.0)).sum()

    assert np.abs(jax.jit(jax.grad(rows))(query)).max() < 1e-5
