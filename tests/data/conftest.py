"""Small data sets for the tests of `mof_jax.data`."""

from __future__ import annotations

import json
import tarfile

from data_samples import add, picture
import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keeps indexes and manifests inside the test's folder."""
    monkeypatch.setenv("MOF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    """A folder `table/` with ten pictures and `metadata.jsonl`; every record has a score and a group."""
    folder = tmp_path / "table"
    folder.mkdir()
    rows = []
    for i in range(10):
        (folder / f"{i}.jpg").write_bytes(picture(i))
        scores = {"dfn": i / 10, "clip": (9 - i) / 10}
        row = {"id": f"r{i}", "image": f"{i}.jpg", "alt": f"alt {i}", "synthetic": f"made {i}", "scores": scores}
        rows.append(row | {"tags": [f"t{i}", "all"], "group": i // 2})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture
def tars(tmp_path):
    """A folder `tars/` with two tars in img2dataset's layout, three samples each."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(3):
                key = f"{shard:05d}{i:04d}"
                add(tar, f"{key}.jpg", picture(10 * shard + i))
                add(tar, f"{key}.txt", f"caption {key}".encode())
                add(tar, f"{key}.json", json.dumps({"caption": f"caption {key}", "synthetic": f"made {key}"}).encode())
    return folder


@pytest.fixture(scope="session")
def tfds_folder(tmp_path_factory):
    """A tiny TFDS data set, prepared without TensorFlow (images are given as encoded bytes)."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path_factory.mktemp("package")  # TFDS would look for the package of this file

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "caption": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

        def _generate_examples(self, n):
            for i in range(n):
                yield i, {"image": picture(i), "caption": f"text {i}", "label": i % 2}

    folder = tmp_path_factory.mktemp("tfds")
    builder = Tiny(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)
