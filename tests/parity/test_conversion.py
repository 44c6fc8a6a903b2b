"""`mof convert` on folders that `transformers` writes and reads: same numbers, the same bits back, and no warning."""

from __future__ import annotations

import dataclasses
import io
import json
import logging

import foreign
import jax
import jax.numpy as jnp
import numpy as np
from parity_cases import CONTEXT, EOS, IMAGE, PATCH, check, inputs
from parity_torch import pixels, randomise, tokens
import parity_transformers
from parity_transformers import IMAGE_ID, MODELS, WHOLE, features, sentence
from PIL import Image
import pytest
from tokenizers import processors
import torch
import transformers

from mof_jax import convert
from mof_jax.data.image import images
from mof_jax.decode.generate import generate
from mof_jax.interop.source import Source
from mof_jax.interop.weights import Weights
from mof_jax.nn.module import Skeleton
from mof_jax.restore import restore

pytestmark = pytest.mark.parity
ALL = MODELS | WHOLE
K = (IMAGE // PATCH) ** 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(kind)`: a model of the library and the folder with `hf`, as it saved itself, and `ours`, the checkpoint."""
    done = {}

    def make(kind):
        if kind not in done:
            folder, model = tmp_path_factory.mktemp(kind), randomise(ALL[kind](), seed=4)
            model.save_pretrained(folder / "hf")
            words = foreign.vocabulary()
            if kind == "bert":  # the recorded texts are padded with the last id, so it ends none
                words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
            words.save(str(folder / "hf" / "tokenizer.json"))
            convert.convert(f"hf:{folder}/hf", str(folder / "ours"))
            done[kind] = model, folder
        return done[kind]

    return make


@pytest.mark.parametrize("kind", ALL)
def test_there_and_back(kind, made, caplog):
    """Every tensor of the state dict, bit for bit, and nothing missing, unexpected or newly initialised."""
    model, folder = made(kind)
    convert.convert(str(folder / "ours"), f"hf:{folder}/back")
    options = dict(add_pooling_layer=False) if kind in ("vit", "bert") else {}
    found = []
    for name in ("hf", "back"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "transformers"):
            back, info = type(model).from_pretrained(folder / name, output_loading_info=True, **options)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        found.append([record.getMessage() for record in caplog.records if record.name.startswith("transformers")])
    assert found[1] == found[0], "what the library says of its own folder (a small vocabulary) it may say of ours"
    names = [Weights.open(str(folder / name)).names for name in ("hf", "back")]
    assert sorted(names[0]) == sorted(names[1])
    first, second = model.state_dict(), back.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", [kind for kind in MODELS])
def test_the_source_computes_what_the_library_computes(kind, made):
    """The model as `hf:…` opens it, from its config.json and its file alone."""
    model, folder = made(kind)
    source = Source.open(f"hf:{folder}/hf")
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    ours, given = skeleton.merge({path: source.reading.read(path) for path in source.reading.paths}), inputs(4, kind)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        if source.family.task == "llm":
            positions = jnp.broadcast_to(jnp.arange(2 * CONTEXT), given["tokens"].shape)
            got = {"logits": ours.llm.logits(ours.llm(ours.llm.embed(given["tokens"]), positions))}
            want = {"logits": model(input_ids=tokens(given["tokens"])).logits}
        elif source.family.task == "contrastive":
            got = {"image": ours.embed_image(given["images"]), "text": ours.embed_text(given["tokens"])}
            out = model(input_ids=tokens(given["tokens"]), pixel_values=pixels(given["images"]))
            want = {"image": out.image_embeds, "text": out.text_embeds}
        elif source.family.task == "words":
            got, want = {"text": ours.embed_text(given["tokens"])}, {"text": sentence(model, given["tokens"])}
        else:
            got = {"pooled": ours.encoder(given["images"]).pooled}
            want = {"pooled": features(model, given["images"])["pooled"]}
    check({k: np.asarray(x) for k, x in got.items()}, {k: x.numpy() for k, x in want.items()})


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_registers"])
@pytest.mark.parametrize("size", [(40, 40), (16, 16), (16, 48), (8, 32)])
def test_pictures_of_another_size(kind, size, made):
    """Positions are resampled as the library does it, to finer and coarser grids and to other shapes."""
    model, folder = made(kind)
    source = Source.open(f"hf:{folder}/hf")
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    ours = skeleton.merge({path: source.reading.read(path) for path in source.reading.paths})
    images = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        want = model(pixel_values=pixels(images)).last_hidden_state.numpy()
        check({"tokens": np.asarray(ours.encoder(images).tokens)}, {"tokens": want}, 2e-5)


def test_eos_is_found_wherever_it_stands(made):
    """CLIP's text feature, with the end of the text at every position, and with the wrong eos of the first config files."""
    model, folder = made("clip")
    source = Source.open(f"hf:{folder}/hf")
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    ours = skeleton.merge({path: source.reading.read(path) for path in source.reading.paths})
    rows = np.random.default_rng(1).integers(1, EOS, (CONTEXT, CONTEXT)).astype(np.int32)
    rows = np.where(np.arange(CONTEXT) >= np.arange(CONTEXT)[:, None], EOS, rows)
    for eos in (EOS, 2):
        model.text_model.eos_token_id = eos
        config = source.family.read(source.theirs | {"text_config": source.theirs["text_config"] | {"eos_token_id": eos}})
        ours.text.config = dataclasses.replace(ours.text.config, pool=config.text.pool, eos_id=config.text.eos_id)
        given = np.where(rows == 2, 3, rows)
        with torch.no_grad(), jax.default_matmul_precision("highest"):
            want = model.get_text_features(input_ids=tokens(given))
            want = getattr(want, "pooler_output", want).numpy()
            check({"text": np.asarray(ours.text(given))}, {"text": want})
    model.text_model.eos_token_id = EOS


def test_a_finetuned_clip_goes_back(made, tmp_path, caplog):
    """Import, two steps of training, export: the library loads it with no more to say than of its own folder, with the same
    pictures and words, and computes what we do."""
    model, _ = made("clip")
    hf, back, square = tmp_path / "hf", tmp_path / "back", {"height": IMAGE, "width": IMAGE}
    model.save_pretrained(hf)
    processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor(size={"shortest_edge": IMAGE}, crop_size=square).save_pretrained(hf)
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=foreign.vocabulary(), bos_token="<s>", eos_token="</s>",
                                                 pad_token="</s>", model_max_length=CONTEXT)
    words.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    words.save_pretrained(hf)
    foreign.finetune(f"hf:{hf}", tmp_path / "run")
    convert.convert(str(tmp_path / "run"), f"hf:{back}")
    files = lambda folder: {path.name: path.read_bytes() for path in folder.iterdir()}
    first, second = files(hf), files(back)
    assert first.keys() == second.keys()
    for name in first.keys() - {"model.safetensors", "config.json"}:
        same = (lambda x: x) if name.endswith(".jinja") else json.loads
        assert same(first[name]) == same(second[name]), name
    before, config = json.loads(first["config.json"]), json.loads(second["config.json"])
    for tower in ("text_config", "vision_config"):  # the library leaves its default there and reads the one above
        assert config[tower]["projection_dim"] == before["projection_dim"]
        del before[tower]["projection_dim"]
    assert convert.merge(config, before) == config, "every other value that came is there, unchanged"
    found = []
    for folder in (hf, back):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "transformers"):
            loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
            pictures, tokenizer = processor.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        found.append([record.getMessage() for record in caplog.records if record.name.startswith("transformers")])
    assert found[1] == found[0]
    assert tokenizer.chat_template == words.chat_template and tokenizer.pad_token == "</s>"
    moved = [name for name, x in model.state_dict().items() if not torch.equal(x, loaded.state_dict()[name])]
    assert len(moved) > 20, "trained"
    restored = restore(str(tmp_path / "run"))
    ours, picture, captions = restored.run.skeleton.merge(restored.params), noise(), ["w1 w2", "w3 w4 w5"]
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        given = pictures(Image.open(io.BytesIO(picture)), return_tensors="pt")["pixel_values"]
        ids = tokenizer(captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")["input_ids"]
        out = loaded(input_ids=ids, pixel_values=given)
        mine = restored.run.preprocess(picture, "test", "picture")
        got = {"image": ours.embed_image(mine[None]), "text": ours.embed_text(restored.run.tokenizer(captions))}
    check({k: np.asarray(x) for k, x in got.items()}, {"image": out.image_embeds.numpy(), "text": out.text_embeds.numpy()})


def noise() -> bytes:
    """One encoded picture of nothing, not square."""
    return images.encode(np.random.default_rng(0).integers(0, 256, (51, 40, 3), np.uint8))


# How many pictures each row of a batch shows, and the words around them.
BATCHES = {"one": [1], "several": [3], "padded": [1, 2, 0, 1], "words": [0, 0]}


@pytest.mark.parametrize("batch", BATCHES)
def test_llavas_greedy_answers_are_the_librarys(batch, made):
    """Token for token: one picture, several, and a padded batch."""
    model, folder = made("llava")
    rng = np.random.default_rng(7)
    rows, pictures = [], []
    for count in BATCHES[batch]:
        row = [0, *rng.integers(1, IMAGE_ID, 3)]
        for _ in range(count):
            row += [IMAGE_ID] * K + [*rng.integers(1, IMAGE_ID, rng.integers(1, 5))]
        rows.append(row + [*rng.integers(1, IMAGE_ID, 2)])
        pictures.append(rng.standard_normal((count, IMAGE, IMAGE, 3)).astype(np.float32))
    want = theirs_greedy(model, rows, np.concatenate(pictures), 12)
    got = ours_greedy(str(folder / "ours"), rows, pictures, 12)
    for mine, other in zip(got, want, strict=True):
        end = np.flatnonzero(other == EOS)
        stop = end[0] + 1 if len(end) else len(other)
        assert mine[:stop].tolist() == other[:stop].tolist()
    assert len({tuple(row) for row in want.tolist()}) > 1 or len(rows) == 1, "answers that depend on nothing prove nothing"


def theirs_greedy(model, rows, images, count) -> np.ndarray:
    """The library's new tokens; it pads in front."""
    width = max(map(len, rows))
    ids = np.array([[EOS] * (width - len(row)) + row for row in rows])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    given = {"pixel_values": pixels(images)} if len(images) else {}
    out = model.generate(input_ids=tokens(ids), attention_mask=tokens(mask), **given, max_new_tokens=count, min_new_tokens=count,
                         do_sample=False, pad_token_id=EOS, eos_token_id=None)
    return out[:, width:].numpy()


def ours_greedy(checkpoint, rows, pictures, count) -> np.ndarray:
    """Ours; rows are padded behind, and every row has a buffer of its own for pictures."""
    restored = restore(checkpoint)
    model = restored.run.skeleton.merge(restored.params)
    width, most = max(map(len, rows)), max(map(len, pictures))
    ids = np.array([row + [EOS] * (width - len(row)) for row in rows], np.int32)
    index = np.where(ids == IMAGE_ID, np.cumsum(ids == IMAGE_ID, axis=1) - 1, -1)
    buffer = np.concatenate([np.pad(x, ((0, most - len(x)), (0, 0), (0, 0), (0, 0))) for x in pictures])
    with jax.default_matmul_precision("highest"):
        seen = model.image_tokens(jnp.asarray(buffer)) if most else None
        prompts = model.embed(jnp.asarray(ids), jnp.asarray(index), seen, streams=len(rows))
        # No token ends an answer here, so that all of them are compared.
        return np.asarray(generate(model.llm, prompts, jnp.array([len(row) for row in rows]), count, eos_id=-1))


def test_the_families_of_the_library_are_all_here():
    others = {"open_clip", "timm_gap", "llava_parts", "efficientnet"}
    assert set(parity_transformers.MODELS) - {"vit_mae"} | set(WHOLE) == set(foreign.CONFIGS) - others
