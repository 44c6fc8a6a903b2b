"""SigLIP's `.npz` files: the recorded SigLIP of `transformers`, stored as big_vision would, is the same model."""

from __future__ import annotations

import io
import zipfile

import foreign
import jax
import numpy as np
from parity_cases import CONTEXT, FIXTURES, HEADS, WIDTH, Sample, check
import pytest

from mof_jax import convert
from mof_jax.errors import UserError
from mof_jax.interop.big_vision import BigVision
from mof_jax.interop.source import Source
from mof_jax.nn.module import Skeleton

_DIM = WIDTH // HEADS


def members(theirs: dict[str, np.ndarray], scanned: bool) -> dict[str, np.ndarray]:
    """Flax's arrays of a SigLIP: kernels have the input first, and attention has its heads apart."""
    w, out = theirs, {}

    def dense(ours, name, shape=None):
        kernel = w[f"{name}.weight"].T
        out[f"{ours}/kernel"] = kernel if shape is None else kernel.reshape(shape)
        bias = w[f"{name}.bias"]
        out[f"{ours}/bias"] = bias if shape is None or shape[0] == HEADS else bias.reshape(shape[1:])

    def norm(ours, name):
        out[f"{ours}/scale"], out[f"{ours}/bias"] = w[f"{name}.weight"], w[f"{name}.bias"]

    def mlp(ours, name):
        dense(f"{ours}/MlpBlock_0/Dense_0", f"{name}.fc1")
        dense(f"{ours}/MlpBlock_0/Dense_1", f"{name}.fc2")

    for tower, encoder in (("vision_model", "params/img/Transformer"), ("text_model", "params/txt/Encoder_0")):
        for i in range(2):
            here, name = f"{encoder}/encoderblock_{i}", f"{tower}.encoder.layers.{i}"
            for word in ("query", "key", "value"):
                dense(f"{here}/MultiHeadDotProductAttention_0/{word}", f"{name}.self_attn.{word[0]}_proj", (WIDTH, HEADS, _DIM))
            dense(f"{here}/MultiHeadDotProductAttention_0/out", f"{name}.self_attn.out_proj", (HEADS, _DIM, WIDTH))
            norm(f"{here}/LayerNorm_0", f"{name}.layer_norm1")
            norm(f"{here}/LayerNorm_1", f"{name}.layer_norm2")
            mlp(here, f"{name}.mlp")
        if scanned:
            for leaf in [key.split("encoderblock_0/")[1] for key in out if f"{encoder}/encoderblock_0/" in key]:
                layers = [out.pop(f"{encoder}/encoderblock_{i}/{leaf}") for i in range(2)]
                out[f"{encoder}/encoderblock/{leaf}"] = np.stack(layers)
    norm("params/img/Transformer/encoder_norm", "vision_model.post_layernorm")
    norm("params/txt/Encoder_0/encoder_norm", "text_model.final_layer_norm")
    patch = w["vision_model.embeddings.patch_embedding.weight"]
    out["params/img/embedding/kernel"] = np.einsum("ocij->ijco", patch)
    out["params/img/embedding/bias"] = w["vision_model.embeddings.patch_embedding.bias"]
    out["params/img/pos_embedding"] = w["vision_model.embeddings.position_embedding.weight"][None]
    head, pool = "vision_model.head", "params/img/MAPHead_0"
    out[f"{pool}/probe"] = w[f"{head}.probe"]
    for i, word in enumerate(("query", "key", "value")):
        rows, here = slice(i * WIDTH, (i + 1) * WIDTH), f"{pool}/MultiHeadDotProductAttention_0/{word}"
        out[f"{here}/kernel"] = w[f"{head}.attention.in_proj_weight"][rows].T.reshape(WIDTH, HEADS, _DIM)
        out[f"{here}/bias"] = w[f"{head}.attention.in_proj_bias"][rows].reshape(HEADS, _DIM)
    dense(f"{pool}/MultiHeadDotProductAttention_0/out", f"{head}.attention.out_proj", (HEADS, _DIM, WIDTH))
    norm(f"{pool}/LayerNorm_0", f"{head}.layernorm")
    mlp(pool, f"{head}.mlp")
    out["params/txt/Embed_0/embedding"] = w["text_model.embeddings.token_embedding.weight"]
    out["params/txt/pos_embedding"] = w["text_model.embeddings.position_embedding.weight"][None]
    dense("params/txt/head", "text_model.head")
    return out | {"params/t": w["logit_scale"].reshape(1), "params/b": w["logit_bias"].reshape(1)}


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample.load(FIXTURES / "siglip.npz")


@pytest.mark.parametrize("scanned, save", [(False, np.savez), (True, np.savez_compressed)])
def test_the_same_features(scanned, save, sample, tmp_path):
    save(tmp_path / "siglip.npz", **members(sample.weights, scanned), **{"opt/0/count": np.int32(7)})
    source = Source.open(f"hf:{tmp_path}/siglip.npz")
    assert source.family.name == "siglip" and source.config.text.context_length == CONTEXT
    read = {name: source.weights.read(name) for name in source.weights.names}
    assert set(read) == set(sample.weights)
    assert all(np.array_equal(x.reshape(sample.weights[name].shape), sample.weights[name]) for name, x in read.items())
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    ours = skeleton.merge({path: source.reading.read(path) for path in source.reading.paths})
    with jax.default_matmul_precision("highest"):
        got = {"image": ours.embed_image(sample.inputs["images"]), "text": ours.embed_text(sample.inputs["tokens"])}
    check(jax.tree.map(np.asarray, got), {name: sample.outputs[name] for name in got})


@pytest.mark.parametrize("scanned, prefix, dtype", [(False, "params/", "float32"), (True, "", "float16")])
def test_there_and_back_bit_for_bit(scanned, prefix, dtype, sample, tmp_path):
    stored = {prefix + name.removeprefix("params/"): x.astype(dtype) for name, x in members(sample.weights, scanned).items()}
    (tmp_path / "theirs").mkdir()
    np.savez(tmp_path / "theirs" / "siglip.npz", **stored)
    foreign.vocabulary().save(str(tmp_path / "theirs" / "tokenizer.json"))
    convert.convert(f"hf:{tmp_path}/theirs/siglip.npz", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back/again.npz")
    with np.load(tmp_path / "back" / "again.npz") as back:
        assert set(back.files) == set(stored)
        for name in back.files:
            assert back[name].dtype == stored[name].dtype and back[name].shape == stored[name].shape, name
            assert back[name].tobytes() == np.ascontiguousarray(stored[name]).tobytes(), name
    words = [Source.open(f"hf:{tmp_path}/{path}").tokenizer(["red shoes"]) for path in ("theirs/siglip.npz", "back/again.npz")]
    assert np.array_equal(*words)


def test_a_model_of_transformers_as_npz(sample, tmp_path):
    foreign.write(tmp_path / "theirs", "siglip")
    convert.convert(f"hf:{tmp_path}/theirs", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/npz/siglip.npz")
    back, expected = BigVision(str(tmp_path / "npz" / "siglip.npz")), members(sample.weights, False)
    assert all(np.array_equal(back.read(name).reshape(x.shape), x) for name, x in sample.weights.items())
    with np.load(tmp_path / "npz" / "siglip.npz") as file:
        assert set(file.files) == set(expected) and all(np.array_equal(file[name], expected[name]) for name in expected)


def test_what_a_npz_does_not_hold(tmp_path):
    foreign.write(tmp_path / "clip", "clip")
    convert.convert(f"hf:{tmp_path}/clip", str(tmp_path / "ours"))
    with pytest.raises(UserError, match="format 'siglip' cannot hold this model"):
        convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/new/clip.npz")
    foreign.write(tmp_path / "siglip", "siglip")
    convert.convert(f"hf:{tmp_path}/siglip", str(tmp_path / "ours2"))
    with pytest.raises(UserError, match="is bfloat16, and a .npz holds float16, float32, float64; give --dtype f32"):
        convert.convert(str(tmp_path / "ours2"), f"hf:{tmp_path}/new/siglip.npz", "bf16")
    assert not (tmp_path / "new").exists()


def without(arrays, *names):
    return {name: x for name, x in arrays.items() if name not in names}


def test_files_that_are_no_siglip(sample, tmp_path):
    arrays, path = members(sample.weights, False), str(tmp_path / "x.npz")
    for changed, message in [
        (arrays | {"params/img/head/kernel": np.ones((2, 2))}, "nothing reads params/img/head/kernel"),
        (without(arrays, "params/t"), "has no params/t; of big_vision's models"),
        (without(arrays, "params/img/MAPHead_0/probe"), "has no params/img/MAPHead_0/probe"),
        (arrays | {"params/img/pos_embedding": np.ones((1, 3, WIDTH), np.float32)}, "pos_embedding is of shape .*expected"),
        (arrays | {"params/t": np.array(["x"])}, "t holds"),
        (arrays | {"params/t": np.ones(0, np.float32)}, "t holds"),
        (arrays | {"params/t": np.zeros(10_000_000, np.float32)}, "unpacks to more than 20 times its size"),
    ]:
        np.savez_compressed(path, **changed)
        with pytest.raises(UserError, match=message):
            BigVision(path)


def test_hostile_files(sample, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{"params/t": np.array([{"a": 1}], dtype=object)}, allow_pickle=True)
    with pytest.raises(UserError, match="t holds object"):
        BigVision(str(path))
    with zipfile.ZipFile(path, "w") as file:  # a header that promises more than there is
        file.writestr("params/t.npy", np.lib.format.magic(1, 0) + b"\x46\x00" + b"{'descr': '<f4', 'fortran_order': False, "
                                      b"'shape': (10**9,), }".ljust(69) + b"\n")
    with pytest.raises(UserError, match="params/t not a .npy file"):
        BigVision(str(path))
    np.savez(path, **members(sample.weights, False))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a .npz file, or damaged"):
        BigVision(str(path))


def head(text: bytes, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("member, message", [
    (head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,"), "params/t not a .npy file"),  # TokenError
    (head(b"{'descr': '<f4' 'x'"), "params/t not a .npy file"), (head(b"{] not python"), "params/t not a .npy file"),
    (head(b"{" * 5000), "params/t not a .npy file"), (b"", "params/t not a .npy file"),
    (b"\x93NUMPY", "params/t not a .npy file"),
    (head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "params/t says that its shape is"),
    (head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}" % 10**30), "params/t says that its shape is"),
    (head(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "params/t holds object"),
    (head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"\x09\x00"), "params/t .npy version .9, 0. is not read"),
    (head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}") + b"1234", "params/t holds float32.5. in"),
])
def test_members_that_are_no_arrays(member, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("params/t.npy", member)
    with pytest.raises(UserError, match=message) as caught:
        BigVision(str(tmp_path / "x.npz"))
    assert "\n" not in str(caught.value) and "x.npz" in str(caught.value)


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_members_whose_packed_bytes_are_damaged(how, sample, tmp_path):
    """Wherever a byte is changed, in the heads that opening reads or in the values, it is one line that names the file."""
    path, arrays, buffer = tmp_path / "x.npz", members(sample.weights, False), io.BytesIO()
    with zipfile.ZipFile(path, "w", how) as file:
        for name, x in arrays.items():
            buffer.seek(0), buffer.truncate()
            np.lib.format.write_array(buffer, np.ascontiguousarray(x))
            file.writestr(f"{name}.npy", buffer.getvalue())
    data, rng, said = path.read_bytes(), np.random.default_rng(0), 0
    for at in rng.integers(0, len(data), 60):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1:])
        try:
            weights = BigVision(str(path))
            for name in weights.names:
                weights.read(name)
        except UserError as error:
            said += 1
            assert "x.npz" in str(error) and "\n" not in str(error)
    assert said > 30
