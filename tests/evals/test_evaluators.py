"""Evaluators over an encoder whose embeddings are known, and over a real one."""

from __future__ import annotations

import json
import zlib

from fake_model import FakeModel
import numpy as np
from pair_samples import vlm_pairs
import pytest
import tiny_run

from mof_jax import cli, evals, trainer
from mof_jax.data.image import images
from mof_jax.data.pairs import PATTERNS
from mof_jax.data.record import Record
from mof_jax.data.worlds import embedded
from mof_jax.data.worlds.scenes import Scenes
from mof_jax.errors import UserError
from mof_jax.evals.embed.gallery import Gallery
from mof_jax.evals.embed.retrieval import Pool, Retrieval, candidates, item_ids
from mof_jax.evals.mmvp.mmvp_files import write_mmvp_vlm
from mof_jax.evaluate import evaluate
from mof_jax.jsonl import read_lines
from mof_jax.mesh import make_mesh
from mof_jax.restore import restore

TWEMOJI = dict(kind="emoji5", split="unseen")


class Oracle(FakeModel):
    """Embeds a picture by its label and a text by itself; `right` says which share of pictures it knows."""

    pictures = None

    def __init__(self, right: float = 1.0):
        self.mesh, self.right = make_mesh(), right
        self.words: dict[str, np.ndarray] = {}

    def vector(self, text: str) -> np.ndarray:
        if text not in self.words:
            x = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(64)
            self.words[text] = (x / np.linalg.norm(x)).astype(np.float32)
        return self.words[text]

    def images(self, source):
        known = round(self.right * len(source))
        return np.stack([self.vector(source[i].texts["alt"][0] if i < known else f"noise {i}") for i in range(len(source))])

    def texts(self, texts):
        return np.stack([self.vector(t.removeprefix("a picture of ")) for t in texts])


def test_retrieval_of_an_oracle():
    perfect = evals.build(dict(kind="retrieval", source=TWEMOJI), "e").run(Oracle())
    assert {perfect[k] for k in ("i2t@1", "t2i@1", "r@1", "r@5", "r@10")} == {100.0}
    assert perfect["candidates"] == len(embedded.candidates("unseen"))
    half = evals.build(dict(kind="retrieval", source=TWEMOJI), "e").run(Oracle(0.5))
    assert half["i2t@1"] == pytest.approx(50, abs=3) and half["t2i@1"] == pytest.approx(50, abs=3)


def test_zero_shot_of_an_oracle():
    section = dict(kind="zeroshot", source=TWEMOJI, classes="emoji5:unseen", templates=["a picture of {}"])
    perfect = evals.build(section, "e").run(Oracle())
    assert perfect["acc@1"] == perfect["mean_class_acc@1"] == 100.0
    assert evals.build(section, "e").run(Oracle(0.25))["acc@1"] == pytest.approx(25, abs=3)


def test_knn_and_few_shot_of_an_oracle():
    sections = dict(train=dict(kind="emoji5", split="train"), test=dict(kind="emoji5", split="twemoji"))
    oracle = Oracle()
    assert evals.build(dict(kind="knn", k=3, **sections), "e").run(oracle)["acc@1"] > 95  # 33 twins share a picture
    few = evals.build(dict(kind="fewshot", shots=[1], **sections, label="flag"), "e").run(oracle)
    assert 0 < few["acc@1_1shot"] <= 100


def test_class_list_and_templates_from_files(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(embedded.candidates("unseen")))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a picture of {}\n{}\n")
    section = dict(kind="zeroshot", source=TWEMOJI, classes=str(names), templates=[str(prompts)])
    assert evals.build(section, "e").run(Oracle())["acc@1"] == 100.0
    names.write_text("only one class")
    with pytest.raises(UserError, match="is not in the class list"):
        evals.build(section, "e").run(Oracle())
    with pytest.raises(UserError, match="no such file"):
        evals.build(section | dict(classes=str(tmp_path / "absent.txt")), "e").run(Oracle())
    names.write_text("\n".join(embedded.candidates("unseen")))
    with pytest.raises(UserError, match="exactly one"):
        evals.build(section | dict(templates=["{} {}"]), "e").run(Oracle())


def test_captions_and_groups():
    """Two pictures of one group share their captions; a repeated caption of one item counts once."""
    items = [Record("a", b"1", {"alt": ("cat", "cat", "tabby")}, group=4), Record("b", b"2", {"alt": ("cat",)}, group=4),
             Record("c", b"3", {"alt": ("cat", "")})]
    ids = item_ids(items)
    assert ids[0] == ids[1] != ids[2]
    texts, owners = candidates(items, ("alt",))
    assert list(zip(texts, owners)) == [("cat", ids[0]), ("tabby", ids[0]), ("cat", ids[2])]


class Meanings(FakeModel):
    """A perfect model: pictures and texts of one meaning have one embedding."""

    pictures = None

    def __init__(self, of_picture, of_text=lambda text: text):
        self.mesh, self.of_picture, self.of_text, self.seen = make_mesh(), of_picture, of_text, 0

    def vector(self, meanings) -> np.ndarray:
        """The mean of some meanings' directions."""
        each = [np.random.default_rng(zlib.crc32(str(m).encode())).standard_normal(512) for m in sorted(meanings)]
        x = np.sum([e / np.linalg.norm(e) for e in each], axis=0)
        return (x / np.linalg.norm(x)).astype(np.float32)

    def images(self, source):
        self.seen = len(source)
        return np.stack([self.vector(self.of_picture(source[i])) for i in range(len(source))])

    def texts(self, texts):
        return np.stack([self.vector({self.of_text(t)}) for t in texts])


def png(n: int) -> bytes:
    return images.encode(np.full((8, 8, 3), 9 * n, np.uint8))


# picture -> captions; "a cat" stands under two pictures, once in capitals, "one  thing" with two blanks
SHOWN = {0: ("a cat", "an animal"), 1: ("A cat",), 2: ("a dog",), 3: ("one  thing", "another"), 4: ("one thing",)}


def as_rows():
    """One row a caption, as open_clip's CSV."""
    return [{"filepath": f"{n}.png", "caption": text} for n, texts in SHOWN.items() for text in texts]


def as_lists():
    return [{"filepath": f"{n}.png", "caption": list(texts)} for n, texts in SHOWN.items()]


def as_copies():
    """The same bytes under several names."""
    return [{"filepath": f"copy{i}-{n}.png", "caption": text} for n, texts in SHOWN.items() for i, text in enumerate(texts)]


def as_mixture():
    return as_lists() + as_rows()[::-1] + as_copies()


@pytest.mark.parametrize("layout, records", [(as_rows, 7), (as_lists, 5), (as_copies, 7), (as_mixture, 19)])
def test_a_perfect_model_finds_everything_in_every_layout(tmp_path, layout, records):
    for n, texts in SHOWN.items():
        for name in (f"{n}.png", *(f"copy{i}-{n}.png" for i in range(len(texts)))):
            (tmp_path / name).write_bytes(png(n))
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in layout()))
    source = dict(kind="jsonl", path=str(table), image_field="filepath")
    shown = {png(n): {" ".join(t.lower().split()) for t in texts} for n, texts in SHOWN.items()}
    model = Meanings(lambda record: shown[record.image], lambda text: " ".join(text.lower().split()))
    section = dict(kind="retrieval", source=source) | ({} if layout is not as_rows else dict(texts=["caption"]))
    found = evals.build(section, "e").run(model)
    assert {found[k] for k in ("i2t@1", "t2i@1", "r@1", "r@5", "r@10")} == {100.0}
    assert (found["images"], found["candidates"], found["merged_rows"]) == (5, 7, records - 5) and model.seen == 5
    assert found["repeated_captions"] == 2 and found["uncaptioned"] == 0
    blind = Meanings(lambda record: {"nothing"}, lambda text: "nothing")
    collapsed = evals.build(section, "e").run(blind)
    assert collapsed["i2t@1"] == collapsed["t2i@1"] == 0.0  # ties count against a model


def pool(*rows):
    """Of (picture, group, captions)."""
    return Pool.of([Record(str(i), bytes([picture]), {"alt": texts}, group=group)
                    for i, (picture, group, texts) in enumerate(rows)], ("alt",))


def test_what_belongs_together():
    """Against the definition: a caption is right for a picture if an item that shows the picture has its words."""
    rows = [(0, -1, ("a", "b")), (1, 3, ("c",)), (2, 3, ("A ",)), (0, 3, ("d",)), (4, -1, ("b",)), (5, -1, ()), (1, 7, ("e",))]
    made = pool(*rows)
    items = {0: {"a", "b", "c", "d"}, 1: {"a", "b", "c", "d", "e"},
             2: {"a", "b", "c", "d"}, 3: {"b"}, 4: set()}
    for picture, words in items.items():
        assert {made.captions[t].strip().lower() for t in range(len(made.captions)) if made.right(picture, t)} == words
    assert made.captioned.tolist() == [True, True, True, True, False] and made.picture.tolist() == [0, 1, 2, 0, 3, 4, 1]


def test_pictures_without_captions_ask_for_none(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"image": f"{n}.png", "caption": text}) + "\n"
                                              for n, text in enumerate(("a", "", "c"))))
    names = {png(0): "a", png(1): "b", png(2): "c"}
    found = evals.build(dict(kind="retrieval", source=dict(kind="jsonl", path=str(tmp_path / "t.jsonl"))), "e").run(
        Meanings(lambda record: {names[record.image]}))
    assert found["uncaptioned"] == 1 and found["images"] == 3 and found["i2t@1"] == found["t2i@1"] == 100


def test_scores_that_are_no_numbers_find_nothing():
    class Broken(Oracle):
        def images(self, source):
            return np.full((len(source), 64), np.nan, np.float32)

    assert evals.build(dict(kind="retrieval", source=TWEMOJI), "e").run(Broken())["r@10"] == 0
    assert evals.build(dict(kind="zeroshot", source=TWEMOJI, classes="emoji5:unseen"), "e").run(Broken())["acc@1"] == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    c = tiny_run.get_config()
    c.steps, c.checkpoint.every, c.eval_every = 4, 2, 2
    c.evals = [dict(kind="retrieval", name="unseen", source=TWEMOJI), dict(kind="gallery", source=TWEMOJI)]
    return workdir, trainer.train(c, str(workdir))


def test_evaluation_in_training_equals_mof_eval(trained):
    """The checkpoint carries all it takes: preprocessing, tokenizer, averaged parameters."""
    workdir, in_training = trained
    alone = evaluate(str(workdir))
    assert alone["unseen"] == pytest.approx(in_training["unseen"], abs=1e-3)
    assert (workdir / "retrieval.png").stat().st_size > 10_000


def test_mmvp_vlm_from_the_command_line(trained, tmp_path, capsys):
    """Written pairs, a real encoder, a line in `evals.jsonl`; MMVP itself asks more than an encoder can answer."""
    write_mmvp_vlm(str(tmp_path / "w"), vlm_pairs(1))
    options = ("--checkpoint", str(trained[0]), "--data-dir", str(tmp_path / "w"))
    assert cli.main(["eval", "--task", "mmvp_vlm", *options]) == 0
    line = read_lines(str(trained[0] / "evals.jsonl"))[-1]
    assert line["name"] == "mmvp_vlm" and line["version"].startswith("prompt 'a photo of '") and line["pairs"] == 9
    assert {line[f"image_score_{pattern}"] for pattern in PATTERNS} <= {0.0, 100.0}
    assert cli.main(["eval", "--task", "mmvp", *options]) == 1
    said = capsys.readouterr().err
    assert "'mmvp' requires generate; this task's models can embed/image, embed/text, tokens/image, which suits" in said


def test_follow_evaluates_every_checkpoint_once(trained):
    import shutil

    workdir, _ = trained
    copy = workdir.parent / "followed"
    shutil.copytree(workdir, copy)
    (copy / "evals.jsonl").unlink()
    evaluate(str(copy), follow=True, poll_s=0.1)
    steps = [json.loads(line)["step"] for line in (copy / "evals.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_a_step_can_be_named(trained):
    workdir, _ = trained
    assert restore(f"{workdir}/checkpoints/2").step == 2
    with pytest.raises(UserError, match=r"no such checkpoint \(complete steps: 4, 2\)"):
        restore(f"{workdir}/checkpoints/3")


def test_two_sources_of_one_name_and_size_are_told_apart(trained):
    """Decoded pictures are kept between evaluations; two splits of a world differ in nothing but their pictures."""
    embedder = restore(str(trained[0])).embedder
    train, test = (Scenes(12, split, 16) for split in ("train", "test"))
    assert train.name == test.name
    first, second = embedder.images(train), embedder.images(test)
    np.testing.assert_array_equal(embedder.images(train), first)
    np.testing.assert_array_equal(restore(str(trained[0])).embedder.images(test), second)
    assert np.abs(first - second).max() > 0


def test_a_model_that_embeds_is_not_asked(trained):
    with pytest.raises(UserError, match="task 'contrastive' answers no questions; it can embed/image, embed/text, tokens/image"):
        _ = restore(str(trained[0])).generator


def test_the_gallery_is_a_picture(trained):
    from PIL import Image

    workdir, _ = trained
    model = restore(str(workdir), workdir=str(workdir / "g"))
    Gallery(evals.build(dict(kind="retrieval", source=TWEMOJI), "e").source, queries=2, k=3).run(model.model)
    sheet = Image.open(workdir / "g" / "retrieval.png")
    assert sheet.width > 400 and len(sheet.getcolors(1 << 20)) > 100


def test_evaluator_mistakes():
    with pytest.raises(UserError, match=r"e.kind: missing"):
        evals.build(dict(source=TWEMOJI), "e")
    with pytest.raises(UserError, match=r"did you mean 'source'"):
        evals.build(dict(kind="retrieval", sourc=TWEMOJI), "e")
    with pytest.raises(UserError, match="no text of kind 'nothing'; the source has alt, tags; choose with texts"):
        Retrieval(evals.build(dict(kind="retrieval", source=TWEMOJI), "e").source, texts=("nothing",)).run(Oracle())
