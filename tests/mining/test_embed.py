"""Embeddings on disk: the same rows whatever the devices and interruptions, and files that are never trusted."""

from __future__ import annotations

import io
import json
import pickle

import jax
import numpy as np
from PIL import Image
import pytest
from rich.console import Console
import small_models

from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.record import Record
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.embed.embedder import Embedder
from mof_jax.mesh import MeshConfig, make_mesh
from mof_jax.mining.embed import embed
from mof_jax.mining.embeddings import Embeddings
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask

QUIET = Console(quiet=True)


class Pictures:
    """Noise; records 3 and 11 cannot be read."""

    name = "pictures"

    def __init__(self, count: int = 21, bad: tuple[int, ...] = (3, 11), seed: int = 0):
        self.count, self.bad, self.seed, self.read = count, bad, seed, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        self.read.append(index)
        if index == 11 and 11 in self.bad:
            raise BadExample(self.name, "p11", "gone")
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng([self.seed, index]).integers(0, 256, (16, 16, 3), np.uint8)).save(out, "PNG")
        return Record(f"p{index}", b"no picture" if index in self.bad else out.getvalue(), {})

    def id(self, index: int) -> str:
        return f"p{index}"

    @property
    def fingerprint(self) -> str:
        return f"{self.count} {self.seed}"


def encoder(devices: int, seed: int = 0) -> Embedder:
    """A tiny image tower, and raw pixels as patches."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    task = ContrastiveTask(small_models.two_tower(), Softmax())
    skeleton = Skeleton.of(task.build)
    predictors = {"embed/image": lambda model, x: model.embed_image(x),
                  "tokens/image": lambda model, x: x.reshape(len(x), 8, 96) / 255.0}
    return Embedder(predictors, skeleton, mesh, Preprocess(16), None, batch_size=8).bind(small_models.weights(skeleton, seed))


@pytest.fixture(scope="module")
def one() -> Embedder:
    return encoder(1)


@pytest.fixture(scope="module")
def whole(one, tmp_path_factory) -> Embeddings:
    return embed(one, Pictures(), str(tmp_path_factory.mktemp("whole") / "e"), shard=8, console=QUIET)


class TestEmbed:
    def test_bad_pictures_are_marked_and_shift_nothing(self, one, whole):
        good = one.embed_images(lambda i: Pictures(bad=())[i], "pictures", 21)
        assert np.flatnonzero(~whole.valid).tolist() == [3, 11]
        np.testing.assert_allclose(whole.rows(0, 21)[whole.valid], good[whole.valid], atol=1e-6)
        assert not whole.rows(3, 4).any() and whole.ids == [f"p{i}" for i in range(21)]
        assert [record for record, _ in whole.manifest["invalid_examples"]] == ["p3", "p11"]
        with pytest.raises(BadExample, match="p3"):
            embed(one, Pictures(), whole.path + "-strict", shard=8, strict=True, console=QUIET)

    def test_eight_devices_give_the_same_rows(self, whole, tmp_path):
        found = embed(encoder(8), Pictures(), str(tmp_path / "e"), shard=8, console=QUIET)
        np.testing.assert_allclose(found.rows(0, 21), whole.rows(0, 21), atol=1e-6)
        assert found.manifest["model"] == whole.manifest["model"]

    def test_an_interrupted_run_goes_on_with_what_is_missing(self, one, whole, tmp_path):
        class Stops(Pictures):
            def __getitem__(self, index: int) -> Record:
                if index == 16:
                    raise KeyboardInterrupt
                return super().__getitem__(index)

        folder = str(tmp_path / "e")
        with pytest.raises(KeyboardInterrupt):
            embed(one, Stops(), folder, shard=8, console=QUIET)
        with pytest.raises(UserError, match="unfinished; run the same"):
            Embeddings.open(folder)
        rest = Pictures()
        found = embed(one, rest, folder, shard=8, console=QUIET)
        assert min(rest.read) == 16
        np.testing.assert_array_equal(found.rows(0, 21), whole.rows(0, 21))
        assert found.fingerprint == whole.fingerprint
        rest.read.clear()
        embed(one, rest, folder, shard=8, console=QUIET)
        assert not rest.read, "complete already"

    @pytest.mark.parametrize("change, message", [
        (dict(source=Pictures(seed=1)), "another source"), (dict(seed=1), "another model"), (dict(shard=4), "another shard size"),
        (dict(dtype="float16"), "another dtype"), (dict(which="patches"), "another kind of features"),
        (dict(source=Pictures(20)), "another source and another number of records"),
    ])
    def test_a_folder_of_something_else_is_refused(self, one, whole, change, message):
        change = {"shard": 8, "source": Pictures()} | change
        model = encoder(1, change.pop("seed")) if "seed" in change else one
        with pytest.raises(UserError, match=message):
            embed(model, change.pop("source"), whole.path, console=QUIET, **change)

    @pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 2**-8), ("float16", 2**-11)])
    def test_other_dtypes_and_patches(self, one, tmp_path, dtype, tolerance):
        source = Pictures(9, bad=())
        found = embed(one, source, str(tmp_path / "e"), which="patches", dtype=dtype, shard=4, console=QUIET)
        expected = np.stack([np.asarray(Image.open(io.BytesIO(source[i].image))) for i in range(9)]).reshape(9, 8, 96) / 255
        assert found.row_shape == (8, 96) and len(found) == 9
        np.testing.assert_allclose(found.rows(0, 9), expected, rtol=tolerance)
        np.testing.assert_array_equal(found.take(np.array([8, 0, 5])), found.rows(0, 9)[[8, 0, 5]])
        np.testing.assert_array_equal(found.rows(3, 6), found.rows(0, 9)[3:6])

    def test_an_unknown_kind_of_embedding(self, one, tmp_path):
        with pytest.raises(UserError, match="unknown kind of features 'patch' .did you mean 'patches'"):
            embed(one, Pictures(), str(tmp_path / "e"), which="patch", console=QUIET)


class TestFiles:
    def save(self, path, array) -> str:
        np.save(path, array)
        return str(path)

    def test_a_plain_file(self, tmp_path):
        rows = np.random.default_rng(0).standard_normal((7, 3))
        for n, stored in enumerate((rows, rows.astype(np.float16), np.asfortranarray(rows.astype(np.float32)))):
            found = Embeddings.open(self.save(tmp_path / f"{n}.npy", stored))
            np.testing.assert_array_equal(found.rows(2, 5), stored[2:5].astype(np.float32))
            np.testing.assert_array_equal(found.take(np.array([6, 1])), stored[[6, 1]].astype(np.float32))
            assert found.ids is None and found.dim == 3 and found.valid.all()
        copy = Embeddings.open(self.save(tmp_path / "copy.npy", rows))
        assert copy.fingerprint == Embeddings.open(str(tmp_path / "0.npy")).fingerprint != found.fingerprint

    def test_files_that_are_not_embeddings(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return exec, ("raise SystemExit('unpickled')",)

        good = np.zeros((4, 3), np.float32)
        data = io.BytesIO()
        np.save(data, good)
        data = data.getvalue()
        objects = np.empty((2, 2), object)
        objects[:] = Evil()
        np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
        files = {
            "short.npy": (data[:-5], "truncated"), "long.npy": (data + b"x", "longer than its header says"),
            "pickle.npy": (pickle.dumps(Evil()), "not a .npy file"), "empty.npy": (b"", "not a .npy file"),
            "huge.npy": (data.replace(b"(4, 3)", b"(4e9,)"), "not a .npy file"),
            "code.npy": (data.replace(b"(4, 3)", b"exit()"), "not a .npy file"),
            "negative.npy": (data.replace(b"(4, 3)", b"(-4,3)"), "says that its shape is"),
        }
        for name, (content, message) in files.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{name}.*({message})"):
                Embeddings.open(str(tmp_path / name))
        for name, array in (("ints.npy", np.zeros((4, 3), int)), ("flat.npy", good[0]), ("none.npy", good[:0])):
            with pytest.raises(UserError, match=f"{name}: holds .*expected floats of shape"):
                Embeddings.open(self.save(tmp_path / name, array))
        with pytest.raises(UserError, match="never loaded"):
            Embeddings.open(str(tmp_path / "objects.npy"))
        with pytest.raises(UserError, match="no such file"):
            Embeddings.open(str(tmp_path / "nowhere.npy"))
        with pytest.raises(UserError, match="no embeddings there"):
            Embeddings.open(str(tmp_path))

    def test_a_folder_with_a_damaged_shard(self, one, tmp_path):
        folder = tmp_path / "e"
        embed(one, Pictures(), str(folder), shard=8, console=QUIET)
        shard, manifest = folder / "features-00001-of-00003.npy", folder / "manifest.json"
        content = shard.read_bytes()
        shard.write_bytes(content[:-1])
        with pytest.raises(UserError, match="features-00001-of-00003.npy: truncated"):
            Embeddings.open(str(folder))
        np.save(shard, np.zeros((8, 4), np.float32))
        with pytest.raises(UserError, match=r"shape \(8, 4\), the manifest says float32 of \(8, 8\)"):
            Embeddings.open(str(folder))
        shard.write_bytes(content)
        found = json.loads(manifest.read_text())
        for broken in ("{", json.dumps(found | {"dtype": "object"}), json.dumps({"kind": found["kind"]})):
            manifest.write_text(broken)
            with pytest.raises(UserError, match="manifest.json: not"):
                Embeddings.open(str(folder))
