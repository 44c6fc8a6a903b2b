"""The global cursor: permutations, shares, random access."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mof_jax.data import keyed
from mof_jax.data.mixture import HostRows, Stream
from mof_jax.errors import UserError

QUICK = settings(max_examples=30, deadline=None)


@QUICK
@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_permutation_is_a_bijection(size, key):
    order = keyed.permute(np.arange(size), size, keyed.hash64_array(key))
    assert sorted(order.tolist()) == list(range(size))


def test_permutation_depends_on_key_and_looks_random():
    a, b = (keyed.permute(np.arange(4096), 4096, keyed.hash64_array(k)) for k in (1, 2))
    assert (a == b).sum() < 20 and abs(np.corrcoef(a, np.arange(4096))[0, 1]) < 0.08
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.08
    # every small permutation occurs, about equally often
    orders = [tuple(keyed.permute(np.arange(3), 3, keyed.hash64_array(k)).tolist()) for k in range(1200)]
    counts = [orders.count(o) for o in set(orders)]
    assert len(counts) == 6 and min(counts) > 140 and max(counts) < 260


@QUICK
@given(parts=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5))
def test_hash_is_the_same_for_scalars_and_arrays(parts):
    assert int(keyed.hash64_array(*parts)[0]) == keyed.hash64(*parts)


def test_hashes_and_orders_are_pinned():
    """A change here changes every run: checkpoints would resume on other data."""
    assert keyed.hash64(1, 2, 3) == 0xB0797EE63A90A031
    assert keyed.permute(np.arange(6), 6, keyed.hash64_array(7)).tolist() == [5, 3, 0, 4, 2, 1]


def test_draws_are_uniform():
    draws = keyed.Draws(3)
    u = np.array([draws.uniform() for _ in range(4000)])
    assert abs(u.mean() - 0.5) < 0.02 and abs(u.var() - 1 / 12) < 0.005
    z = np.array([draws.normal() for _ in range(4000)])
    assert abs(z.mean()) < 0.06 and abs(z.std() - 1) < 0.04
    assert {keyed.Draws(k).weighted([0, 1, 0]) for k in range(50)} == {1}
    assert sorted(keyed.Draws(1).sample("abc", 9)) == ["a", "b", "c"]


@QUICK
@given(weights=st.lists(st.floats(1e-4, 1), min_size=1, max_size=6), blocks=st.integers(1, 50))
def test_shares_are_within_one_over_n(weights, blocks):
    stream = Stream([100] * len(weights), weights, seed=0)
    n = blocks * stream.block
    counts, next_ = stream.counts(n)[0], stream.counts(n + stream.block)[0]
    assert counts.sum() == n and np.all(next_ >= counts)
    assert np.all(np.abs(counts / n - stream.shares) <= 1 / n + 1e-12)


def test_located_counts_equal_the_quotas_and_zero_weight_is_never_drawn():
    stream = Stream([50, 7, 900, 3], [0.6, 0.1, 0.3, 0.0], seed=5)
    n = 3 * stream.block
    counts = np.bincount(stream.locate(np.arange(n)).source, minlength=4)
    assert counts.tolist() == stream.counts(n)[0].tolist() and counts[3] == 0


def test_every_epoch_sees_every_example_once():
    stream = Stream([13, 64], [0.5, 0.5], seed=1)
    found = stream.locate(np.arange(8 * stream.block))
    for source, size in enumerate(stream.sizes):
        mine = found.source == source
        for epoch in range(3):
            seen = found.index[mine & (found.epoch == epoch)]
            assert sorted(seen.tolist()) == list(range(size))
    first, second = (found.index[(found.source == 1) & (found.epoch == e)].tolist() for e in (0, 1))
    assert first != second


def test_random_access_equals_the_sequence_and_scales():
    stream = Stream([1000, 10**9], [0.2, 0.8], seed=2)
    all_ = stream.locate(np.arange(5000))
    one = stream.locate(4321)
    assert [c[0] for c in one] == [c[4321] for c in all_]
    far = stream.locate(10**13 + np.arange(4))
    assert np.all(far.index < stream.sizes[far.source])


def test_no_source_aliases_with_rows():
    """Under a periodic mix at .5/.5, every strided row would hold one source only."""
    stream = Stream([100, 100], [0.5, 0.5], seed=0)
    source = stream.locate(np.arange(64 * 512)).source.reshape(512, 64)  # [steps, rows]
    share = source.mean(axis=0)
    assert share.min() > 0.38 and share.max() < 0.62  # 5 sigma of 512 fair draws
    share = source.mean(axis=1)  # nor does any step hold one source only
    assert share.min() > 0.18 and share.max() < 0.82  # 5 sigma of 64


def test_unshuffled_single_source_is_in_order():
    found = Stream([5], [1.0], seed=0, shuffle=False).locate(np.arange(12))
    assert found.index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1] and found.epoch.tolist()[-1] == 2


def test_hosts_hold_contiguous_blocks():
    stream = Stream([100, 40], [0.7, 0.3], seed=4)
    whole = HostRows(stream, 24).locate(7)
    for count in (2, 4, 8):
        parts = [HostRows(stream, 24, i, count).locate(7) for i in range(count)]
        for column, joined in zip(whole, map(np.concatenate, zip(*parts))):
            assert column.tolist() == joined.tolist()


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Stream([1, 2], [1.0], 0), "one weight a source"),
        (lambda: Stream([1], [-1.0], 0), "not negative"),
        (lambda: Stream([1, 0], [1.0, 1.0], 0), "source 1 of the mixture has no examples"),
        (lambda: Stream([1, 1], [1.0, 1e-12], 0), "weight 0"),
        (lambda: HostRows(Stream([1], [1.0], 0), 10, 0, 4), "batch size 10 is not a multiple of the 4"),
        (lambda: HostRows(Stream([1], [1.0], 0), 8, 4, 4), "process 4 of 4"),
    ],
)
def test_mistakes_are_named(make, says):
    with pytest.raises(UserError, match=says):
        make()
