"""Meshes and features for tests of scores and losses."""

import jax
from jax.sharding import Mesh
import numpy as np

from mof_jax.objectives.scores import Statistic

MESHES = {"none": ((), ()), "1": ((1,), ("data",)), "2": ((2,), ("data",)), "4": ((4,), ("data",)),
          "8": ((8,), ("data",)), "2x2": ((2, 2), ("data", "fsdp")), "4x2": ((4, 2), ("data", "fsdp"))}  # fmt: skip
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
    return tuple(Statistic(kind, over, side, 3 if kind == "kth" else 1) for kind in kinds for over in overs for side in sides
                 if (kind, over) != ("logistic", "all"))


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
