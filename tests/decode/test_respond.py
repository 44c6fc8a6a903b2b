"""An MLLM that answers: ragged batches with several pictures equal the full forward pass, stop strings, given answers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequence_samples import tokenizer
from small_models import quick_jit, weights

from mof_jax.data.image import images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.packing.sequences import Text, place, tokenize
from mof_jax.decode.respond import Generator
from mof_jax.decode.sample import SampleConfig
from mof_jax.errors import BadExample
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings
from mof_jax.models.fusion.interleaved import Interleaved
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, Mllm, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton

VIT = ViTConfig(width=16, depth=1, heads=2, mlp_dim=16, patch_size=4, image_size=8, pool="none")
IMAGES = tuple(images.encode(np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)) for i in range(4))
QUESTIONS = [("how many?", 1), ("a long question about two pictures, <image> and <image>?", 2), ("no picture at all", 0),
             ("first <image> then <image> and <image>", 3), ("red?", 1)]


@functools.cache
def config():
    llm = LLMConfig(vocab_size=tokenizer().vocab_size, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=24)
    return MllmConfig((EncoderConfig("clip", VIT), EncoderConfig("ssl", VIT)), llm, Interleaved())


@functools.cache
def generator(data=1, fsdp=1, tensor=1):
    grid = make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
    skeleton = Skeleton.of(lambda rngs: Mllm(config(), rngs))
    # Larger than initial values, so that answers differ from prompt to prompt.
    params = {path: jnp.asarray(3.0 * x if path.endswith(("kernel", "embedding")) else x)
              for path, x in weights(skeleton).items()}
    placed = jax.device_put(params, param_shardings(grid, skeleton))
    return Generator(config(), skeleton, grid, Preprocess(8), tokenizer(), "simple", batch_size=4).bind(placed)


def prompts(r, count=len(QUESTIONS)):
    return [r.ask(question, IMAGES[:n], f"q{i}") for i, (question, n) in enumerate(QUESTIONS[:count])]


@functools.cache
def forward():
    """One full forward pass without cache; what is behind the end of a row is never seen."""
    r = generator()

    def run(params, tokens, index, pixels):
        model = r.skeleton.merge(params)
        x = model.embed(tokens, index, model.image_tokens(pixels), 1)
        return model.llm.logits(model(x, jnp.arange(tokens.shape[1])[None], jnp.ones_like(tokens))[0])

    return quick_jit(run)


def logits_of(r, prompt, more=()):
    """Next-token logits at every position of a prompt and more tokens."""
    sample, k = tokenize(prompt.id, prompt.parts, r.tokenizer, r.model.tokens_per_image), r.model.tokens_per_image
    length = len(sample) + len(more)
    tokens, index, pixels = np.zeros((1, 160), np.int32), np.full((1, 160), -1, np.int32), np.zeros((3, 8, 8, 3), np.uint8)
    tokens[0, :length] = [*sample.tokens, *more]
    for j, start in enumerate(sample.starts):
        index[0, start : start + k], pixels[j] = j * k + np.arange(k), r.preprocess(sample.pictures[j], "", "")
    return np.asarray(forward()(r._params, tokens, index, pixels))[:length]


def full_greedy(r, prompt, count):
    out = []
    for _ in range(count):
        token = int(logits_of(r, prompt, out)[-1].argmax())
        if token == r.tokenizer.eos_id:
            break
        out.append(token)
    return r.tokenizer.decode(out)


def test_ragged_batches_with_several_pictures_equal_the_full_forward_pass():
    """Five prompts in two batches; more tokens than one chunk of the decoder."""
    r = generator()
    with jax.default_matmul_precision("highest"):
        answers = r.answer(prompts(r), 20)
        want = [full_greedy(r, prompt, 20) for prompt in prompts(r)]
    assert answers == want and len(set(answers)) == len(answers), answers


def test_a_sharded_model_answers_the_same():
    whole, sharded = generator(), generator(2, 2, 2)
    with jax.default_matmul_precision("highest"):
        assert sharded.answer(prompts(sharded), 8) == whole.answer(prompts(whole), 8)
        given = ["three apples"] * len(QUESTIONS)
        want = whole.log_probs(prompts(whole), given)[0]
        np.testing.assert_allclose(sharded.log_probs(prompts(sharded), given)[0], want, rtol=1e-4)


def test_log_probs_are_those_of_the_template_with_its_end():
    r = generator()
    given = ["one", "a red apple on the left", "yes"]
    with jax.default_matmul_precision("highest"):
        sums, counts = r.log_probs(prompts(r, 3), given)
        for prompt, answer, got, count in zip(prompts(r, 3), given, sums, counts):
            ids = tokenize("", r.template.reply(answer), r.tokenizer, 1).tokens
            assert ids[-1] == r.tokenizer.eos_id and count == len(ids)
            logs = np.asarray(jax.nn.log_softmax(logits_of(r, prompt, ids)))[-len(ids) - 1 : -1]
            np.testing.assert_allclose(got, logs[np.arange(len(ids)), ids].sum(), rtol=1e-4)


def test_stop_strings_end_an_answer_and_are_cut_off():
    r = generator()
    free = r.answer(prompts(r), 20)
    stop = free[0][3:5]
    stopped = r.answer(prompts(r), 20, stop=[stop])
    assert stopped[0] == free[0][: free[0].index(stop)].strip() and all(stop not in text for text in stopped)
    assert all(text if stop in text else text == other for text, other in zip(free, stopped) if stop not in text)


def test_draws_belong_to_the_prompt_not_to_its_batch():
    r, sample = generator(), SampleConfig(1.0, seed=5)
    many, few = r.answer(prompts(r), 8, sample), r.answer(prompts(r, 2), 8, sample)
    assert many[:2] == few
    assert r.answer(prompts(r, 2), 8, SampleConfig(1.0, seed=6)) != few


def test_a_prompt_and_its_reply_are_the_training_document():
    r = generator()
    turns = [{"role": "user", "content": "<image>\nhow many?"}, {"role": "assistant", "content": "two"}]
    prompt = r.ask("how many?", IMAGES[:1])
    ids = lambda parts: tokenize("", parts, r.tokenizer, 8).tokens.tolist()
    assert ids([*prompt.parts, *prompt.reply("two")]) == ids(place(r.template.spans(turns), IMAGES[:1], "", ""))
    assert not any(getattr(part, "supervised", False) for part in prompt.parts)


def test_plain_text_is_continued_without_a_template():
    r = generator()
    plain = r.text("caption: <image> a", IMAGES[:1])
    assert plain.template is None and [type(part).__name__ for part in plain.parts] == ["Special", "Text", "Picture", "Text"]
    assert plain.reply(" dog") == [Text(" dog")]


@pytest.mark.parametrize("question, images, line", [
    ("<image> and <image>", 1, "2 <image> placeholders for 1 images"), ("<video>\nwhat?", 0, "unknown placeholder <video>")])
def test_mistakes(question, images, line):
    with pytest.raises(BadExample, match=line):
        generator().ask(question, IMAGES[:images])


def test_a_damaged_picture_is_named():
    r = generator()
    with pytest.raises(BadExample, match="prompt: record q7: not a PNG"):
        r.answer([r.ask("what?", [b"junk"], "q7")])
