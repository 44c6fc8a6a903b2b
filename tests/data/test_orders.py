"""Orders are pure functions of the position: groups of one label, mined partners, weights that change."""

from __future__ import annotations

import json
import logging
import pickle

from data_samples import lengths
import numpy as np
import pytest

from mof_jax import cli
from mof_jax.config import build, flatten, to_dict
from mof_jax.data.config import DataConfig
from mof_jax.data.mixture import Stream
from mof_jax.data.orders import ORDERS
from mof_jax.data.orders.shuffled import follows_steps
from mof_jax.data.pipeline import Pipeline
from mof_jax.errors import UserError

A = {"kind": "synthetic", "name": "a", "size": 60, "pixels": 8}
B = {"kind": "synthetic", "name": "b", "size": 17, "pixels": 8, "weight": 2.0}
BASE = {"sources": [A], "views": 0, "chunk": 8, "threads": 0}
LABELS = np.arange(60) * 7 % 5 - (np.arange(60) % 20 == 0)  # 0 … 4, and -1 for three of the records


def pipeline(order, batch=8, seed=0, index=0, count=1, steps=None, **values):
    return Pipeline(build(DataConfig, {**BASE, "order": order, **values}), lengths, batch, seed, index, count, steps=steps)


def located(pipe, n):
    return [tuple(map(int, row)) for row in zip(*pipe.stream.locate(np.arange(n)))]


@pytest.fixture
def labels(tmp_path):
    """`LABELS` as a `.npy` without ids, and the same by id in another order."""
    np.save(tmp_path / "rows.npy", LABELS)
    turned = np.random.default_rng(0).permutation(60)
    np.save(tmp_path / "ids.npy", LABELS[turned])
    (tmp_path / "ids.txt").write_text("\n".join(f"{i:08d}" for i in turned))
    return tmp_path


@pytest.fixture
def neighbours(tmp_path):
    """Row i's neighbours are i + 1, i + 2 (mod 60) and none; the same by id, numbers of the file's rows."""
    table = np.stack([(np.arange(60) + 1) % 60, (np.arange(60) + 2) % 60, np.full(60, -1)], 1)
    np.save(tmp_path / "rows.npy", table)
    turned = np.random.default_rng(0).permutation(60)
    place = np.argsort(turned)  # of each record in the file
    np.save(tmp_path / "ids.npy", np.where(table[turned] >= 0, place[table[turned]], -1))
    (tmp_path / "ids.txt").write_text("\n".join(f"{i:08d}" for i in turned))
    return tmp_path


ALL = {
    "shuffled": lambda folder: dict(kind="shuffled", weights=[(3, {"a": 5.0}), (7, {"b": 0.0})]),
    "grouped": lambda folder: dict(kind="grouped", path={"a": f"{folder}/rows.npy"}, size=4),
    "mined": lambda folder: dict(kind="mined", path={"a": f"{folder}/n.npy", "b": f"{folder}/m.npy"}, partners=3),
}


@pytest.mark.parametrize("kind", sorted(ALL))
def test_the_position_is_all_there_is(kind, labels):
    """Any step by itself, on any number of hosts, is what a run that never stopped sees there; another seed
    sees another."""
    np.save(labels / "n.npy", np.arange(180).reshape(60, 3) * 11 % 60)
    np.save(labels / "m.npy", np.arange(51).reshape(17, 3) * 5 % 17)
    order, sources = ALL[kind](labels), [A, B]
    whole = located(pipeline(order, sources=sources), 12 * 8)
    batches = pipeline(order, sources=sources).batches()
    texts = [next(batches)[0]["text"] for _ in range(12)]
    for step in (0, 3, 11):
        half = pipeline(order, sources=sources, index=1, count=2)
        np.testing.assert_array_equal(half.batch(step)["text"], texts[step][4:])
        resumed = pipeline(order, sources=sources).batches(step)
        np.testing.assert_array_equal(next(resumed)[0]["text"], texts[step])
    shuffled = np.random.default_rng(0).permutation(96)
    pieces = pipeline(order, sources=sources).stream.locate(shuffled)
    assert [tuple(map(int, row)) for row in zip(*pieces)] == [whole[p] for p in shuffled]
    assert located(pipeline(order, sources=sources, seed=1), 96) != whole
    assert build(DataConfig, json.loads(json.dumps(to_dict(pipeline(order, sources=sources).config)))).order == build(
        DataConfig, {**BASE, "order": order}).order


# Shuffled, with weights over time


def test_without_a_schedule_it_is_the_stream_of_before():
    pipe = pipeline({}, sources=[A, B])
    assert type(pipe.stream) is Stream and located(pipe, 500) == located(pipeline(dict(kind="shuffled", weights=[(0, {})]),
                                                                                sources=[A, B]), 500)


def test_weights_change_at_their_step_and_epochs_go_on():
    order = dict(kind="shuffled", weights=[(0, {"a": 1.0, "b": 0.0}), (5, {"b": 1.0}), (200, {"a": 0.0})])
    pipe = pipeline(order, sources=[A, B])
    source, index, epoch = pipe.stream.locate(np.arange(8 * 300))
    assert (source[: 5 * 8] == 0).all() and (source[200 * 8:] == 1).all()
    middle = source[5 * 8 : 200 * 8]
    assert middle[:1024].mean() == 0.5 and abs(middle.mean() - 0.5) < 0.03, "exact in a block"
    for k, size in ((0, 60), (1, 17)):  # whatever the weights were, a source is read once before it is read twice
        own = np.flatnonzero(source[: 200 * 8] == k)
        assert sorted(epoch[own].tolist()) == [n // size for n in range(len(own))], "no draw left out, none taken twice"
        assert len(set(zip(index[own].tolist(), epoch[own].tolist()))) == len(own)
    drawn = pipe.stream.drawn(8 * 300)
    assert np.abs(drawn - np.bincount(source)).max() <= 2
    assert pipe.seen(300) == {"examples": 2400, "unique_examples": 77} and pipe.seen(4)["unique_examples"] == 32


def test_a_share_is_of_the_steps_of_the_run():
    order = lambda begin: dict(kind="shuffled", weights=[(begin, {"a": 0.0})])
    assert located(pipeline(order(0.25), sources=[A, B], steps=40), 200) == located(pipeline(order(10), sources=[A, B]), 200)
    with pytest.raises(UserError, match=r"config.data.order.weights.0: 0.25 is a share .* not known"):
        pipeline(order(0.25), sources=[A, B])
    flat = lambda begin: flatten({"data": to_dict(build(DataConfig, {**BASE, "order": order(begin)}))})
    assert follows_steps(flat(0.25)) and not follows_steps(flat(10)) and not follows_steps(flat(0))


@pytest.mark.parametrize("weights, says", [
    ([(3, {"c": 1.0})], r"config.data.order.weights.0: no source 'c'"),
    ([(3, {}), (3, {})], r"config.data.order.weights.1: step 3 does not come after step 3"),
    ([(2.5, {})], r"config.data.order.weights.0: 2.5 is no share"),
    ([(3, {"a": 0.0, "b": 0.0})], r"mixture weights must be .* not all 0"),
    ([(-3, {})], r"config.order.weights.0.0: -3"),
    ([(3, {"a": -1.0})], r"config.order.weights.0.1.a: -1.0"),
])
def test_a_schedule_that_is_none_is_named(weights, says):
    with pytest.raises(UserError, match=says):
        pipeline(dict(kind="shuffled", weights=weights), sources=[A, B])


# Grouped


@pytest.mark.parametrize("file", ["rows.npy", "ids.npy"])
def test_every_run_is_of_one_label(labels, file, caplog):
    with caplog.at_level(logging.WARNING, "mof_jax.data"):
        pipe = pipeline(dict(kind="grouped", path=f"{labels}/{file}", size=4), batch=8)
    assert "3 of 60 records are in no run of 4" in caplog.text
    _, index, epoch = pipe.stream.locate(np.arange(4 * 200))
    runs = LABELS[index].reshape(-1, 4)
    assert (runs == runs[:, :1]).all() and (runs >= 0).all()
    assert (np.diff(epoch) >= 0).all()
    for e in range(5):  # an epoch has every run once, no record twice, and other records are left over each time
        own = index[epoch == e]
        assert len(set(own.tolist())) == len(own) == 4 * sum(n // 4 for n in np.bincount(LABELS[LABELS >= 0]))
    assert len({frozenset(index[epoch == e].tolist()) for e in range(5)}) > 1
    assert set(index.tolist()) == set(np.flatnonzero(LABELS >= 0).tolist())


def test_both_kinds_of_files_give_one_order(labels):
    orders = [dict(kind="grouped", path=f"{labels}/{file}") for file in ("rows.npy", "ids.npy")]
    assert located(pipeline(orders[0]), 400) == located(pipeline(orders[1]), 400)
    skipped = dict(sources=[A | {"skip": 10}])
    assert located(pipeline(orders[0], **skipped), 400) == located(pipeline(orders[1], **skipped), 400)
    index = pipeline(orders[0], **skipped).stream.locate(np.arange(400)).index
    assert len(set(LABELS[10:][index].reshape(-1, 8)[0].tolist())) == 1


def test_by_default_a_run_is_of_one_source():
    pipe = pipeline(dict(kind="grouped", size=4), sources=[A, B])
    source, index, _ = pipe.stream.locate(np.arange(4 * 600))
    runs = source.reshape(-1, 4)
    assert (runs == runs[:, :1]).all() and abs(source.mean() - 2 / 3) < 0.01
    assert set(index[source == 1].tolist()) == set(range(17))


def test_stored_order_keeps_labels_in_order(labels):
    pipe = pipeline(dict(kind="grouped", path=f"{labels}/rows.npy", size=2), shuffle=False)
    index = pipe.stream.locate(np.arange(20)).index
    assert index.tolist()[:6] == np.flatnonzero(LABELS == 0)[:6].tolist()


def test_a_bad_record_is_replaced_by_one_of_its_label(tmp_path):
    rows = [{"id": f"r{i}", "alt": f"{i % 2} {i}" if i not in (3, 4) else None, "image": "0.png"} for i in range(12)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "l.csv").write_text("id,label\n" + "\n".join(f"r{i},{i % 2}" for i in range(12)))
    (tmp_path / "0.png").write_bytes(b"")
    words = []
    tokenizer = lambda texts: words.extend(texts) or lengths(texts)
    values = dict(sources=[dict(kind="jsonl", path=str(tmp_path / "t.jsonl"))], on_error="skip",
                  order=dict(kind="grouped", path=f"{tmp_path}/l.csv", size=6))
    pipe = Pipeline(build(DataConfig, {**BASE, **values}), tokenizer, 6, 0)
    for step in range(10):
        words.clear()
        pipe.batch(step)
        assert len({word[0] for word in words}) == 1

@pytest.mark.parametrize("content, order, says", [
    (np.arange(60), dict(size=8), r"x.npy: no label has 8 of the 60 records of a; make data.order.size smaller"),
    (np.zeros(59, int), {}, r"x.npy: 59 rows without ids, and a has 60 records"),
    (np.full(60, -2), {}, r"x.npy row 1: -2 is no label"),
    (np.full(60, 0.5), {}, r"x.npy row 1: 0.5 is no label"),
    (np.zeros((60, 2), int), {}, r"x.npy: one label a record is needed, and it holds \(60, 2\)"),
    (np.zeros(60, int), dict(size=3), r"config.data.order.size: 3 rows belong together, and the batch of 8"),
])
def test_labels_that_do_not_fit_are_one_line(tmp_path, content, order, says):
    np.save(tmp_path / "x.npy", content)
    with pytest.raises(UserError, match=says):
        pipeline(dict(kind="grouped", path=str(tmp_path / "x.npy"), **order))


# Mined


@pytest.mark.parametrize("file", ["rows.npy", "ids.npy"])
def test_partners_follow_their_example(neighbours, file, caplog):
    with caplog.at_level(logging.WARNING, "mof_jax.data"):
        pipe = pipeline(dict(kind="mined", path=f"{neighbours}/{file}", partners=3))
    assert f"{file}: 33.3% of the partners are missing, and drawn at random" in caplog.text
    _, index, epoch = pipe.stream.locate(np.arange(4 * 180))
    runs = index.reshape(-1, 4)
    np.testing.assert_array_equal(runs[:, 1], (runs[:, 0] + 1) % 60)
    np.testing.assert_array_equal(runs[:, 2], (runs[:, 0] + 2) % 60)
    for e in range(3):
        assert sorted(runs[60 * e : 60 * e + 60, 0].tolist()) == list(range(60)), "an epoch has every example once in front"
    assert len(set(runs[:, 3].tolist())) > 40, "a partner that is not there is any record"
    assert (epoch.reshape(-1, 4) == epoch.reshape(-1, 4)[:, :1]).all()


def test_a_partner_that_a_filter_dropped_is_any_other(neighbours):
    pipe = pipeline(dict(kind="mined", path=f"{neighbours}/rows.npy"), sources=[A | {"skip": 30}])
    runs = pipe.stream.locate(np.arange(60)).index.reshape(-1, 2)
    assert runs.max() < 30
    inside = runs[:, 0] != 29  # the neighbour of the last record is the first stored one, which is skipped
    np.testing.assert_array_equal(runs[inside, 1], runs[inside, 0] + 1)


@pytest.mark.parametrize("content, values, says", [
    (np.full((60, 2), 60), {}, r"x.npy row \d+: neighbour 60 is none of 60 rows"),
    (np.full((60, 2), -2), {}, r"x.npy row \d+: neighbour -2 is none of 60 rows"),
    (np.zeros((60, 2)), {}, r"x.npy: whole numbers \[n, 1 or more\] are needed, and it holds float64 \(60, 2\)"),
    (np.zeros((60, 2), int), dict(partners=3), r"x.npy: whole numbers \[n, 3 or more\]"),
    (np.zeros((60, 2), int), dict(partners=2), r"config.data.order.partners: 3 rows belong together, and the batch of 8"),
])
def test_neighbours_that_do_not_fit_are_one_line(tmp_path, content, values, says):
    np.save(tmp_path / "x.npy", content)
    with pytest.raises(UserError, match=says):
        pipeline(dict(kind="mined", path=str(tmp_path / "x.npy"), **values)).batch(0)


def test_every_source_that_is_read_has_neighbours(neighbours):
    with pytest.raises(UserError, match="no file of neighbours for source 'b'"):
        pipeline(dict(kind="mined", path={"a": f"{neighbours}/rows.npy"}), sources=[A, B])
    with pytest.raises(UserError, match="a file of neighbours is needed"):
        build(DataConfig, {**BASE, "order": dict(kind="mined")})


# Promises


@pytest.mark.parametrize("kind", sorted(ALL))
def test_an_order_travels_to_worker_processes_without_its_maps(kind, labels):
    np.save(labels / "n.npy", np.arange(180_000).reshape(60, 3000) * 11 % 60)
    np.save(labels / "m.npy", np.arange(51).reshape(17, 3) * 5 % 17)
    stream = pipeline(ALL[kind](labels), sources=[A, B]).stream
    sent = pickle.dumps(stream)
    assert len(sent) < 50_000
    for one, other in zip(stream.locate(np.arange(100)), pickle.loads(sent).locate(np.arange(100))):
        np.testing.assert_array_equal(one, other)


def test_what_a_file_holds_belongs_to_the_run(labels):
    order = dict(kind="grouped", path=f"{labels}/rows.npy", size=4)
    before = pipeline(order).content()
    assert set(before) == {"sources", "order"} and set(pipeline({}).content()) == {"sources"}
    assert pipeline(order).content() == before
    np.save(labels / "rows.npy", (LABELS + 2) % 5)
    assert pipeline(order).content() != before


def test_mof_list_orders(capsys):
    cli.main(["list", "orders"])
    printed = capsys.readouterr().out
    assert set(ORDERS) == {"shuffled", "grouped", "mined"} and all(kind in printed for kind in ORDERS)
