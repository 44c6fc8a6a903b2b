"""Packed batches: a pure function of (config, seed, cursor), whatever the hosts, threads and bad examples."""

import gc
import json
import logging
import threading
import time

from data_samples import picture
import numpy as np
import pytest
from sequence_samples import tokenizer

from mof_jax.config import build
from mof_jax.data.packing.sequence_pipeline import SequenceConfig, SequencePipeline, texts
from mof_jax.data.text import tokenizers
from mof_jax.errors import BadExample, UserError

KINDS = {
    "caption": {"weight": 0.45,
                "sources": [{"kind": "synthetic", "size": 50, "pixels": 16}, {"captions": {"tags": 2}, "weight": 3.0}]},
    "pages": {"weight": 0.45, "kind": "interleaved", "sources": [{"kind": "pages", "size": 300}]},
    "text": {"weight": 0.1, "sources": [{"kind": "glossary", "size": 300}]},
    "questions": {"weight": 0.3, "kind": "chat", "template": "simple",
                  "sources": [{"kind": "scenes", "size": 500, "pixels": 16}]},
}
BASE = {"kinds": KINDS, "context_length": 256, "rows_per_stream": 2, "images_per_stream": 24, "max_images": 8,
        "tokens_per_image": 4, "image_size": 8, "on_long": "truncate", "threads": 2, "carry": 16}
BATCH = 8  # four streams


def pipeline(index=0, count=1, seed=0, batch=BATCH, **values):
    return SequencePipeline(build(SequenceConfig, {**BASE, **values}), tokenizer(), batch, seed, index, count)


def take(pipe, n, start=0, cursor=None):
    batches = pipe.batches(start, cursor)
    try:
        return [next(batches) for _ in range(n)]
    finally:
        batches.close()


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.fixture(scope="module")
def whole():
    pipe = pipeline()
    return pipe, take(pipe, 12)


def test_batch_has_the_stated_shapes(whole):
    pipe, steps = whole
    batch, info = steps[0]
    grid = (BATCH, 256)
    want = {"tokens": (np.int32, grid), "segment_ids": (np.int32, grid), "positions": (np.int32, grid),
            "loss_weight": (np.float32, grid), "image_index": (np.int32, grid), "images": (np.uint8, (96, 8, 8, 3)),
            "image_valid": (np.bool_, (96,)), "cursor": (np.int32, pipe.cursor.shape), "fill_tokens": (np.float32, (4,)),
            "fill_images": (np.float32, (4,)), "kind_tokens": (np.float32, (4, 4))}
    assert {k: (v.dtype, v.shape) for k, v in batch.items()} == want
    assert info.step == 0 and info.replaced == [] and pipe.kinds == ("caption", "pages", "questions", "text")
    assert batch["image_index"].max() < 24 * 4  # inside the stream's own buffer
    assert not batch["loss_weight"][batch["image_index"] >= 0].any() and not batch["loss_weight"][batch["positions"] == 0].any()


def test_a_stream_is_its_own_pipeline_of_the_global_draws(whole):
    """Documents are told apart by their ids; no draw is read twice, and none is left out, whatever the stream."""
    pipe, steps = whole
    seen = [(v, kind, draw * 4 + v) for step in range(12) for v, rows in enumerate(pipe._placed[step]) for _, kind, draw in rows]
    draws = [(kind, draw) for _, kind, draw in seen]
    assert len(set(draws)) == len(draws)
    for kind in range(4):
        mine = sorted(draw for k, draw in draws if k == kind)
        assert mine[: len(mine) // 2] == list(range(len(mine) // 2)) or len(mine) < 40
    assert set(pipe.ids(3)) <= {pipe.reader.id(kind, draw) for kind, draw in draws}
    assert len(pipe.ids(3)) == sum(map(len, pipe._placed[3])) and pipe.ids(99) == []


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_concatenated_equal_one_host(whole, count):
    parts = [take(pipeline(i, count), 4) for i in range(count)]
    for step in range(4):
        joined = {k: np.concatenate([p[step][0][k] for p in parts]) for k in whole[1][0][0]}
        assert same(joined, whole[1][step][0])


@pytest.mark.parametrize("start", [1, 2, 7, 11])
def test_resume_from_the_cursor_on_any_number_of_hosts(whole, start):
    cursor = whole[1][start - 1][0]["cursor"]
    for count in (1, 2, 4):
        parts = [take(pipeline(i, count), 12 - start, start, cursor) for i in range(count)]
        for step in range(start, 12):
            joined = {k: np.concatenate([p[step - start][0][k] for p in parts]) for k in whole[1][0][0]}
            assert same(joined, whole[1][step][0]) and parts[0][step - start][1].step == step


def test_batches_are_skipped_from_a_cursor(whole):
    """They are those that would have come, on any number of hosts."""
    for count in (1, 2):
        parts = [pipeline(i, count).batches(3, whole[1][2][0]["cursor"], skip=4) for i in range(count)]
        for step in (7, 8):
            found = [next(part) for part in parts]
            assert same({k: np.concatenate([arrays[k] for arrays, _ in found]) for k in whole[1][0][0]}, whole[1][step][0])
            assert found[0][1].step == step


def test_threads_change_nothing(whole):
    for threads, prefetch in ((0, 1), (1, 1), (5, 3)):
        assert all(same(a, b) for (a, _), (b, _) in zip(take(pipeline(threads=threads, prefetch=prefetch), 3), whole[1]))
    assert same(pipeline().batch(5, whole[1][4][0]["cursor"]), whole[1][5][0])
    assert not same(pipeline(seed=1).batch(), whole[1][0][0])


def test_a_kind_reads_the_same_whatever_stands_beside_it():
    alone, beside = pipeline(kinds={"caption": KINDS["caption"]}), pipeline()
    assert [alone.reader.id(0, n) for n in range(40)] == [beside.reader.id(0, n) for n in range(40)]
    reordered = pipeline(kinds={name: KINDS[name] for name in reversed(KINDS)})
    assert same(reordered.batch(), beside.batch())


def test_shares_sources_and_fill_of_the_embedded_mixture():
    pipe = pipeline(batch=4, threads=0, rows_per_stream=4, images_per_stream=34)
    steps = take(pipe, 400)
    fill = np.mean([[b["fill_tokens"][0], b["fill_images"][0]] for b, _ in steps], axis=0)
    assert fill[0] >= 0.95 and fill[1] >= 0.85, fill
    shares, total = pipe.shares(steps[-1][0]["cursor"]), sum(kind["weight"] for kind in KINDS.values())
    assert all(abs(shares[name] - kind["weight"] / total) < 0.01 for name, kind in KINDS.items()), shares
    captions = [name.split(":")[0] for step in range(144, 400) for name in pipe.ids(step) if name.startswith("caption/")]
    assert abs(np.mean([name == "caption/emoji5" for name in captions]) - 0.75) < 0.05
    rows = {row["name"]: row for row in pipe.describe()}
    assert rows["caption/emoji5"]["share"] == pytest.approx(0.45 / 1.3 * 0.75) and rows["pages/pages"]["kept"] == 300


def test_pictures_and_answers_are_those_of_the_documents(whole):
    """Every question of the batch carries its own scene's picture and its own answer."""
    from mof_jax.data.image import images
    from mof_jax.data.sources import SOURCES, open_source
    
    pipe, steps = whole
    world = open_source(SOURCES["scenes"](size=500, pixels=16))
    by_id = {world.id(i): world[i] for i in range(500)}
    batch, found = steps[2][0], 0
    names = iter(pipe.ids(2))
    for row in range(BATCH):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            name = next(names)
            here = np.flatnonzero(batch["segment_ids"][row] == segment)
            if not name.startswith("questions/"):
                continue
            record = by_id[name.partition(":")[2]]
            learned = batch["tokens"][row, here][batch["loss_weight"][row, here] > 0]
            assert tokenizer().decode(learned) == record.attributes["answer"] and learned[-1] == tokenizer().eos_id
            index = batch["image_index"][row, here]
            first = index[index >= 0][0]
            assert index[index >= 0].tolist() == list(range(first, first + 4)) and first % 4 == 0
            pixels = images.to_array(images.resize(images.decode(record.image), 8))
            assert np.array_equal(batch["images"][row // 2 * 24 + first // 4], pixels)
            found += 1
    assert found >= 10


def test_closing_or_dropping_the_iterator_stops_its_threads():
    before = threading.active_count()
    for end in (lambda b: b.close(), lambda b: None):
        batches = pipeline().batches()
        next(batches)
        assert threading.active_count() > before
        end(batches)
        del batches
        gc.collect()
        deadline = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before
    closed = pipeline().batches()
    closed.close()
    with pytest.raises(StopIteration):
        next(closed)


@pytest.fixture
def chats(tmp_path):
    """Twenty conversations; four of them cannot be used."""
    rows = []
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
        turns = [{"from": "human", "value": f"<image>\nwhat is {i}?"}, {"from": "gpt", "value": f"it is {i}"}]
        rows.append({"id": f"r{i}", "image": f"{i}.jpg", "conversations": turns})
    (tmp_path / "3.jpg").write_bytes(picture(3)[:200])
    rows[5]["conversations"][1]["value"] = " "
    rows[7]["image"] = ["7.jpg", "8.jpg"]
    rows[9]["conversations"][1]["value"] = "a red apple " * 200
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(rows))
    return {"kinds": {"chat": {"template": "simple", "sources": [{"kind": "llava", "path": str(path), "name": "chat"}]}}}


BAD = {"chat/chat:r3": "not a PNG", "chat/chat:r5": "turn 1: the assistant says nothing",
       "chat/chat:r7": "1 <image> placeholders for 2 images", "chat/chat:r9": "too long: "}


def test_skip_replaces_without_shifting(chats, caplog):
    pipe = pipeline(**chats, on_error="skip", on_long="error")
    with caplog.at_level(logging.WARNING, "mof_jax.data"):
        steps = take(pipe, 3)
    met = dict(entry for _, info in steps for entry in info.replaced)
    assert met.keys() == BAD.keys() and all(reason.startswith(BAD[name]) for name, reason in met.items())
    assert len([r for r in caplog.records if "replaced bad example" in r.getMessage()]) == 4 and set(pipe.replaced) == set(BAD)
    halves = [take(pipeline(i, 2, **chats, on_error="skip", on_long="error"), 3) for i in range(2)]
    for step in range(3):
        joined = {k: np.concatenate([h[step][0][k] for h in halves]) for k in steps[0][0]}
        assert same(joined, steps[step][0])
    again = take(pipeline(**chats, on_error="skip", on_long="error"), 1, 2, steps[1][0]["cursor"])
    assert same(again[0][0], steps[2][0])


def test_raise_names_file_and_record(chats):
    with pytest.raises(BadExample, match=r"(chat|chat.json): record r(3|5|7|9): (not a PNG|turn 1|1 <image>|too long)"):
        take(pipeline(**chats, on_long="error"), 3)


def test_a_source_of_bad_examples_stops_the_run(chats, tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_text("junk")
    with pytest.raises(UserError, match="chat/chat: 32 bad examples in a row, the last one: .*not a PNG"):
        take(pipeline(**chats, on_error="skip", on_long="truncate"), 1)


def test_a_small_picture_buffer_is_said(caplog):
    kinds = {"caption": {"sources": [{"kind": "synthetic", "size": 50, "pixels": 8}]}}
    with caplog.at_level(logging.WARNING, "mof_jax.data"):
        take(pipeline(kinds=kinds, images_per_stream=8, threads=0), 40)
    assert [r.getMessage() for r in caplog.records if "raise data.images_per_stream (8)" in r.getMessage()]


@pytest.mark.parametrize("values, says", [
    ({"kinds": {}}, "kinds: at least one"),
    ({"kinds": {"captions": {}}}, "kinds.captions: 'captions' is not a kind of documents.*did you mean 'caption'"),
    ({"kinds": {"chat": {}}}, "kinds.chat: template: a chat needs one"),
    ({"max_images": 40}, "max_images 40: a stream's buffer holds images_per_stream 24"),
    ({"tokens_per_image": 256}, "tokens_per_image 256: a row has 256"),
    ({"carry": 0}, "carry: 0 is not at least 1"),
    ({"threads": -1}, "threads: -1 is not at least 0"),
    ({"on_long": "cut"}, "on_long: 'cut' is not one of"),
])
def test_config_mistakes_are_named(values, says):
    with pytest.raises(UserError, match=says):
        build(SequenceConfig, {**BASE, **values})


def test_batches_and_cursors_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="batch size 7 is not a multiple of data.rows_per_stream 2"):
        pipeline(batch=7)
    with pytest.raises(UserError, match="4 streams .* cannot be shared by 3 processes"):
        pipeline(count=3)
    with pytest.raises(UserError, match="step 5 of packed documents needs its cursor"):
        pipeline().batches(5)
    with pytest.raises(UserError, match="cursor is 2x64, this config needs 4x64"):
        pipeline().batches(5, pipeline().cursor[:2])
    strict = tokenizers.train(["a b"], config=tokenizers.TokenizerConfig(kind="bpe", vocab_size=300, strip_punctuation=True))
    with pytest.raises(UserError, match="strip_punctuation"):
        SequencePipeline(build(SequenceConfig, BASE), strict, BATCH)


def test_texts_for_a_vocabulary():
    found = list(texts(build(SequenceConfig, BASE), limit=20))
    assert any("Q: " in text for text in found) and any(text.startswith("What is the colour") for text in found)
    assert found == list(texts(build(SequenceConfig, BASE), limit=20))


def test_what_was_seen_is_what_the_batches_held(whole):
    """Tokens as the batches count them; of a kind that repeats itself, those of its first time."""
    pipe, steps = whole
    found = pipe.seen(len(steps), steps[-1][0]["cursor"])
    drawn = sum(float(batch["kind_tokens"].sum()) for batch, _ in steps)
    assert (found["examples"], found["tokens"]) == (BATCH * len(steps), drawn)
    assert 0 < found["unique_tokens"] <= found["tokens"] and found["documents"] > 0
    few = {"text": {"weight": 1.0, "sources": [{"kind": "glossary", "size": 3}]}}
    pipe = pipeline(kinds=few, images_per_stream=0, max_images=0)
    found = pipe.seen(2, take(pipe, 2)[-1][0]["cursor"])
    assert found["documents"] > 30 and found["unique_tokens"] == round(found["tokens"] * 3 / found["documents"])
    many = {"text": {"weight": 1.0, "sources": [{"kind": "glossary", "size": 10_000}]}}
    pipe = pipeline(kinds=many, images_per_stream=0, max_images=0)
    found = pipe.seen(2, take(pipe, 2)[-1][0]["cursor"])
    assert found["unique_tokens"] == found["tokens"]
