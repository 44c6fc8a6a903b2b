"""Scores that a function of a tile makes: against dense ones, with parameters, on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_cases import assert_close, every, mesh_of, normal

from mof_jax.errors import UserError
from mof_jax.objectives.scores import Diagonal, Groups, Statistic, Valid, scores

QUERIES, KEYS, DIM = 24, 40, 4
GROUPS = Groups(np.arange(QUERIES, dtype=np.int32) % 7, np.arange(KEYS, dtype=np.int32) % 9)


def volume(parameters, query, key):
    """Minus the volume of a key and two features of a query, by the Gram matrix (GRAM, arXiv 2412.11959)."""
    def dot(x, y):
        return jnp.sum(x * y, -1)

    a, b = query["left"][:, None], query["right"][:, None]
    ab, ac, bc = dot(a, b), dot(a, key[None]), dot(b, key[None])
    aa, bb, cc = dot(a, a) + 1, dot(b, b) + 1, dot(key, key)[None] + 1
    return -jnp.sqrt(aa * bb * cc + 2 * ab * ac * bc - aa * bc**2 - bb * ac**2 - cc * ab**2)


def temperatures(parameters, query, key):
    """An inner product at a temperature of its own for every pair, from a small network of both (AMCL)."""
    hidden = jnp.tanh((query @ parameters["query"])[:, None] + (key @ parameters["key"])[None])
    return query @ key.T * jax.nn.softplus(hidden @ parameters["out"] + parameters["layers"])


def best_of_tokens(parameters, query, key):
    """The largest product of a key with the real tokens of a query; integers and booleans ride along."""
    products = jnp.einsum("qtd,kd->qtk", query["tokens"] * parameters, key["features"])
    products += 0.1 * (query["kind"][:, None] == key["kind"])[:, None]
    return jnp.where(query["real"][:, :, None], products, -5).max(1)


def tokens(seed):
    real = np.random.default_rng(seed).random((QUERIES, 3)) < 0.7
    kind = np.arange(QUERIES, dtype=np.int32) % 3
    return {"tokens": normal(seed, QUERIES, 3, DIM), "real": real, "kind": kind}


FUNCTIONS = {
    "volume": (
        volume, None,
        {"left": normal(0, QUERIES, DIM), "right": normal(1, QUERIES, DIM)}, normal(2, KEYS, DIM)),
    "temperatures": (
        temperatures,
        {"query": normal(3, DIM, 5), "key": normal(4, DIM, 5), "out": normal(5, 5), "layers": np.int32(1)},
        normal(6, QUERIES, DIM), normal(7, KEYS, DIM)),
    "best of tokens": (
        best_of_tokens, normal(8, DIM), tokens(9),
        {"features": normal(10, KEYS, DIM), "kind": np.arange(KEYS, dtype=np.int32) % 3}),
}
PLACES = [
    ("volume", "none"), ("volume", "8"), ("temperatures", "2"), ("temperatures", "4x2"),
    ("temperatures", "replicated"), ("temperatures", "blocks"),
    ("best of tokens", "4"), ("best of tokens", "2x2")]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def values_and_gradients(name, statistics, options, parameters, query, key, scale, offset, key_offset):
    """Gradients of everything that has one, and all statistics; expectations are under inner products."""
    def reduced(operands):
        floats = iter(operands[0])
        restored = [next(floats) if has_gradient(x) else x for x in flat]
        p, q, k = jax.tree.unflatten(tree, restored)
        made = scores(q, k, tile=FUNCTIONS[name][0], parameters=p, scale=operands[1], offset=operands[2],
                      key_offset=operands[3], pairing=GROUPS, **dict(options))
        under = scores(normal(11, QUERIES, 3), normal(12, KEYS, 3), scale=0.2, **dict(options))
        values = made.reduce(*statistics, under=under)
        return sum(jnp.where(jnp.isfinite(v), v, 0).sum() for v in values), values

    flat, tree = jax.tree.flatten((parameters, query, key))
    learned = [x for x in flat if has_gradient(x)]
    return jax.grad(reduced, has_aux=True)((learned, scale, offset, key_offset))


def has_gradient(x):
    return jnp.issubdtype(x.dtype, jnp.inexact)


def options_of(place):
    special = {"replicated": mesh_of("8") | {"replicated": True}, "blocks": mesh_of("4") | {"groups": 8}}
    return tuple((special.get(place) or mesh_of(place)).items())


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_streamed_is_dense_with_gradients_of_parameters(name, place):
    """Uneven blocks; parameters' gradients are summed over tiles and devices."""
    options = dict(options_of(place))
    sides = ("query",) if place == "replicated" else ("query", "key")
    statistics = every(("lse", "max", "expit", "expectation"), sides, ("positives", "negatives"))
    operands = *FUNCTIONS[name][1:], np.float32(0.7), normal(13, QUERIES), normal(14, KEYS)
    groups = {k: v for k, v in options.items() if k == "groups"}
    dense = tuple(({"how": "dense"} | groups).items())
    want = values_and_gradients(name, statistics, dense, *operands)
    got = values_and_gradients(name, statistics, (*options.items(), ("block_size", 5)), *operands)
    for i, (a, b) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)):
        assert_close(a, b, name=str(i))
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(want[0]))


@pytest.mark.parametrize("mesh", ["none", "8"])
def test_the_inner_product_as_a_function_is_the_inner_product(mesh):
    """Also in total, and under bfloat16: gradients have the dtypes of what they belong to."""
    query, key = (jnp.asarray(normal(i, 24, DIM), jnp.bfloat16) for i in (0, 1))
    wanted = every(("sum", "expit"), overs=("positives", "negatives"))

    @jax.jit
    def step(query, key, scale):
        def total(query, key, scale, **made):
            return scores(query, key, scale=scale, block_size=2, **made, **mesh_of(mesh)).total(*wanted)

        def product(parameters, q, k):
            return jnp.einsum("id,jd->ij", q, k, preferred_element_type=jnp.float32)

        return [jax.value_and_grad(total, (0, 1, 2))(query, key, scale, **m) for m in ({}, {"tile": product})]

    (value, plain), (same, made) = step(query, key, jnp.float32(0.5))
    np.testing.assert_allclose(same, value, rtol=1e-5)
    assert [x.dtype for x in made] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for a, b in zip(made, plain):
        assert_close(a.astype(jnp.float32), b.astype(jnp.float32), 1e-2)


def test_rows_that_do_not_exist_have_no_gradient():
    query, valid = normal(0, QUERIES, DIM), np.arange(QUERIES) % 3 > 0
    wanted = Statistic("lse", "all"), Statistic("sum", "negatives", "key")

    def total(query, key):
        made = scores(query, key, tile=lambda _, q, k: -((q[:, None] - k[None]) ** 2).sum(-1), block_size=5,
                      pairing=Valid(valid, of=Diagonal()))
        n, m = made.reduce(*wanted)
        return jnp.where(valid, n, 0).sum() + m.sum()

    gradient = jax.grad(total)(query, normal(1, QUERIES, DIM))
    assert not gradient[~valid].any() and (np.abs(gradient[valid]).max(1) > 0).all()


def test_what_a_function_may_not_do_is_named():
    query, key = normal(0, QUERIES, DIM), normal(1, KEYS, DIM)

    def product(_, q, k, t):
        return q @ k.T * t

    def closes_over(temperature):
        return scores(query, key, tile=lambda *x: product(*x, temperature)).total(Statistic("sum"))

    def binds(temperature):
        return scores(query, key, tile=functools.partial(product, t=temperature)).total(Statistic("sum"))

    with pytest.raises(UserError, match="'temperature', a traced value that .*: make it a parameter"):
        jax.grad(closes_over)(2.0)
    with pytest.raises(UserError, match="'t', a traced value"):
        jax.jit(binds)(2.0)
    with pytest.raises(UserError, match=r"tile gives .*\(40, 24\).* for 24 queries and 40 keys"):
        scores(query, key, tile=lambda _, q, k: k @ q.T)
    with pytest.raises(UserError, match="parameters are those of `tile`"):
        scores(query, key, parameters=1.0)
    with pytest.raises(UserError, match="query: its arrays must have one number of rows"):
        scores({"a": query, "b": key}, key, tile=volume)


@pytest.mark.parametrize("how", ["dense", "streamed"])
def test_weights_that_a_function_makes_can_be_learned(how):
    """A soft target with parameters of its own: gradients of both matrices, against the textbook."""
    _, parameters, query, key = FUNCTIONS["temperatures"]
    features = normal(15, QUERIES, 3), normal(16, KEYS, 3)

    @jax.jit
    def step(*operands):
        def expected(parameters, query, key, left, right):
            where = mesh_of("4") | {"how": how, "block_size": 5, "precision": "highest"}
            learned = scores(query, key, tile=temperatures, parameters=parameters | {"layers": 1}, **where)
            s = scores(left, right, **where)
            return s.reduce(Statistic("expectation", "all"), under=learned, learn_under=True)[0].sum()

        def textbook(parameters, query, key, left, right):
            made = temperatures(parameters | {"layers": 1}, query, key)
            return (jax.nn.softmax(made) * (left @ right.T)).sum()

        return [jax.value_and_grad(f, range(5))(*operands) for f in (expected, textbook)]

    learned = {name: x for name, x in parameters.items() if name != "layers"}
    with jax.default_matmul_precision("highest"):
        got, want = step(learned, query, key, *features)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b, 2e-5)
