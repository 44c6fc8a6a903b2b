"""Meshes and features for tests of scores and losses."""

import itertools

import jax
from jax.sharding import Mesh
import numpy as np

from mof_jax.objectives.scores import Statistic

MESHES = {"none": ((), ()), **{str(n): ((n,), ("data",)) for n in (1, 2, 4, 8)},
          **{f"{n}x2": ((n, 2), ("data", "fsdp")) for n in (2, 4)}}
OF_ONE = ("lse", "sum", "count", "logistic", "expit", "max", "kth")
OF_TWO = ("expectation", "weighted")


def mesh_of(name):
    """The arguments that spread a batch over one of `MESHES`."""
    shape, axes = MESHES[name]
    if not axes:
        return {"mesh": None}
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return {"mesh": Mesh(devices, axes), "batch_axes": axes}


def every(kinds=OF_ONE + OF_TWO, sides=("query", "key"), overs=("positives", "negatives", "all")):
    """Every statistic of some kinds."""
    named = [x for x in itertools.product(kinds, overs, sides) if x[:2] != ("logistic", "all")]
    return tuple(Statistic(*x, 3 if x[0] == "kth" else 1) for x in named)


def normal(seed, *shape, dtype=np.float32):
    """Numbers of a normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_close(got, want, tolerance=1e-5, name=""):
    """Equal to `tolerance` of the largest finite entry of `want`, infinities in the same places."""
    got, want = np.float64(got), np.float64(want)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=name)
    largest = np.abs(want[finite]).max(initial=0)
    assert np.abs(got[finite] - want[finite]).max(initial=0) <= tolerance * largest, name
