"""A batch is a set of fields: flat keys are the defaults, sections by name add to them or take their
place."""

from __future__ import annotations

import json

from data_samples import lengths, picture
import numpy as np
from PIL import Image
import pytest

from mof_jax import cli
from mof_jax.config import build, to_dict
from mof_jax.data.config import DataConfig
from mof_jax.data.fields import FIELDS
from mof_jax.data.fields.captions import Captions
from mof_jax.data.fields.views import Views
from mof_jax.data.image import images
from mof_jax.data.load import texts
from mof_jax.data.pipeline import Pipeline
from mof_jax.errors import BadExample, UserError

SOURCE = {"kind": "synthetic", "name": "a", "size": 60, "pixels": 24}
BASE = {"sources": [SOURCE], "image_size": 16, "chunk": 4, "threads": 0}
CROP = {"crop": {"scale": (0.2, 0.6)}, "jitter": {}, "flip": 0.5}


def pipeline(batch=8, tokenizer=lengths, reads=None, index=0, count=1, **values):
    return Pipeline(build(DataConfig, {**BASE, **values}), tokenizer, batch, 0, index, count, reads)


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


@pytest.fixture
def rows(tmp_path):
    """A table of ten records with pictures, long and short captions, and some wrong ones; r9 has no wrong
    one."""
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = []
    for i in range(10):
        (folder / f"{i}.png").write_bytes(picture(i, 20, 31, "PNG"))
        kinds = {"long": [f"one {i}. two {i}. three {i}."], "short": [f"s{i}"], "negative": [f"not {i}"] if i < 9 else []}
        lines.append(json.dumps({"id": f"r{i}", "image": f"{i}.png", "texts": kinds}))
    (folder / "t.jsonl").write_text("\n".join(lines))
    return {"kind": "jsonl", "path": str(folder / "t.jsonl"), "name": "t"}


# Defaults


@pytest.mark.parametrize("flat, fields", [
    (dict(views=2, augment=CROP), dict(image=dict(kind="views", count=2, augment=CROP))),
    (dict(captions=3), dict(text=dict(kind="captions", count=3))),
    (dict(augment={}, local=dict(views=2, image_size=8, augment=CROP)),
     dict(local=dict(kind="views", count=2, size=8, augment=CROP))),
    (dict(image_size=12), dict(image=dict(kind="views", size=12))),
])
def test_a_section_says_what_the_flat_key_says(flat, fields):
    """Of the same draws, the same bits; and the flat key can be asked either way."""
    base = {key: value for key, value in BASE.items() if key not in flat}
    one = build(DataConfig, {**base, **flat})
    two = build(DataConfig, {**base, "fields": fields})
    same(Pipeline(one, lengths, 8).batch(3), Pipeline(two, lengths, 8).batch(3))
    for key in flat:
        assert getattr(one, key) == getattr(two, key)
    assert build(DataConfig, json.loads(json.dumps(to_dict(two)))) == two, "config.json comes back"


def test_shapes_are_those_of_the_batches():
    values = dict(views=2, captions=2, local=dict(views=3, image_size=8), fields=dict(
        weak=dict(kind="views", size=20), sides=dict(kind="captions", kinds=("alt", "synthetic"), count=2)))
    pipe = pipeline(**values)
    batch, shapes = pipe.batch(0), Pipeline.shapes(pipe.config, 8, 2)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {name: (s.shape, s.dtype) for name, s in shapes.items()}
    assert batch["weak"].shape == (8, 1, 20, 20, 3) and batch["sides"].shape == (8, 4, 2)


@pytest.mark.parametrize("values, says", [
    (dict(views=3, fields=dict(image=dict(kind="views", count=2))), "fields.image asks for views 2, and data.views is 3"),
    (dict(fields=dict(image=dict(kind="views", size=20))), "fields.image asks for image_size 20, and data.image_size is 16"),
    (dict(captions=2, fields=dict(text=dict(kind="captions"))), "fields.text asks for captions 1, and data.captions is 2"),
    (dict(local=dict(views=2), fields=dict(local=dict(kind="views"))), "fields.local asks for local"),
    (dict(fields=dict(text=dict(kind="views"))), "fields.text: the field of this name is of kind 'captions'; 'views' needs"),
    (dict(fields={"a-b": dict(kind="views")}), "'a-b' is no name of a field"),
    (dict(fields=dict(a=dict(kind="view"))), "config.fields.a.kind: unknown field kind 'view'.*'views'"),
    (dict(fields=dict(a=dict(count=2))), "config.fields.a.kind: missing"),
    (dict(fields=dict(a=dict(kind="views", probabilities={}))), "config.fields.a.probabilities: unknown key"),
    (dict(fields=dict(a=dict(kind="captions", kinds=("x",), probabilities={"y": 1.0}))), "config.fields.a: kinds and prob"),
    (dict(fields=dict(a=dict(kind="captions", kinds=("x", "x")))), "config.fields.a: kinds x, x: each once"),
    (dict(fields=dict(a=dict(kind="signal"))), "config.fields.a: size"),
])
def test_mistakes_are_named(values, says):
    with pytest.raises(UserError, match=says):
        build(DataConfig, {**BASE, **values})


# What nobody asks for


def test_no_picture_is_decoded_for_texts_alone(rows, monkeypatch):
    monkeypatch.setattr(images, "decode", None)
    assert set(pipeline(sources=[rows], views=0).batch(0)) == {"text", "group"}
    assert set(pipeline(sources=[rows], reads=["text"]).batch(0)) == {"text"}
    with pytest.raises(TypeError):
        pipeline(sources=[rows]).batch(0)


def test_what_is_read_and_not_there_is_named():
    with pytest.raises(UserError, match=r"no field 'labels', which is read.*it has image, text, group"):
        pipeline(reads=["image", "labels"])
    assert set(Pipeline.shapes(build(DataConfig, BASE), 8, 4, ["image"])) == {"image"}
    assert set(pipeline(tokenizer=None, reads=["image"]).batch(0)) == {"image"}, "no tokenizer where no text is read"


# Views


def test_view_sets_have_sizes_and_changes_of_their_own():
    """A further set changes nothing of the others, and its draws are its own."""
    strong = dict(kind="views", size=12, count=2, augment=CROP)
    more = dict(strong=strong, again=strong)
    alone, batch = pipeline(augment=CROP).batch(1), pipeline(augment=CROP, fields=more).batch(1)
    np.testing.assert_array_equal(alone["image"], batch["image"])
    assert batch["strong"].shape == (8, 2, 12, 12, 3)
    assert not np.array_equal(batch["strong"], batch["again"])
    only = pipeline(views=0, fields=dict(again=more["again"])).batch(1)
    np.testing.assert_array_equal(only["again"], batch["again"])


@pytest.mark.parametrize("width, height", [(24, 24), (31, 20), (20, 31)])
def test_halves_are_the_pixels_of_the_halves(tmp_path, width, height):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    (tmp_path / "0.png").write_bytes(images.encode(pixels, "PNG"))
    (tmp_path / "t.jsonl").write_text('{"image": "0.png", "alt": "a"}')
    fields = {part: dict(kind="views", part=part, size=10) for part in ("left", "right", "top", "bottom")}
    batch = pipeline(batch=1, sources=[dict(kind="jsonl", path=str(tmp_path / "t.jsonl"))], fields=fields).batch(0)
    w, h = width // 2, height // 2
    cut = {"left": pixels[:, :w], "right": pixels[:, width - w:], "top": pixels[:h], "bottom": pixels[height - h:]}
    for part, half in cut.items():
        want = np.asarray(images.resize(Image.fromarray(half), 10))
        np.testing.assert_array_equal(batch[part][0, 0], want, part)
    whole = np.asarray(images.resize(Image.fromarray(pixels), 16))
    np.testing.assert_array_equal(batch["image"][0, 0], whole, "the other field still shows all of it")


def test_cached_pictures_serve_every_set():
    fields = dict(strong=dict(kind="views", size=12, augment=CROP), left=dict(kind="views", part="left"))
    plain, cached = pipeline(fields=fields), pipeline(fields=fields, cache="decoded")
    for step in (0, 1, 0):
        same(plain.batch(step), cached.batch(step))


# Captions


def test_several_kinds_at_once(rows):
    sides = dict(kind="captions", kinds=("long", "short", "negative"), missing="empty")
    pipe = pipeline(batch=10, sources=[rows], views=0, captions=0, shuffle=False, fields=dict(sides=sides))
    batch = pipe.batch(0)["sides"]
    for i in range(10):
        want = [f"one {i}. two {i}. three {i}.", f"s{i}", f"not {i}" if i < 9 else ""]
        np.testing.assert_array_equal(batch[i], lengths(want))
    with pytest.raises(BadExample, match="t: record r9: empty caption: wants negative, has long, short, negative .empty."):
        pipeline(batch=10, sources=[rows], captions=0, fields=dict(n=dict(kind="captions", kinds=("negative",)))).batch(0)


def test_a_text_that_is_wrong_on_purpose_is_no_caption_unless_asked_for(rows):
    words = []
    tokenizer = lambda found: words.extend(found) or lengths(found)
    pipe = pipeline(batch=10, sources=[rows], views=0, tokenizer=tokenizer)
    for step in range(20):
        pipe.batch(step)
    assert {word[0] for word in words} == {"o", "s"}


def test_a_field_overrides_the_source_key_by_key(rows):
    source = rows | {"captions": {"probabilities": {"short": 1.0}, "templates": ("see {}",)}}
    fields = dict(long=dict(kind="captions", probabilities=dict(long=1.0), sentences=1, count=3, distinct=True))
    config = build(DataConfig, {**BASE, "sources": [source], "views": 0, "shuffle": False, "fields": fields})
    batch = Pipeline(config, lengths, 10).batch(0)
    np.testing.assert_array_equal(batch["text"][:, 0], lengths([f"see s{i}" for i in range(10)]))
    for i in range(10):  # all three sentences, each once
        want = lengths([f"see {word} {i}." for word in ("one", "two", "three")])
        assert sorted(batch["long"][i].tolist()) == sorted(want.tolist())
    assert len({row.tobytes() for row in batch["long"] - batch["long"].min(axis=1, keepdims=True)}) > 1, "in orders of their own"
    found = list(texts(config))
    assert found[0] == "see {}" and {"s3", "one 3. two 3. three 3."} < set(found) and "not 3" not in found


def test_captions_of_a_field_are_its_own_draws(rows):
    fields = dict(more=dict(kind="captions", count=2))
    source = rows | {"captions": {"probabilities": {"short": 1.0, "long": 1.0}}}
    alone, batch = pipeline(sources=[source], views=0).batch(0), pipeline(sources=[source], views=0, fields=fields).batch(0)
    np.testing.assert_array_equal(alone["text"], batch["text"])
    assert not np.array_equal(batch["more"][:, 0], batch["text"][:, 0])


# Labels, vectors, signals


@pytest.fixture
def kept(tmp_path, rows):
    """Files beside `rows`: labels (r3 has none), tags, vectors (r4 is broken), and an array a record."""
    ids = [f"r{i}" for i in range(10)]
    folder = tmp_path / "kept"
    (folder / "arrays").mkdir(parents=True)
    (folder / "labels.csv").write_text("id,cluster\n" + "".join(f"{i},{n % 4 if n != 3 else ''}\n" for n, i in enumerate(ids)))
    tags = [{"id": i, "tags": list(range(n % 4))} for n, i in enumerate(ids)]
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, tags)))
    vectors = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float16)
    vectors[4, 2] = np.nan
    np.save(folder / "v.npy", vectors)
    (folder / "v.txt").write_text("\n".join(ids))
    for n, i in enumerate(ids):
        np.save(folder / "arrays" / f"{i}.npy", np.full((3, 2), n, np.float64))
    return folder


def test_labels_go_by_id(rows, kept):
    fields = dict(label=dict(kind="label", path=f"{kept}/labels.csv", classes=4, missing="none"),
                  tags=dict(kind="label", path=f"{kept}/tags.jsonl", count=4))
    pipe = pipeline(sources=[rows], views=0, fields=fields)
    for step in range(3):
        batch = pipe.batch(step)
        numbers = [int(name.removeprefix("t:r")) for name in pipe.ids(step)]
        assert batch["label"].dtype == np.int32 and batch["label"].tolist() == [n % 4 if n != 3 else -1 for n in numbers]
        assert batch["tags"].tolist() == [[*range(n % 4), *[-1] * (4 - n % 4)] for n in numbers]


def test_vectors_and_signals(rows, kept):
    fields = dict(v=dict(kind="vector", path=f"{kept}/v.npy", dim=6), s=dict(kind="signal", path=f"{kept}/arrays", size=(3, 2)),
                  flat=dict(kind="signal", path=f"{kept}/v.npy", size=(2, 3)))
    pipe = pipeline(batch=4, sources=[rows], views=0, shuffle=False, fields=fields)
    batch, want = pipe.batch(0), np.load(kept / "v.npy")[:4].astype(np.float32)
    np.testing.assert_array_equal(batch["v"], want)
    np.testing.assert_array_equal(batch["flat"], want.reshape(4, 2, 3))
    assert batch["s"].dtype == np.float32 and batch["s"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert set(pipe.content()["fields"]) == {"v", "s", "flat"} - {"s"}, "sidecars are told from others when a run goes on"


@pytest.mark.parametrize("field, says", [
    (dict(kind="label", path="labels.csv"), r"labels.csv: record r3: has no label"),
    (dict(kind="label", path="labels.csv", classes=3, missing="none"), r"labels.csv: record r\d: label 3 is not among 3 classes"),
    (dict(kind="label", path="tags.jsonl", count=2), r"tags.jsonl: record r\d: has 3 labels where at most 2 are expected"),
    (dict(kind="label", path="v.npy", count=6), r"v.npy: record r\d: label -?[\d.]+ is no whole number"),
    (dict(kind="vector", path="v.npy", dim=6), r"v.npy: record r4: number 2 of its array is nan, which is not finite"),
    (dict(kind="vector", path="v.npy", dim=5), r"v.npy: record r\d: has an array of shape \(6,\) where \(5,\) is expected"),
    (dict(kind="signal", path="arrays", size=(2, 2)), r"arrays: record r\d: has an array of shape \(3, 2\) where \(2, 2\)"),
    (dict(kind="signal", path="arrays", size=(3, 2), dtype="uint8"), r"arrays: record r\d: .*float64 where uint8"),
    (dict(kind="signal", size=(3,)), r"t: record r\d: has no array 'x' \(has none\)"),
])
def test_a_value_that_does_not_fit_names_file_and_record(rows, kept, field, says):
    where = {"path": f"{kept}/{field['path']}"} if "path" in field else {}
    with pytest.raises(BadExample, match=says):
        pipeline(batch=10, sources=[rows], views=0, fields=dict(x=field | where)).batch(0)


def test_under_skip_it_is_a_counted_bad_record(rows, kept):
    (kept / "arrays" / "r7.npy").unlink()
    (kept / "arrays" / "r8.npy").write_bytes(b"x")
    fields = dict(v=dict(kind="vector", path=f"{kept}/v.npy", dim=6), s=dict(kind="signal", path=f"{kept}/arrays", size=(3, 2)))
    pipe = pipeline(batch=10, sources=[rows], views=0, on_error="skip", fields=fields)
    arrays, info = next(pipe.batches())
    assert {name for name, _ in info.replaced} == {"t:r4", "t:r7", "t:r8"} and set(pipe.replaced) == {"t:r4", "t:r7", "t:r8"}
    assert np.isfinite(arrays["v"]).all()


def test_files_that_do_not_fit_the_sources_are_refused_at_once(rows, kept, tmp_path):
    field = lambda **values: dict(fields=dict(x=dict(kind="label", **values)))
    with pytest.raises(UserError, match="kept/v.txt: a sidecar|neither a sidecar"):
        pipeline(sources=[rows], **field(path=f"{kept}/v.txt"))
    (tmp_path / "o.csv").write_text("id,label\nother,1\n")
    with pytest.raises(UserError, match=r"o.csv: has none of 10 records of t that were looked for, the first 'r0'"):
        pipeline(sources=[rows], **field(path=str(tmp_path / "o.csv")))
    two = [rows, SOURCE]
    with pytest.raises(UserError, match=r"data.fields.x.path: ids are unique in a source; name a file for each"):
        pipeline(sources=two, **field(path=f"{kept}/labels.csv"))
    with pytest.raises(UserError, match=r"data.fields.x.path: no source 'tt'.*'t'"):
        pipeline(sources=two, **field(path={"tt": f"{kept}/labels.csv"}))
    batch = pipeline(sources=two, views=0, **field(path={"t": f"{kept}/labels.csv"}, missing="none")).batch(0)
    assert -1 in batch["x"] and max(batch["x"]) == 3


def test_an_id_does_not_lead_out_of_the_folder(tmp_path, kept):
    np.save(tmp_path / "secret.npy", np.zeros(2))
    (tmp_path / "t.jsonl").write_text('{"id": "../../secret", "alt": "a"}')
    (kept / "arrays" / "x").mkdir()
    with pytest.raises(BadExample, match="array path .*secret.npy' leads outside"):
        pipeline(batch=1, sources=[dict(kind="jsonl", path=str(tmp_path / "t.jsonl"))], views=0,
                 fields=dict(s=dict(kind="signal", path=f"{kept}/arrays", size=(2,)))).batch(0)


# Promises


def test_hosts_and_threads_see_the_same(rows, kept):
    fields = dict(label=dict(kind="label", path=f"{kept}/labels.csv", missing="none"),
                  strong=dict(kind="views", size=8, augment=CROP), sides=dict(kind="captions", kinds=("long", "short")))
    values = dict(sources=[rows], fields=fields)
    whole = pipeline(batch=12, **values).batch(2)
    halves = [pipeline(batch=12, index=i, count=2, threads=2, **values) for i in range(2)]
    parts = [next(half.batches(2))[0] for half in halves]
    same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


@pytest.mark.slow
def test_worker_processes_open_sidecars_again(rows, kept):
    fields = dict(label=dict(kind="label", path=f"{kept}/labels.csv", missing="none"))
    values = dict(sources=[rows], fields=fields)
    batches = pipeline(workers=1, **values).batches()
    same(next(batches)[0], pipeline(**values).batch(0))
    batches.close()


def test_mof_list_fields(capsys):
    cli.main(["list", "fields"])
    printed = capsys.readouterr().out
    assert set(FIELDS) == {"views", "captions", "group", "label", "vector", "signal"} and all(kind in printed for kind in FIELDS)


def test_fields_are_made_in_python_too():
    config = DataConfig(fields={"image": Views(12, 2), "text": Captions(2)})
    assert (config.image_size, config.views, config.captions) == (12, 2, 2)
