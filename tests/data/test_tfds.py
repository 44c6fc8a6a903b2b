"""TFDS features that hold texts: alone, in lists, inside others; read as what they are or refused by name."""

from __future__ import annotations

import json
import pathlib
import sys

from data_samples import picture
import numpy as np
import pytest

from mof_jax.data.sources.tfds import TfdsSource
from mof_jax.errors import BadExample, UserError


@pytest.fixture
def prepare(tmp_path):
    """Prepares a set of three pictures with these features, whose examples `row(i)` gives; its folder."""
    import tensorflow_datasets as tfds

    def prepared(features, row) -> str:
        class Texts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            name = "texts"
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = tmp_path

            def _info(self):
                image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
                every = tfds.features.FeaturesDict({"image": image, **features(tfds.features)})
                return tfds.core.DatasetInfo(builder=self, features=every)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i in range(3):
                    yield i, {"image": picture(i), **row(i)}

        builder = Texts(data_dir=str(tmp_path), file_format="array_record")
        builder.download_and_prepare()
        return str(builder.data_path)

    return prepared


def label(f):
    return f.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize("features, row, texts", [
    (lambda f: {"captions": f.Sequence(f.Text()), "label": label(f)},
     lambda i: {"captions": [f"a {i}", f"b {i}"], "label": i % 2}, lambda i: {"captions": (f"a {i}", f"b {i}")}),
    (lambda f: {"captions": f.Sequence({"text": f.Text(), "id": np.int64})},
     lambda i: {"captions": [{"text": f"a {i}", "id": i}]}, lambda i: {"captions": (f"a {i}",)}),
    (lambda f: {"caption": f.Text(), "tags": f.Sequence(f.Text()), "label": label(f)},
     lambda i: {"caption": f"a {i}", "tags": ["x"], "label": 1},
     lambda i: {"caption": (f"a {i}",), "tags": ("x",), "label": ("dog",)}),
    (lambda f: {"label": label(f), "n": np.int64}, lambda i: {"label": 0, "n": i}, lambda i: {"label": ("cat",)}),
    (lambda f: {"labels": f.Sequence(label(f)), "words": f.FeaturesDict({"text": f.Text(), "n": np.int64})},
     lambda i: {"labels": [0, 1], "words": {"text": f"a {i}", "n": i}}, lambda i: {"words": (f"a {i}",)}),
])
def test_texts_in_lists_and_objects(prepare, features, row, texts):
    source = TfdsSource(prepare(features, row))
    found = {source[i].image: dict(source[i].texts) for i in range(3)}
    assert found == {picture(i): texts(i) for i in range(3)}


def test_texts_that_are_named(prepare):
    features = lambda f: {"captions": f.Sequence({"text": f.Text(), "id": np.int64}), "labels": f.Sequence(label(f)),
                          "n": np.int64}
    path = prepare(features, lambda i: {"captions": [{"text": "a", "id": i}], "labels": [0, 1], "n": i})
    for feature, texts in (("captions", ("a",)), ("captions/text", ("a",)), ("labels", ("cat", "dog"))):
        assert TfdsSource(path, text_fields={"alt": feature})[0].texts == {"alt": texts}
    for feature, says in (("captions/id", "holds no text .texts: captions/text"), ("n", "feature 'n' holds no text"),
                          ("image", "holds no text"), ("captions/words", "no feature 'captions/words' .has ")):
        with pytest.raises(UserError, match=says):
            TfdsSource(path, text_fields={"alt": feature})


def test_several_texts_in_one_feature_are_refused(prepare):
    features = lambda f: {"dialog": f.Sequence({"question": f.Text(), "answer": f.Text()})}
    path = prepare(features, lambda i: {"dialog": [{"question": "q", "answer": "a"}]})
    with pytest.raises(UserError, match="feature 'dialog' holds several texts; choose with text_fields among dialog/"):
        TfdsSource(path)
    assert TfdsSource(path, text_fields={"alt": "dialog/answer"})[0].texts == {"alt": ("a",)}


def test_text_that_is_none_is_a_bad_record(prepare):
    path = prepare(lambda f: {"caption": f.Text()}, lambda i: {"caption": b"caf\xe9" if i == 1 else b"fine"})
    source, bad = TfdsSource(path), []
    for i in range(3):
        try:
            assert source[i].texts == {"caption": ("fine",)}
        except BadExample as error:
            bad.append(error.reason)
    assert bad == ["column 'caption': byte 0xe9 at 3 is not UTF-8"]


def test_the_content_changes_with_the_files(prepare, tmp_path):
    path = prepare(lambda f: {"caption": f.Text()}, lambda i: {"caption": "a"})
    before = TfdsSource(path).content
    assert TfdsSource(path).content == before != TfdsSource(path, "train[:2]").content
    (file,) = [file for file in (tmp_path / "texts/1.0.0").iterdir() if "array_record" in file.name]
    file.write_bytes(file.read_bytes() + b"\0")
    assert TfdsSource(path).content != before


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_no_module_is_imported_because_a_file_names_it(prepare, tmp_path, monkeypatch, key):
    path = pathlib.Path(prepare(lambda f: {"caption": f.Text()}, lambda i: {"caption": "a"}))
    (tmp_path / "planted_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    file = path / "features.json"
    found = json.loads(file.read_text())
    found["featuresDict"]["features"]["caption"] = {key: "planted_module.Text"}
    file.write_text(json.dumps(found))
    with pytest.raises(UserError, match="features.json: a feature of class 'planted_module.Text', which is not of TFDS"):
        TfdsSource(str(path))
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "\xff"])
def test_features_that_are_none_are_said(prepare, text):
    path = pathlib.Path(prepare(lambda f: {"caption": f.Text()}, lambda i: {"caption": "a"}))
    (path / "features.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match="features.json: ") as caught:
        TfdsSource(str(path))
    assert str(caught.value).isprintable()


def test_a_class_without_a_name_is_a_bad_record(prepare):
    path = pathlib.Path(prepare(lambda f: {"label": label(f)}, lambda i: {"label": i % 2}))
    (path / "label.labels.txt").write_text("cat\n")
    source = TfdsSource(str(path))
    good, bad = [], []
    for i in range(3):
        try:
            good.append(source[i].texts["label"])
        except BadExample as error:
            bad.append(error.reason)
    assert good and set(good) == {("cat",)} and bad and set(bad) == {"feature 'label' has a class without a name: [1]"}


def test_a_picture_that_is_a_number_is_a_bad_record(prepare):
    """`bytes(n)` would be n zeros."""
    source = TfdsSource(prepare(lambda f: {"n": np.int64, "caption": f.Text()}, lambda i: {"n": 10, "caption": "a"}),
                        image_field="n")
    with pytest.raises(BadExample, match="feature 'n' holds int, no picture"):
        source[0]
