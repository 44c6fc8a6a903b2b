"""One stream: rows that hold whole samples, shares that come out, a state that is all there is."""

import numpy as np
import pytest
from sequence_samples import sample

from mof_jax.data import keyed
from mof_jax.data.packing.packer import Packer, Shape, State, check_cursor
from mof_jax.errors import UserError

K, S = 4, 64
SHAPE = Shape(rows=3, length=S, images=20, image_tokens=K, image_size=8, pad_id=7, carry=16, lookahead=12)
WEIGHTS = (0.45, 0.45, 0.1)


def read(kind, draw, replaced):
    """Captions, pages with up to three pictures, and text, of lengths that the draw decides."""
    draws = keyed.Draws(kind, draw)
    name = f"{kind}/{draw}"
    if kind == 0:
        return sample(K + 2 + draws.below(6), (1,), K, name=name)
    if kind == 1:
        n = 1 + draws.below(3)
        gap = 3 + draws.below(6)
        return sample(2 + n * (K + gap), tuple(1 + i * (K + gap) for i in range(n)), K, name=name)
    return sample(4 + draws.below(40), name=name)


def packer(state=None, weights=WEIGHTS, shape=SHAPE):
    return Packer(shape, weights, read, state or State.fresh(len(weights)))


@pytest.fixture(scope="module")
def steps():
    p = packer()
    return [p.next() for _ in range(1000)]


def test_rows_hold_whole_samples(steps):
    for step in steps[:50]:
        a = step.arrays
        used = 0
        for row in range(SHAPE.rows):
            at = 0
            for number, (_, kind, draw) in enumerate([p for p in step.placed if p[0] == row], 1):
                want = read(kind, draw, [])
                here = slice(at, at + len(want))
                assert np.array_equal(a["tokens"][row, here], want.tokens) and set(a["segment_ids"][row, here]) == {number}
                assert np.array_equal(a["positions"][row, here], np.arange(len(want)))
                assert np.array_equal(a["loss_weight"][row, here], want.supervised)
                index = np.full(len(want), -1)
                for start, picture in zip(want.starts, want.pictures):
                    index[start : start + K] = used * K + np.arange(K)
                    assert np.array_equal(a["images"][used], picture)
                    used += 1
                assert np.array_equal(a["image_index"][row, here], index)
                at += len(want)
            rest = slice(at, None)
            assert not a["segment_ids"][row, rest].any() and set(a["tokens"][row, rest]) <= {SHAPE.pad_id}
            assert not a["loss_weight"][row, rest].any() and set(a["image_index"][row, rest]) <= {-1}
        assert a["image_valid"].tolist() == [i < used for i in range(SHAPE.images)] and not a["images"][used:].any()
        assert a["fill_images"] == np.float32(used / SHAPE.images)
        assert np.isclose(a["fill_tokens"][0], (a["segment_ids"] > 0).mean())


def test_every_draw_is_placed_once_and_in_the_end(steps):
    placed = [(kind, draw) for step in steps for _, kind, draw in step.placed]
    assert len(set(placed)) == len(placed)
    state = State.unpack(steps[-1].arrays["cursor"][0], 3)
    drawn = {(kind, draw) for kind, n in enumerate(state.draws) for draw in range(n)}
    assert drawn == set(placed) | set(state.carried) and len(state.carried) <= SHAPE.carry
    # Nothing waits for ever: what was carried is placed within a few steps.
    oldest = {key: number for number, step in enumerate(steps) for key in State.unpack(step.arrays["cursor"][0], 3).carried}
    first = {}
    for number, step in enumerate(steps):
        for key in State.unpack(step.arrays["cursor"][0], 3).carried:
            first.setdefault(key, number)
    assert max(oldest[key] - first[key] for key in first) < 12


def test_shares_are_the_weights_within_one_percent(steps):
    realised = np.array(State.unpack(steps[-1].arrays["cursor"][0], 3).tokens, float)
    placed = np.zeros(3)
    for step in steps:
        for _, kind, draw in step.placed:
            placed[kind] += read(kind, draw, []).size
    assert np.abs(realised / realised.sum() - WEIGHTS).max() < 0.01
    assert np.abs(placed / placed.sum() - WEIGHTS).max() < 0.01
    assert sum(step.arrays["kind_tokens"][0] for step in steps).tolist() == realised.tolist()


def test_rows_and_buffer_are_full(steps):
    tokens = np.mean([step.arrays["fill_tokens"] for step in steps])
    pictures = np.mean([step.arrays["fill_images"] for step in steps])
    assert tokens > 0.95 and pictures > 0.85, (tokens, pictures)


def test_the_state_is_all_there_is(steps):
    for at in (0, 1, 17, 500):
        p = packer(State.unpack(steps[at].arrays["cursor"][0], 3))
        for want in steps[at + 1 : at + 4]:
            got = p.next()
            assert got.placed == want.placed and got.arrays.keys() == want.arrays.keys()
            assert all(got.arrays[k].tobytes() == want.arrays[k].tobytes() for k in want.arrays)


def test_counters_beyond_32_bits():
    state = State([5, 2**40 + 3], [2**31, 2**33 - 1], [(1, 2**40 + 1), (0, 4)])
    vector = state.pack(4)
    assert vector.dtype == np.int32 and vector.shape == (State.width(2, 4),) and State.unpack(vector, 2) == state


def test_a_buffer_too_small_for_the_mixture_slows_the_rows_and_keeps_the_shares():
    p = packer(shape=Shape(**{**SHAPE.__dict__, "images": 4}))
    for _ in range(600):
        last = p.next()
    realised = np.array(State.unpack(last.arrays["cursor"][0], 3).tokens, float)
    assert np.abs(realised / realised.sum() - WEIGHTS).max() < 0.02
    assert last.arrays["fill_images"] == 1 and last.arrays["fill_tokens"] < 0.8


def test_a_cursor_of_another_packing_is_refused():
    check_cursor(np.zeros((4, 60), np.int32), 4, 60)
    with pytest.raises(UserError, match="cursor is 4x60, this config needs 8x60; batch_size"):
        check_cursor(np.zeros((4, 60), np.int32), 8, 60)


def test_a_sample_that_fits_no_step_is_a_fault_of_the_program():
    with pytest.raises(ValueError, match="fits no step"):
        Packer(SHAPE, (1.0,), lambda *_: sample(S + 1), State.fresh(1)).next()
