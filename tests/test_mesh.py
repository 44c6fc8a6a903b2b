"""The mesh and where parameters live, without a model: shapes and axis names are enough."""

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.mesh import (
    MeshConfig,
    batch_sharding,
    batch_shards,
    check_batch,
    join_rows,
    make_mesh,
    on_mesh,
    param_shardings,
    part_of_rows,
    put_batch,
    split_rows,
)
from mof_jax.nn.module import Skeleton


def skeleton(**parameters):
    """A skeleton of `path=(shape, axes)`."""
    paths = {path.replace("__", "/"): x for path, x in parameters.items()}
    shapes = {path: jax.ShapeDtypeStruct(shape, "float32") for path, (shape, _) in paths.items()}
    axes = {path: axes for path, (_, axes) in paths.items()}
    return Skeleton(shapes, axes, {}, frozenset(), {}, {}, frozenset(), lambda rngs: None, None, None)


def specs(mesh, skeleton, rules=None):
    return {path: s.spec for path, s in param_shardings(mesh, skeleton, rules).items()}


@pytest.mark.parametrize("config, sizes", [
    (MeshConfig(), (8, 1, 1)), (MeshConfig(fsdp=2), (4, 2, 1)), (MeshConfig(2, -1, 2), (2, 2, 2)),
    (MeshConfig(1, 1, 8), (1, 1, 8))])
def test_sizes(config, sizes):
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == sizes and batch_shards(mesh) == sizes[0] * sizes[1]


@pytest.mark.parametrize("config, message", [
    (MeshConfig(3), "does not cover 8 devices"), (MeshConfig(-1, 3), "does not cover 8 devices"),
    (MeshConfig(-1, -1), "one may be -1"), (MeshConfig(0), "sizes are positive")])
def test_sizes_that_do_not_cover_the_devices(config, message):
    with pytest.raises(UserError, match=message):
        make_mesh(config)


def test_logical_axes_become_mesh_axes():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    got = specs(mesh, skeleton(stacked=((5, 4, 8), ("embed", "mlp")), square=((4, 4), ("embed", "embed")),
                               bias=((3,), (None,)), scalar=((), ())))
    assert got == {"stacked": P(None, "fsdp", "tensor"), "square": P("fsdp", None), "bias": P(None), "scalar": P()}


def test_the_longest_prefix_has_the_last_word():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    w = ((4, 8), ("embed", "mlp"))
    parts = skeleton(image__w=w, text__w=w, text__top__w=w)
    rules = {"text/top": {"embed": "tensor"}, "": {"mlp": None}, "text": {"embed": None, "mlp": "fsdp"}}
    assert specs(mesh, parts, rules) == {
        "image/w": P("fsdp", None), "text/w": P(None, "fsdp"), "text/top/w": P("tensor", "fsdp")}


def test_what_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with pytest.raises(UserError, match=r"config.mesh: image/qkv has 3 heads entries, not divisible by tensor=2"):
        param_shardings(mesh, skeleton(image__qkv=((4, 3, 8), ("embed", "heads", None))))
    with pytest.raises(UserError, match="'embed' is mapped to 'expert'; the mesh has data, fsdp, tensor"):
        param_shardings(mesh, skeleton(w=((4,), ("embed",))), {"": {"embed": "expert"}})


def test_a_function_sees_its_mesh_while_it_is_traced():
    mesh, seen = make_mesh(MeshConfig(2, 2, 2)), []

    def function(x, *, twice: bool):
        seen.append(dict(jax.sharding.get_abstract_mesh().shape))
        return x * (2 if twice else 1)

    y = jax.jit(on_mesh(mesh, function), static_argnames="twice")(3.0, twice=True)
    assert seen == [{"data": 2, "fsdp": 2, "tensor": 2}] and y == 6
    assert jax.sharding.get_abstract_mesh().empty and len(y.devices()) == 1, "its caller computes where it did"


def test_batches():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(mesh, 16, microbatches=4)
    with pytest.raises(UserError, match="config.batch_size: 6 is not divisible by 4 batch shards"):
        check_batch(mesh, 6)
    rows = put_batch(mesh, {"x": np.arange(8)})["x"]
    assert rows.sharding == batch_sharding(mesh)
    held = {int(s.device.id): s.data.tolist() for s in rows.addressable_shards}
    assert sorted(map(tuple, held.values())) == sorted([(0, 1), (2, 3), (4, 5), (6, 7)] * 2)  # both of a tensor pair


def test_a_part_of_the_rows_is_the_one_that_a_split_gives():
    x = jax.numpy.arange(2 * 3 * 4 * 5).reshape(24, 5)
    parts = split_rows(x, 3, 2)
    for i in range(3):
        np.testing.assert_array_equal(part_of_rows(x, i, 3, 2), parts[i])
    np.testing.assert_array_equal(join_rows(parts, 2), x)
