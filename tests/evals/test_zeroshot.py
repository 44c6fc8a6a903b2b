"""Class lists, folders and templates of zero-shot classification; a model that is perfect has 100 % on each."""

from __future__ import annotations

import logging

from fake_model import FakeModel
import numpy as np
import pytest

from mof_jax import evals
from mof_jax.data.image import images
from mof_jax.data.sources import SOURCES
from mof_jax.errors import UserError
from mof_jax.evals.embed.classes import Classes
from mof_jax.evals.embed.labelled_sources import Labels
from mof_jax.evals.embed.prompts import phrases
from mof_jax.evals.embed.retrieval import same_words
from mof_jax.mesh import make_mesh

FOLDERS = ("golden_retriever", "tiger shark", "Crane")


class Perfect(FakeModel):
    """A picture and a text of the same words have one embedding; it keeps what it was asked."""

    def __init__(self):
        self.mesh, self.asked = make_mesh(), []

    def vector(self, text: str) -> np.ndarray:
        x = np.random.default_rng(list(same_words(text.replace("_", " ")).encode())).standard_normal(64)
        return (x / np.linalg.norm(x)).astype(np.float32)

    def images(self, source):
        return np.stack([self.vector(source[i].attributes["label"].rpartition("/")[2]) for i in range(len(source))])

    def texts(self, texts):
        self.asked += texts
        return np.stack([self.vector(text) for text in texts])


def folder(root, names=FOLDERS):
    for n, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            (root / name / f"{i}.png").write_bytes(images.encode(np.full((8, 8, 3), 20 * n + i, np.uint8)))
    return dict(kind="folder", path=str(root))


def run(source, **section):
    model = Perfect()
    return evals.build(dict(kind="zeroshot", source=source, **section), "e").run(model), model


@pytest.mark.parametrize("lines, repeated, empty", [
    ("golden retriever\ntiger shark\ncrane\n", 0, 0), ("golden_retriever\r\ntiger shark\r\nCrane\r\n", 0, 0),
    ("golden retriever\ntiger shark\ncrane\ngolden retriever\n", 1, 0),
    ("crane\n\ntiger  shark\nCRANE\nGolden Retriever\ncrane", 2, 0),
    ("\ufeffgolden_retriever\ntiger shark\ncrane\npuffin\n", 0, 1)])
def test_class_lists(tmp_path, lines, repeated, empty):
    (tmp_path / "classes.txt").write_bytes(lines.encode())
    found, _ = run(folder(tmp_path / "val"), classes=str(tmp_path / "classes.txt"))
    assert found["acc@1"] == found["mean_class_acc@1"] == 100 and found["images"] == 6 and found["classes"] == 3 + empty
    assert (found["repeated_classes"], found["empty_classes"]) == (repeated, empty)


def test_names_of_a_class_list_are_prompted_as_written(tmp_path):
    (tmp_path / "c.txt").write_text("golden_retriever\ntiger shark\nCrane\n")
    _, model = run(folder(tmp_path / "val"), classes=str(tmp_path / "c.txt"), names="spaces", templates=["a {} here"])
    assert model.asked == ["a golden_retriever here", "a tiger shark here", "a Crane here"]


def test_underscores_of_folders(tmp_path, caplog):
    source = folder(tmp_path / "val")
    with caplog.at_level(logging.WARNING, "mof_jax.evals"):
        as_is, model = run(source)
    assert model.asked == ["Crane", "golden_retriever", "tiger shark"] and "names='spaces' says it in words" in caplog.text
    caplog.clear()
    found, model = run(source, names="spaces")
    assert model.asked == ["Crane", "golden retriever", "tiger shark"] and not caplog.text
    assert as_is["acc@1"] == found["acc@1"] == 100


def test_labels_that_are_one_class(tmp_path):
    found, _ = run(folder(tmp_path, ("a_cat", "a cat", "A Cat", "dog")))
    assert found["acc@1"] == 100 and found["classes"] == 2 and found["repeated_classes"] == 2 and found["images"] == 8


def test_equally_close_classes_count_against_the_model(tmp_path):
    class Blind(Perfect):
        def vector(self, text):
            return np.ones(4, np.float32) / 2

    found = evals.build(dict(kind="zeroshot", source=folder(tmp_path)), "e").run(Blind())
    assert found["acc@1"] == found["mean_class_acc@1"] == 0 and found["acc@5"] == 100


@pytest.mark.parametrize("names, message", [
    (("val/cat", "val/dog"), "folders inside folders .'val/cat'.; give the folder that holds the class folders, .*/data/val$"),
    (("train/cat", "val/cat"), "give the folder that holds the class folders, .*/data/train or .*/data/val$"),
    (("animals/cat", "dog"), "folders inside folders"),
    (("", "cat"), "2 of 4 pictures lie in no class folder, the first is '0.png'; give the folder that holds a folder for each"),
    (("",), "2 of 2 pictures lie in no class folder")])
def test_another_level_of_folders(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        run(folder(tmp_path / "data", names))


def test_folders_inside_folders_may_be_named_by_a_class_list(tmp_path):
    (tmp_path / "c.txt").write_text("animals/cat\nplants/oak\n")
    source = folder(tmp_path / "data", ("animals/cat", "plants/oak"))
    found, model = run(source, classes=str(tmp_path / "c.txt"))
    assert found["classes"] == 2 and model.asked == ["animals/cat", "plants/oak"]
    (tmp_path / "c.txt").write_text("cat\noak\n")
    with pytest.raises(UserError, match="the class folders, .*/animals or .*/plants"):
        run(source, classes=str(tmp_path / "c.txt"))


def test_numbers_count_the_entries_of_a_class_list(tmp_path):
    (tmp_path / "c.txt").write_text("crane\nshark\nCrane\n")
    found = Classes.of(str(tmp_path / "c.txt"), ["0", "1", "2", "2"], "e.classes")
    assert found.names == ["crane", "shark"] and found.targets.tolist() == [0, 1, 0, 0] and found.repeated == 1
    for labels, message in ((["0", "3"], "label '3' is beyond the class list; its 3 entries count from 0"),
                            (["0", "9" * 5000], "is beyond the class list"),
                            (["0", "-1"], "label '0' is not in the class list"),
                            (["0", "crane"], "label '0' is not in the class list")):
        with pytest.raises(UserError, match=message):
            Classes.of(str(tmp_path / "c.txt"), labels, "e.classes")
    (tmp_path / "c.txt").write_text("crane\n\nshark\n")
    with pytest.raises(UserError, match="c.txt line 2: is blank"):
        Classes.of(str(tmp_path / "c.txt"), ["0", "1"], "e.classes")
    (tmp_path / "c.txt").write_text("7\n8\n")
    assert Classes.of(str(tmp_path / "c.txt"), ["8", "7"], "e.classes").targets.tolist() == [1, 0]  # names that are numbers


@pytest.mark.parametrize("data, message", [
    ("crane\ncafé\n".encode("latin-1"), "c.txt line 2: byte 0xe9 at 9 is not UTF-8"),
    ("crane".encode("utf-16"), "c.txt line 1: is UTF-16"),
    (b"crane\ncat\0\n", "c.txt line 2: a NUL"), (b"\n \n", "c.txt: the file is empty"),
    (b"crane\n", "is not in the class list")])
def test_class_lists_that_cannot_be_read(tmp_path, data, message):
    (tmp_path / "c.txt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        run(folder(tmp_path / "val", ("Crane", "cat")), classes=str(tmp_path / "c.txt"))


@pytest.mark.parametrize("template, prompt", [
    ("a photo of a {}.", "a photo of a cat."), ("a photo of a {c}.", "a photo of a cat."), ("{class}", "cat"),
    ("100% {label}!", "100% cat!")])
def test_templates(tmp_path, template, prompt):
    source = folder(tmp_path / "val", ("cat",))
    (tmp_path / "t.txt").write_text(f"\ufeff{template}\n\n{{}}\n")
    assert run(source, templates=[template])[1].asked == [prompt]
    assert run(source, templates=[str(tmp_path / "t.txt")])[1].asked == [prompt, "cat"]


def test_braces_in_names_stay(tmp_path):
    assert run(folder(tmp_path, ("{0} {a}", "{}")), templates=["a {}"])[1].asked == ["a {0} {a}", "a {}"]


@pytest.mark.parametrize("template, message", [
    ("a {photo} of {}", "has braces besides the one"), ("a {{photo}} of {}", "has braces besides"),
    ("{} and {c}", "exactly one {} .*has 2"),
    ("a photo", "templates: 'a photo' has no {} for the name, and there is no such file")])
def test_templates_that_are_refused(tmp_path, template, message):
    with pytest.raises(UserError, match=message):
        phrases([template])
    (tmp_path / "t.txt").write_text(f"{{}}\n{template}\n")
    with pytest.raises(UserError, match="t.txt line 2: template"):
        phrases([str(tmp_path / "t.txt")])


def test_a_classifier_counts_what_it_leaves_out_and_refuses_a_folder_of_splits(tmp_path):
    source = lambda path: SOURCES["folder"](path=str(tmp_path / path))
    folder(tmp_path / "data/train", ("cat", "dog"))
    folder(tmp_path / "data/val", ("cat", "owl"))
    assert Labels.read(source("data/train"), source("data/val"), "label").counts == {"images": 2, "classes": 2, "left_out": 2}
    with pytest.raises(UserError, match="the class folders, .*/data/train or .*/data/val"):
        Labels.read(source("data"), source("data"), "label")
