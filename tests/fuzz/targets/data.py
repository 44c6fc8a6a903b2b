"""Pictures, tars, shards, tables, conversations, pages, folders, scores, filters, sidecars, embeddings."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image
import pyarrow as pa
from pyarrow import parquet
from rich.console import Console

from mof_jax import storage
from mof_jax.data import filter as filters
from mof_jax.data import keyed, load, tools
from mof_jax.data.files.sidecar import Sidecar
from mof_jax.data.image import images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.packing import documents, sequences
from mof_jax.data.record import Record
from mof_jax.data.sources import SOURCES, arrayrecord, open_source, webdataset
from mof_jax.data.sources.jsonl import TableSource
from mof_jax.data.text.captions import CaptionConfig
from mof_jax.data.text.tokenizers import train
from mof_jax.errors import BadExample
from mof_jax.evals.answer.answers_file import read_answers
from mof_jax.evals.items import read_items
from mof_jax.mining import report
from mof_jax.mining.embeddings import KIND, Embeddings
from mof_jax.mining.state import Pairs, State

from ..harness import Seed, Target
from .samples import dumped, lines, npy, picture, read_all, written

_WORDS = ["a red apple", "two green cars", "what is it", "an apple"] * 3
_TOKENIZER = train(_WORDS, 300, 32, "bpe")


# --- pictures -------------------------------------------------------------------------------------------------------------


def _seeds_of_pictures(kind: str, *modes: str) -> list[Seed]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    more = {} if kind == "GIF" else {"exif": exif}
    return [
        Seed({"x": picture(n, kind, mode, **extra)}, {"x": "picture"})
        for n, mode in enumerate(modes)
        for extra in ({}, more)
    ]


def _read_picture(folder: pathlib.Path) -> None:
    data = (folder / "x").read_bytes()
    for pixels in ("ours", "transformers", "open_clip"):
        Preprocess(8, pixels=pixels).fit(images.decode(data, record="x", pixels=pixels))
    images.decode(data, record="x", at_least=4)


def _pictures(kind: str, *modes: str) -> Target:
    return Target(kind.lower(), lambda: _seeds_of_pictures(kind, *modes), _read_picture)


# --- tars -----------------------------------------------------------------------------------------------------------------


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(3):
            for ending, data in (
                ("jpg", picture(n, "JPEG")),
                ("txt", b"a red apple"),
                ("json", dumped({"tags": ["a"], "scores": {"dfn": 0.5}})),
                ("cls", b"1"),
            ):
                info = tarfile.TarInfo(f"{n:03d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _read_tar(folder: pathlib.Path) -> None:
    read_all(open_source(SOURCES["webdataset"](str(folder / "x.tar"), cache_dir=str(folder / "cache"))))


def _read_index(folder: pathlib.Path) -> None:
    """With a cache whose checksum is right, whatever it says."""
    (folder / "cache" / "tar-index").mkdir(parents=True)
    body = (folder / "index.json").read_bytes()
    tar = str(folder / "x.tar")
    sealed = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    (folder / "cache" / "tar-index" / f"{storage.fingerprint(tar)}-x.tar.json").write_bytes(sealed)
    _read_tar(folder)


def _seeds_of_indexes() -> list[Seed]:
    def write(root: pathlib.Path) -> None:
        (root / "x.tar").write_bytes(_tar())
        index = webdataset.scan(str(root / "x.tar"), (root / "x.tar").stat().st_size, webdataset.Endings("", ()))
        (root / "index.json").write_bytes(dumped(index.to_json()))

    return [Seed(written(write), {"index.json": "json"})]


# --- ArrayRecord ----------------------------------------------------------------------------------------------------------


def _record(n: int) -> Record:
    return Record(f"r{n}", picture(n), {"alt": ("a red apple",), "tags": ("a", "b")}, {"dfn": 0.5}, n, {"label": "x"})


def _seeds_of_shards() -> list[Seed]:
    def write(root: pathlib.Path) -> None:
        with arrayrecord.writer(str(root), "x", 2) as add:
            for n in range(4):
                add(n // 2, _record(n))

    files = written(write)
    return [Seed(files, {name: "json" if name.endswith("json") else "bytes" for name in files})]


def _read_shards(folder: pathlib.Path) -> None:
    read_all(arrayrecord.ArrayRecordSource(str(folder), cache_dir=str(folder / "cache")))
    read_all(arrayrecord.ArrayRecordSource(f"{folder}/x@2", cache_dir=str(folder / "cache")))


def _read_record(folder: pathlib.Path) -> None:
    """What is read can be written again, and is the same then."""
    found = arrayrecord.parse((folder / "x").read_bytes(), "x", 0)
    again = arrayrecord.parse(arrayrecord.encode(found), "x", 0)
    assert repr(again) == repr(found), "a record that comes back otherwise"


# --- tables, conversations, pages -----------------------------------------------------------------------------------------

_ROWS = [
    {"image": "a.png", "caption": "a red apple", "id": "1", "scores": {"dfn": 0.5}, "group": 0},
    {"image": "b.png", "caption": "two green cars", "id": "2", "scores": {"dfn": 0.25}, "group": 1},
    {"image": "a.png", "caption": "an apple", "id": "3", "scores": {"dfn": 0.1}, "group": -1},
]
_PICTURES = {"a.png": picture(1), "b.png": picture(2, "JPEG")}


def _seeds_of_tables() -> list[Seed]:
    texts = [{"texts": {"alt": ["a red apple"], "tags": ["x", "y"]}, "image": "a.png"}]
    cells = 'image,caption,id,group\na.png,"a red, ripe apple",1,0\nb.png,two green cars,2,1\na.png,an apple,3,2\n'
    return [
        Seed(_PICTURES | {"x.jsonl": lines(*_ROWS)}, {"x.jsonl": "jsonl"}),
        Seed(_PICTURES | {"x.jsonl": lines(*texts)}, {"x.jsonl": "jsonl"}),
        Seed(_PICTURES | {"x.csv": cells.encode()}, {"x.csv": "csv"}),
        Seed(_PICTURES | {"x.tsv": b"filepath\ttitle\na.png\ta red apple\nb.png\tcars\n"}, {"x.tsv": "csv"}),
    ]


def _table(folder: pathlib.Path) -> str:
    return str(next(path for path in folder.iterdir() if path.name.startswith("x.")))


def _read_table(folder: pathlib.Path) -> None:
    source = TableSource(_table(folder))
    read_all(source, lambda record: images.decode(record.image) if record.image else None)
    filters.names(source)


def _read_loader(folder: pathlib.Path) -> None:
    """Batches under `skip`: a record that cannot be read never ends a run."""
    config = load.DataConfig(
        sources=(SOURCES["jsonl"](_table(folder), captions=CaptionConfig(tags=False)),),
        image_size=8,
        threads=0,
        on_error="skip",
    )
    list(load.texts(config))
    loader = load.Loader(config, _TOKENIZER, 0)
    count = min(8, len(loader.reader.sources[0]))
    loader.rows(load.Located(np.zeros(count, int), np.arange(count), np.zeros(count, int)))


def _seeds_of_chats() -> list[Seed]:
    turns = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "an apple"}]
    rows = [
        {"id": "1", "image": "a.png", "conversations": turns},
        {"id": 2, "conversations": [turns[0] | {"value": "what is it"}, turns[1]]},
        {
            "id": "3",
            "image": ["a.png", "b.png"],
            "conversations": [{"from": "human", "value": "<image><image> what"}, turns[1]],
        },
    ]
    return [
        Seed(_PICTURES | {"x.json": dumped(rows)}, {"x.json": "json"}),
        Seed(_PICTURES | {"x.jsonl": lines(*rows)}, {"x.jsonl": "jsonl"}),
    ]


def _seeds_of_pages(kind: str) -> list[Seed]:
    if kind == "obelics":
        rows = [
            {
                "texts": ["a red apple", None, "an apple"],
                "images": [None, "a.png", None],
                "metadata": "[]",
                "general_metadata": "{}",
            },
            {"texts": [None, "two green cars"], "images": ["b.png", None]},
        ]
    else:
        info = [{"image_name": "a.png", "matched_text_index": 0, "raw_url": "http://a/a.png"}]
        rows = [
            {"text_list": ["a red apple", "an apple"], "image_info": info, "url": "http://a"},
            {"text_list": ["two green cars"], "image_info": [info[0] | {"image_name": "b.png"}]},
        ]
    return [Seed(_PICTURES | {"x.jsonl": lines(*rows)}, {"x.jsonl": "jsonl"})]


def _read_documents(kind: str):
    """As records, as documents, and as tokens."""
    section = documents.KindConfig(
        sources=(SOURCES[kind]("x"),),
        kind="chat" if kind == "llava" else "interleaved",
        template="vicuna_v1" if kind == "llava" else "",
    )

    def read(folder: pathlib.Path) -> None:
        def use(record: Record) -> None:
            documents.words(record)
            document = documents.compose(record, section, CaptionConfig(), keyed.Draws(0), "x")
            sequences.encode(document, _TOKENIZER, 4, 512, max_images=8, on_long="truncate")

        read_all(open_source(SOURCES[kind](_table(folder))), use)

    return read


def _seeds_of_folders() -> list[Seed]:
    files = {
        "cats/a.png": picture(1),
        "cats/a.txt": b"a red apple",
        "dogs/b.jpg": picture(2, "JPEG"),
        "dogs/b.txt": b"cars",
    }
    return [Seed(files, {name: "bytes" if name.endswith("txt") else "picture" for name in files})]


def _read_folder(folder: pathlib.Path) -> None:
    read_all(open_source(SOURCES["folder"](str(folder))), lambda record: images.decode(record.image))


def _seeds_of_tfds() -> list[Seed]:
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "tiny"
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = pathlib.Path("/nowhere")

        def _info(self):
            image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(names=["cat", "dog"])
            words = {"captions": tfds.features.Sequence(tfds.features.Text()), "caption": tfds.features.Text()}
            every = tfds.features.FeaturesDict({"image": image, "label": label, "group": np.int64, **words})
            return tfds.core.DatasetInfo(builder=self, features=every)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n in range(3):
                yield (
                    n,
                    {"image": picture(n), "label": n % 2, "group": n, "captions": ["a", "b"], "caption": "an apple"},
                )

    def write(root: pathlib.Path) -> None:
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            Tiny(data_dir=str(root), file_format="array_record").download_and_prepare()

    files = {name.rpartition("/")[2]: data for name, data in written(write).items()}
    return [Seed(files, {name: "json" if name.endswith(".json") else "bytes" for name in files})]


def _read_tfds(folder: pathlib.Path) -> None:
    source = open_source(SOURCES["tfds"](str(folder)))
    read_all(source)
    read_all(open_source(SOURCES["tfds"](str(folder), text_fields={"alt": "label"})))


def _read_converted(folder: pathlib.Path) -> None:
    """`mof data convert` of whatever lies there: what is written is what the source gives, in its order."""
    path = next((str(path) for path in folder.iterdir() if path.name.startswith("x.")), str(folder))
    source, quiet = open_source(tools.guess(path)), Console(quiet=True)
    done = tools.convert(source, str(folder / "out"), console=quiet)
    found = arrayrecord.ArrayRecordSource(str(folder / "out"))
    assert len(found) == done.written == len(source) - len(done.bad)
    good = []
    for n in range(len(source)):
        try:
            good.append(source[n])
        except BadExample:
            continue
    left = iter(good)
    assert all(any(_same(record, other) for other in left) for record in map(found.__getitem__, range(len(found))))
    tools.inspect(source, console=quiet)


def _same(one: Record, other: Record) -> bool:
    """Whether all of two records agrees; NaN is NaN."""
    key = lambda r: (
        r.id,
        r.image,
        dict(r.texts),
        {k: repr(v) for k, v in r.scores.items()},
        r.group,
        dict(r.attributes),
    )
    return key(one) == key(other)


# --- scores, filters, embeddings ------------------------------------------------------------------------------------------

_IDS = {"x.jsonl": lines(*({"caption": row["caption"], "id": row["id"], "scores": row["scores"]} for row in _ROWS))}


def _seeds_of_scores() -> list[Seed]:
    by_line = lines(*({"id": str(n), "scores": {"dfn": n / 4, "other": None}} for n in (1, 2, 3)))
    names = dumped({"ids": ["1", "2", "3"], "names": ["dfn"]})
    return [
        Seed(_IDS | {"s.jsonl": by_line}, {"s.jsonl": "jsonl"}),
        Seed(_IDS | {"s.npy": npy([[0.1], [0.5], [0.9]]), "s.json": names}, {"s.npy": "npy", "s.json": "json"}),
        Seed(_IDS, {"x.jsonl": "jsonl"}),
    ]


def _read_scores(folder: pathlib.Path) -> None:
    sidecar = next((str(folder / name) for name in ("s.jsonl", "s.npy") if (folder / name).exists()), "")
    config = filters.FilterConfig({"dfn": filters.ScoreRule(fraction=0.5)}, sidecar=sidecar)
    read_all(filters.apply(TableSource(str(folder / "x.jsonl")), config, str(folder / "cache")))


def _filter(folder: pathlib.Path) -> tuple[TableSource, filters.FilterConfig]:
    rules = {"dfn": filters.ScoreRule(fraction=0.7)}
    return TableSource(str(folder / "x.jsonl")), filters.FilterConfig(rules, manifest=str(folder / "kept.json"))


def _seeds_of_manifests() -> list[Seed]:
    """The marks of filter and source stay as they are: `_read_manifest` writes them in."""

    def write(root: pathlib.Path) -> None:
        (root / "x.jsonl").write_bytes(_IDS["x.jsonl"])
        filters.apply(*_filter(root))

    return [Seed(written(write), {"kept.json": "json", "kept.npy": "npy"})]


def _read_manifest(folder: pathlib.Path) -> None:
    source, config = _filter(folder)
    path, fresh = folder / "kept.json", folder / "fresh.json"
    filters.apply(source, filters.FilterConfig(config.rules, manifest=str(fresh)))
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            path.write_bytes(dumped(found | {key: json.loads(fresh.read_bytes())[key] for key in ("filter", "source")}))
    except (ValueError, RecursionError):
        pass  # it stays as it is
    read_all(filters.apply(source, config))


def _seeds_of_embeddings() -> list[Seed]:
    manifest = {
        "kind": KIND,
        "dtype": "float32",
        "count": 5,
        "shard": 3,
        "complete": True,
        "row_shape": [4],
        "fingerprint": "abc",
        "source": "x",
        "model": "x",
        "which": "pooled",
    }
    rows = np.arange(20).reshape(5, 4) / 20
    files = {
        "manifest.json": dumped(manifest),
        "features-00000-of-00002.npy": npy(rows[:3]),
        "features-00001-of-00002.npy": npy(rows[3:]),
        "records-00000-of-00002.json": dumped({"ids": ["a", "b", "c"]}),
        "records-00001-of-00002.json": dumped({"ids": ["d", "e"]}),
        "valid.npy": npy([True] * 5, "bool"),
    }
    plain = {"x.npy": npy(rows)}
    return [Seed(files, {name: name.rpartition(".")[2] for name in files}), Seed(plain, {"x.npy": "npy"})]


def _read_embeddings(folder: pathlib.Path) -> None:
    plain = folder / "x.npy"
    found = Embeddings.open(str(plain if plain.exists() else folder))
    assert found.rows(0, 8).dtype == np.float32 and found.dim
    found.take(np.array([0, len(found) - 1]))
    assert found.ids is None or len(found.ids) == len(found)


def _seeds_of_sidecars() -> list[Seed]:
    def parquet_of(values: list) -> bytes:
        out = io.BytesIO()
        parquet.write_table(pa.table({"id": ["a", "b", "c"], "label": values}), out)
        return out.getvalue()

    rows = [{"id": "a", "label": 1}, {"id": "b", "label": [1, 2]}, {"id": "c", "label": None}]
    ids = dumped({"ids": ["a", "b", "c"], "names": ["x", "y"]})
    return [
        Seed({"x.npy": npy([0, 1, 2], "int32"), "x.txt": b"a\nb\nc\n"}, {"x.npy": "npy", "x.txt": "bytes"}),
        Seed({"x.npy": npy([[0, 1], [1, 2], [2, 3]]), "x.json": ids}, {"x.npy": "npy", "x.json": "json"}),
        Seed({"x.parquet": parquet_of([1, 2, 3])}, {"x.parquet": "bytes"}),
        Seed({"x.parquet": parquet_of([[0.5], [], None])}, {"x.parquet": "bytes"}),
        Seed({"x.jsonl": lines(*rows)}, {"x.jsonl": "jsonl"}),
        Seed({"x.csv": b"id,label\na,1\nb,0.5 2\nc,\n"}, {"x.csv": "csv"}),
    ]


def _read_sidecar(folder: pathlib.Path) -> None:
    path = next(path for path in sorted(folder.iterdir()) if path.name != "x.json" and path.suffix != ".txt")
    found = Sidecar(str(path))
    assert len(found.values) == len(found) and found.content()["rows"] == len(found)
    for row in map(found.row, ("a", "b", "nobody")):
        assert -1 <= row < len(found)


_PAIRS = Pairs(np.array([0, 1]), np.array([2, 3]), np.array([[0.5, 0.25]], np.float32))


def _seeds_of_mined() -> list[Seed]:
    def write(root: pathlib.Path) -> None:
        state = State(str(root / "state"), "print")
        state.save(0, _PAIRS)
        settings = {
            "rules": {"clip": "above 0.9"},
            "thresholds": {"clip": ["above", 0.9]},
            "top_k": 0,
            "limit": 0,
            "usable": 4,
            "centred": False,
        }
        report.write(str(root / "x.parquet"), state, 1, settings, list("abcd"), ["u", "v"], np.array([0, 0, 0, 1]))
        (root / "about.json").write_bytes(dumped(report.read(str(root / "x.parquet"))[2]))

    files = written(write)
    return [
        Seed(
            files, {"state/plan.json": "json", "state/row-00000.npz": "zip", "x.parquet": "bytes", "about.json": "json"}
        )
    ]


def _read_mined(folder: pathlib.Path) -> None:
    """The table as it is, and another with the settings of `about.json`."""
    table = pa.table({"i": [0, 1], "j": [2, 3], "cos_clip": pa.array([0.5, 0.25], pa.float32())})
    about = table.replace_schema_metadata({b"mof_jax": (folder / "about.json").read_bytes()})
    parquet.write_table(about, str(folder / "y.parquet"))
    for name in ("x.parquet", "y.parquet"):
        pairs, _, info = report.read(str(folder / name))
        report.summary(info)
        report.blindness(pairs, info["thresholds"])
    State(str(folder / "state"), "print").load(0)


def _read_answers(folder: pathlib.Path) -> None:
    read_answers(str(folder / "a.jsonl"))


def _read_items(folder: pathlib.Path) -> None:
    for kept in read_items(str(folder / "i.jsonl")).values():
        kept.figure()


_ITEMS = lines(
    {"figure": "r@1", "statistic": "mean", "unit": "a", "values": [1.0, None]},
    {"figure": "r@1", "statistic": "mean", "unit": "b", "values": [0.5, 2]},
    {"figure": "loss", "statistic": "ratio", "unit": "a", "values": [3.0, 4]},
)

TARGETS = [
    _pictures("JPEG", "RGB", "L", "CMYK"),
    _pictures("PNG", "RGB", "RGBA", "P", "I;16", "LA", "1"),
    _pictures("WEBP", "RGB", "RGBA"),
    _pictures("GIF", "P", "L"),
    Target("tar", lambda: [Seed({"x.tar": _tar()}, {"x.tar": "tar"})], _read_tar),
    Target("tar-index", _seeds_of_indexes, _read_index),
    Target("arrayrecord", _seeds_of_shards, _read_shards),
    Target("record", lambda: [Seed({"x": arrayrecord.encode(_record(0))}, {"x": "record"})], _read_record),
    Target("tables", _seeds_of_tables, _read_table),
    Target("loader", _seeds_of_tables, _read_loader),
    Target("llava", _seeds_of_chats, _read_documents("llava")),
    Target("obelics", lambda: _seeds_of_pages("obelics"), _read_documents("obelics")),
    Target("mmc4", lambda: _seeds_of_pages("mmc4"), _read_documents("mmc4")),
    Target("folder", _seeds_of_folders, _read_folder),
    Target(
        "convert",
        lambda: [*_seeds_of_tables(), *_seeds_of_folders(), Seed({"x.tar": _tar()}, {"x.tar": "tar"})],
        _read_converted,
    ),
    Target("tfds", _seeds_of_tfds, _read_tfds, 0.1, long=True),
    Target("scores", _seeds_of_scores, _read_scores),
    Target("filter", _seeds_of_manifests, _read_manifest),
    Target("embeddings", _seeds_of_embeddings, _read_embeddings),
    Target("sidecar", _seeds_of_sidecars, _read_sidecar),
    Target("mined", _seeds_of_mined, _read_mined),
    Target(
        "answers",
        lambda: [
            Seed({"a.jsonl": lines({"id": "1", "right": True}, {"id": "2", "right": False})}, {"a.jsonl": "jsonl"})
        ],
        _read_answers,
    ),
    Target("items", lambda: [Seed({"i.jsonl": _ITEMS}, {"i.jsonl": "jsonl"})], _read_items),
]
