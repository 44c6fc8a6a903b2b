"""The pipeline: a pure function of (config, seed, step), whatever the hosts, threads and bad examples."""

import gc
import json
import logging
import multiprocessing
import os
import signal
import threading
import time

from data_samples import lengths, picture
import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data import keyed
from mof_jax.data.image import images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.load import Loader
from mof_jax.data.mixture import Located
from mof_jax.data.pipeline import Batches, DataConfig, Pipeline, texts
from mof_jax.data.reader import _REPLACE
from mof_jax.errors import BadExample, ExitCode, UserError, WorkerLost

TWO = [
    {"kind": "synthetic", "name": "a", "size": 60, "pixels": 24, "weight": 3.0},
    {"kind": "synthetic", "name": "b", "size": 17, "pixels": 24},
]
AUGMENT = {"crop": {}, "jitter": {}, "flip": 0.5}
BASE = {"sources": TWO, "image_size": 16, "chunk": 8, "threads": 2, "prefetch": 2, "augment": AUGMENT}


def pipeline(batch=24, seed=0, index=0, count=1, **values):
    return Pipeline(build(DataConfig, {**BASE, **values}), lengths, batch, seed, index, count)


def take(pipe, n, start=0):
    batches = pipe.batches(start)
    return [next(batches) for _ in range(n)]


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_batch_has_the_stated_shapes():
    (batch, info), *_ = take(pipeline(views=2, captions=3), 1)
    assert batch["image"].shape == (24, 2, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["text"].shape == (24, 3, 2) and batch["text"].dtype == np.int32
    assert batch["group"].shape == (24,) and set(batch["group"].tolist()) == {-1}
    assert info.step == 0 and info.replaced == []
    assert not np.array_equal(batch["image"][:, 0], batch["image"][:, 1])


def test_same_seed_same_batches_other_seed_other_batches():
    one, two = take(pipeline(), 3), take(pipeline(threads=0, chunk=5, prefetch=1), 3)
    assert all(equal(a, b) for (a, _), (b, _) in zip(one, two))
    assert not equal(one[0][0], take(pipeline(seed=1), 1)[0][0])
    assert not equal(one[0][0], one[1][0])


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_concatenated_equal_one_host(count):
    whole = take(pipeline(), 3)
    parts = [take(pipeline(index=i, count=count), 3) for i in range(count)]
    for step in range(3):
        joined = {k: np.concatenate([p[step][0][k] for p in parts]) for k in whole[0][0]}
        assert equal(joined, whole[step][0])


def test_resume_anywhere_on_other_hosts_equals_uninterrupted():
    whole = take(pipeline(), 12)
    for start in (1, 5, 11):
        assert equal(take(pipeline(), 1, start)[0][0], whole[start][0])
        half = take(pipeline(index=1, count=2), 1, start)[0]
        assert half[1].step == start and np.array_equal(half[0]["image"], whole[start][0]["image"][12:])
    assert equal(pipeline().batch(7), whole[7][0])
    arrays, info = next(pipeline().batches(2, skip=5))
    assert equal(arrays, whole[7][0]) and info.step == 7


def test_closing_or_dropping_the_iterator_stops_its_threads():
    before = set(threading.enumerate())
    for end in (lambda b: b.close(), lambda b: None):
        batches = pipeline().batches(3)
        next(batches)
        started = set(threading.enumerate()) - before
        assert started
        end(batches)
        del batches
        gc.collect()
        deadline = time.monotonic() + 10
        while any(thread.is_alive() for thread in started) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(thread.is_alive() for thread in started)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_errors(table):
    whole = take(pipeline(), 3)
    assert all(equal(a, b) for (a, _), (b, _) in zip(whole, take(pipeline(workers=2), 3)))
    spoil(table)
    with pytest.raises(UserError, match="table: record r"):
        take(pipeline(sources=[{"kind": "jsonl", "path": str(table), "name": "table"}], workers=1), 2)


def test_a_killed_worker_is_one_line_and_a_code_that_is_run_again():
    class Rows:
        def __init__(self, says):
            self.says = says

        def __next__(self):
            raise RuntimeError(self.says)

        def close(self):
            pass

    killed = "Worker process was terminated unexpectedly with exit code -9. Search the logs above for the source of the crash."
    with pytest.raises(WorkerLost, match="^data: step 8: Worker process .* exit code -9.*Run it again") as caught:
        next(Batches(Rows(killed), 7, print))
    assert caught.value.code == ExitCode.PEER_LOST and len(str(caught.value).splitlines()) == 1
    with pytest.raises(RuntimeError, match="^another$"):
        next(Batches(Rows("another"), 7, print))


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills():
    batches = pipeline(workers=1).batches()
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="exit code -9"):
        for _ in range(1000):
            next(batches)


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_pictures_are_resized_as_configured(table, mode):
    one = [{"kind": "jsonl", "path": str(table), "name": "t"}]
    pipe = pipeline(sources=one, augment={"fill": 9}, resize=mode, resample="bilinear", shuffle=False)
    for i, image in enumerate(pipe.batch(0)["image"][:10, 0]):
        want = images.resize(images.decode(picture(i)), 16, mode, "bilinear", 9)
        assert np.array_equal(image, np.asarray(want))


@pytest.mark.parametrize("local", [None, {"views": 1, "image_size": 16, "augment": {}}])
def test_training_sees_what_evaluation_sees(table, local):
    """The pixels of `Preprocess`, a library's too, whether or not there are local views."""
    one = [{"kind": "jsonl", "path": str(table), "name": "t"}]
    for wanted in (dict(resize="crop", resize_side=19, pixels="transformers"), dict(resize="squash", pixels="open_clip")):
        pipe = pipeline(sources=one, augment={}, shuffle=False, local=local, **wanted)
        for i, image in enumerate(pipe.batch(0)["image"][:10, 0]):
            assert np.array_equal(image, Preprocess(16, **wanted)(picture(i), "t", str(i)))


def test_ids_name_the_rows_and_describe_the_sources():
    pipe = pipeline(augment={})
    ids = pipe.ids(2)
    assert len(ids) == 24 and {i.split(":")[0] for i in ids} == {"a", "b"}
    source, record = ids[5].split(":")
    want = pipe.loader.rows(Located(*(np.array([v]) for v in ("ab".index(source), int(record), 0))))
    assert np.array_equal(pipe.batch(2)["image"][5], want.arrays["image"][0])
    rows = pipe.describe()
    assert [(r["name"], r["kept"], r["share"]) for r in rows] == [("a", 60, 0.75), ("b", 17, 0.25)]


def test_pictures_only_and_text_only():
    only = Pipeline(build(DataConfig, {**BASE, "captions": 0}), None, 8)
    assert set(only.batch(0)) == {"image", "group"}
    assert set(pipeline(views=0).batch(0)) == {"text", "group"}
    with pytest.raises(UserError, match="tokenizer"):
        Pipeline(build(DataConfig, BASE), None, 8)


def test_cache_changes_nothing_but_speed(table):
    slow, fast = pipeline(augment=AUGMENT), pipeline(cache="decoded")
    for step in range(6):
        assert equal(slow.batch(step), fast.batch(step))
    for mode in ("squash", "shortest", "longest"):
        wide = {"sources": [{"kind": "jsonl", "path": str(table)}], "augment": {"flip": 0.5, "fill": 9}}
        plain = [pipeline(**wide, resize=mode, cache=c) for c in ("none", "decoded")]
        assert all(equal(plain[0].batch(s), plain[1].batch(s)) for s in range(6))
    assert fast.loader._cache and not slow.loader._cache
    tiny = pipeline(cache="decoded", cache_gb=24 * 24 * 4 * 3.5 / 2**30)
    tiny.batch(0)
    assert len(tiny.loader._cache) == 3


def test_epochs_change_crop_and_caption():
    one = [{"kind": "synthetic", "name": "a", "size": 8, "captions": {"probabilities": {"alt": 1.0, "synthetic": 1.0}}}]
    pipe = pipeline(batch=8, sources=one)
    rows = {}
    for step in range(8):
        batch = pipe.batch(step)
        for name, image, text in zip(pipe.ids(step), batch["image"], batch["text"]):
            rows.setdefault(name, []).append((image.tobytes(), text.tobytes()))
    assert all(len(seen) == 8 for seen in rows.values())  # a step is an epoch here
    assert all(len({image for image, _ in seen}) == 8 for seen in rows.values())
    assert sum(len({text for _, text in seen}) == 2 for seen in rows.values()) >= 6


def test_groups_of_different_sources_never_collide(table):
    two = [{"kind": "jsonl", "path": str(table), "name": n} for n in ("x", "y")]
    pipe = pipeline(sources=two, batch=64)
    groups = {}
    for name, group in zip(pipe.ids(0), pipe.batch(0)["group"].tolist()):
        groups.setdefault(name.split(":")[0], set()).add(group)
    assert len(groups["x"]) == len(groups["y"]) == 5 and not groups["x"] & groups["y"]


def spoil(table):
    """Breaks records 3 (truncated), 5 (not an image), 7 (no caption)."""
    (table / "3.jpg").write_bytes(picture(3)[:200])
    (table / "5.jpg").write_text("not an image")
    rows = [json.loads(line) for line in (table / "metadata.jsonl").read_text().splitlines()]
    rows[7] |= {"alt": " ", "synthetic": "", "tags": []}
    (table / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"table:r3", "table:r5", "table:r7"}


def test_skip_replaces_without_shifting(table, caplog):
    config = {"sources": [{"kind": "jsonl", "path": str(table), "name": "table"}], "on_error": "skip", "augment": {}}
    clean = [pipeline(**config).batch(s) for s in range(4)]
    bad = spoil(table)
    pipe = pipeline(**config)
    with caplog.at_level(logging.WARNING, "mof_jax.data"):
        broken = take(pipe, 4)
    for step, (batch, info) in enumerate(broken):
        ids = pipe.ids(step)
        for row, name in enumerate(ids):
            same = np.array_equal(batch["image"][row], clean[step]["image"][row])
            assert same == (name not in bad) or name in bad and name == "table:r7"
        assert {name for name, _ in info.replaced} == bad
        assert len(info.replaced) >= sum(name in bad for name in ids)
    at = pipe.stream.locate(np.arange(24))
    row = next(r for r, i in enumerate(at.index) if i == 5)
    instead = keyed.hash64(0, _REPLACE, 0, 5, 1) % 10
    want = pipe.loader.rows(Located(np.array([0]), np.array([instead]), at.epoch[row : row + 1]))
    assert np.array_equal(broken[0][0]["image"][row], want.arrays["image"][0])
    assert len(caplog.records) == 3 and set(pipe.replaced) == bad  # logged once each, counted every time
    assert sum(pipe.replaced.values()) == sum(len(info.replaced) for _, info in broken)
    halves = [take(pipeline(**config, index=i, count=2), 4) for i in range(2)]
    assert all(
        np.array_equal(np.concatenate([h[s][0]["image"] for h in halves]), broken[s][0]["image"]) for s in range(4)
    )


def test_raise_names_file_and_record(table):
    spoil(table)
    with pytest.raises(BadExample, match=r"table: record r(3|5|7): (broken JPEG|not a PNG|empty caption)"):
        take(pipeline(sources=[{"kind": "jsonl", "path": str(table), "name": "table"}]), 2)


def test_a_source_of_bad_examples_stops_the_run(table):
    for i in range(10):
        (table / f"{i}.jpg").write_text("junk")
    with pytest.raises(UserError, match="32 bad examples in a row.*not a PNG"):
        pipeline(sources=[{"kind": "jsonl", "path": str(table), "name": "t"}], on_error="skip").batch(0)


def test_filtered_source_keeps_its_share(table):
    rule = {"rules": {"dfn": {"minimum": 0.5}}}
    one = {"kind": "jsonl", "path": str(table), "name": "x", "filter": rule}
    pipe = pipeline(sources=[one, TWO[0] | {"weight": 1.0}])
    assert [(r["records"], r["kept"], r["share"]) for r in pipe.describe()] == [(10, 5, 0.5), (60, 60, 0.5)]
    names = {i for s in range(4) for i in pipe.ids(s) if i.startswith("x:")}
    assert names == {f"x:r{i}" for i in range(5, 10)}


@pytest.mark.parametrize(
    "values, says",
    [
        ({"on_error": "ignore"}, "config.on_error: 'ignore' is not one of 'raise', 'skip'"),
        ({"imagesize": 3}, "config.imagesize: unknown key.*did you mean 'image_size'"),
        ({"sources": []}, "at least one"),
        ({"sources": [{"kind": "jsonl"}]}, "config.sources.0: a source of kind 'jsonl' needs a path"),
        ({"sources": [TWO[0], TWO[0]]}, "names of their own"),
        ({"views": 0, "captions": 0}, "cannot both be 0"),
        ({"augment": {"crop": {"scale": (0.0, 1.0)}}}, "config.augment.crop"),
    ],
)
def test_config_mistakes_are_named(values, says):
    with pytest.raises(UserError, match=says):
        build(DataConfig, values)


def test_texts_for_a_vocabulary(table):
    (table / "3.jpg").unlink()
    one = {"kind": "jsonl", "path": str(table), "captions": {"probabilities": {"alt": 1.0}, "templates": ("see {}",)}}
    found = list(texts(build(DataConfig, {"sources": [one]})))
    assert found == ["see {}"] + [f"alt {i}" for i in range(10) if i != 3]
    assert len(list(texts(build(DataConfig, {"sources": [one]}), limit=5))) == 1 + 5
    with_tags = build(DataConfig, {"sources": [one | {"captions": {"probabilities": {"alt": 1.0}, "tags": 1}}]})
    assert {"all", "t9"} < set(texts(with_tags))


def test_uneven_hosts_are_refused():
    with pytest.raises(UserError, match="not a multiple of the 5 processes"):
        pipeline(count=5)


def test_loader_is_picklable_for_worker_processes(table, tars):
    import pickle

    config = build(
        DataConfig,
        {**BASE, "sources": [{"kind": "jsonl", "path": str(table)}, {"kind": "webdataset", "path": str(tars)}]},
    )
    loader = pickle.loads(pickle.dumps(Loader(config, lengths, 0)))
    sources = loader.reader.sources
    assert [len(s) for s in sources] == [10, 6] and sources[0][2].id == "r2"


def test_the_default_config_reads_the_embedded_pictures():
    pipe = Pipeline(build(DataConfig, {}), lengths, 32)
    batch = pipe.batch(0)
    assert batch["image"].shape == (32, 1, 64, 64, 3) and batch["text"].shape == (32, 1, 2)
    assert batch["group"].min() >= 0 and pipe.ids(0)[0].startswith("emoji5:")


def test_what_was_seen_is_what_the_steps_name():
    """Distinct ids of one source, before and after it has been read once; of a mixture what its shares say."""
    pipe = pipeline(sources=[{"kind": "synthetic", "size": 40, "pixels": 8}])
    for steps in (1, 2, 9):
        ids = [name for step in range(steps) for name in pipe.ids(step)]
        assert pipe.seen(steps) == {"examples": len(ids), "unique_examples": len(set(ids))}
    mixed = pipeline(sources=[{"kind": "synthetic", "size": 20, "pixels": 8, "weight": 1.0},
                              {"kind": "synthetic", "size": 10_000, "pixels": 8, "weight": 3.0, "name": "large"}])
    assert mixed.seen(100) == {"examples": 100 * mixed.batch_size, "unique_examples": 20 + 75 * mixed.batch_size}
