"""Links in both directions, and a strict account of every tensor."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.links import Link
from mof_jax.interop.transfer import Ignored, Reading, announce, export
from mof_jax.interop.weights import Arrays

RNG = np.random.default_rng(0)


def shapes(**paths):
    return {path.replace("_", "/"): jax.ShapeDtypeStruct(shape, np.float32) for path, shape in paths.items()}


def noise(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("link, ours, theirs", [
    (Link(("a",), ("x",)), [(3, 4)], [(3, 4)]),
    (Link(("a",), ("x",), ones=2), [(4,)], [(1, 1, 4)]),
    (Link(("a",), ("x",), ones=1), [()], [(1,)]),
    (Link(("a",), ("x",), "flat"), [(3, 2, 2)], [(12,)]),
    (Link(("a",), ("q", "k", "v"), "flat"), [(3, 2, 2)], [(4,)] * 3),
    (Link(("a",), ("x",), "linear"), [(5, 7)], [(7, 5)]),
    (Link(("a",), ("q", "k", "v"), "linear"), [(4, 3, 2, 2)], [(4, 4)] * 3),
    (Link(("a",), ("x",), "out"), [(2, 3, 5)], [(5, 6)]),
    (Link(("a",), ("x",), "conv"), [(48, 5)], [(5, 3, 4, 4)]),
    (Link(("q", "k", "v"), ("x",), "linear"), [(4, 4)] * 3, [(12, 4)]),
    (Link(("gate", "up"), ("x",)), [(6,)] * 2, [(12,)]),
])
def test_links_invert_each_other(link, ours, theirs):
    assert link.their_shape(ours[0]) == theirs[0]
    arrays = [noise(*shape) for shape in theirs]
    mine = [link.to_ours(arrays, part, shape) for part, shape in enumerate(ours)]
    back = link.to_theirs(mine)
    assert [x.shape for x in back] == theirs and all(np.array_equal(a, b) for a, b in zip(arrays, back, strict=True))


def test_what_a_link_means():
    """x·kernel of ours is x·weightᵀ of theirs; a fused projection is q, k and v one after the other, head by head."""
    x, q, k, v = noise(2, 4), noise(4, 4), noise(4, 4), noise(4, 4)
    kernel = Link(("a",), ("q", "k", "v"), "linear").to_ours([q, k, v], 0, (4, 3, 2, 2))
    got = np.einsum("bi,inhd->bnhd", x, kernel)
    want = np.stack([(x @ w.T).reshape(2, 2, 2) for w in (q, k, v)], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    picture, weight = noise(4, 4, 3), noise(5, 3, 4, 4)
    conv = Link(("a",), ("x",), "conv").to_ours([weight], 0, (48, 5))
    np.testing.assert_allclose(picture.reshape(-1) @ conv, np.einsum("rcx,oxrc->o", picture, weight), rtol=1e-4)


TABLE = (*links.linear("proj", "proj"), *links.linear("blocks/fc", "layers.{}.fc"), *links.linear("blocks/fc", "old.{}.fc"))
OURS = shapes(proj_kernel=(3, 2), blocks_fc_kernel=(2, 3, 3))


def weights(**change):
    given = {"proj.weight": noise(2, 3)} | {f"layers.{i}.fc.weight": noise(3, 3) for i in range(2)}
    given |= {name.replace("__", "."): x for name, x in change.items()}
    return Arrays({name: x for name, x in given.items() if x is not None}, "m.safetensors")


def test_a_model_takes_what_it_has_and_gives_it_back():
    given = weights()
    reading = Reading(TABLE, OURS, given)
    assert reading.read("blocks/fc/kernel").shape == (2, 3, 3)
    np.testing.assert_array_equal(reading.read("blocks/fc/kernel")[1], given.read("layers.1.fc.weight").T)
    back = dict(export(TABLE, OURS, reading.read))
    assert announce(TABLE, OURS) == {name: x.shape for name, x in back.items()} and set(back) == set(given.names)
    assert all(np.array_equal(back[name], given.read(name)) for name in back)


def test_another_spelling_is_read_and_the_first_is_written():
    first, old = weights(), weights()
    arrays = {name.replace("layers", "old"): old.read(name) for name in old.names}
    reading = Reading(TABLE, OURS, Arrays(arrays))
    assert set(dict(export(TABLE, OURS, reading.read))) == set(first.names)


@pytest.mark.parametrize("change, message", [
    ({"proj__weight": None}, "m.safetensors: proj/kernel is to come from proj.weight, which is not there"),
    ({"layers__1__fc__weight": None}, r"blocks/fc/kernel is to come from layers.1.fc.weight, which is not there"),
    ({"layers__1__fc__weight": noise(3, 4)}, r"layers.1.fc.weight is of shape \[3, 4\], and blocks/fc/kernel needs \[3, 3\]"),
    ({"proj__weight": noise(3, 2)}, r"proj.weight is of shape \[3, 2\], and proj/kernel needs \[2, 3\]"),
    ({"proj__weight": np.ones((2, 3), np.int8)}, "proj.weight holds int8, and proj/kernel needs floats"),
    ({"proj__bias": noise(2), "extra": noise(1)}, "nothing reads proj.bias, extra; the file holds another model"),
])
def test_what_does_not_fit_names_both_sides(change, message):
    with pytest.raises(UserError, match=message):
        Reading(TABLE, OURS, weights(**change))


def test_what_is_left_aside_has_a_reason():
    rules = (Ignored("buffer", "a buffer"), Ignored("mask", "of its training", keep=True),
             Ignored("head", "tied", same_as="proj.weight"))
    given = weights(buffer=noise(3), mask=noise(2))
    tied = Arrays({name: given.read(name) for name in given.names} | {"head": given.read("proj.weight").copy()})
    reading = Reading(TABLE, OURS, tied, rules)
    assert dict(reading.ignored) == {"buffer": "a buffer", "mask": "of its training", "head": "tied"} and reading.kept == ["mask"]
    with pytest.raises(UserError, match="head differs from proj.weight, although the config ties them"):
        Reading(TABLE, OURS, Arrays({name: tied.read(name) for name in tied.names} | {"head": noise(2, 3)}), rules)


def test_a_parameter_without_a_place_is_named():
    with pytest.raises(UserError, match="router/kernel has no counterpart"):
        Reading(TABLE, OURS | shapes(router_kernel=(2, 2)), weights())
    with pytest.raises(UserError, match="router/kernel has no place"):
        announce(TABLE, OURS | shapes(router_kernel=(2, 2)))
