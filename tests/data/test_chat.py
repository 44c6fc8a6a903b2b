"""Templates: what they write, what of it is learned, and that a prompt is the beginning of its conversation."""

import pytest
from sequence_samples import tokenizer

from mof_jax.data.packing.sequences import Special, Text, tokenize
from mof_jax.data.text.chat import TEMPLATES, template
from mof_jax.errors import BadExample, UserError

ASK = {"role": "user", "content": "what is it?\n<image>"}
ANSWER = {"role": "assistant", "content": " a dog "}
MORE = ({"role": "user", "content": "where?"}, {"role": "assistant", "content": "left"})
SYSTEM = {"role": "system", "content": "be brief"}


def written(spans):
    return "".join(span.text if isinstance(span, Text) else f"[{span.name}]" for span in spans)


def learned(spans):
    return written(span for span in spans if span.supervised)


def test_plain_keeps_the_picture_and_the_caption():
    spans = template("plain").spans([ASK, ANSWER])
    assert written(spans) == "[bos]<image>a dog\n" and learned(spans) == "a dog\n"
    assert written(template("plain").prompt([ASK])) == "[bos]<image>"


def test_vicuna():
    spans = template("vicuna_v1").spans([ASK, ANSWER, *MORE])
    system = ("A chat between a curious user and an artificial intelligence assistant. "
              "The assistant gives helpful, detailed, and polite answers to the user's questions.")
    assert written(spans) == (f"[bos]{system} USER: <image>\nwhat is it? ASSISTANT: a dog[eos]USER: where? ASSISTANT: left[eos]")
    assert learned(spans) == " a dog[eos] left[eos]"
    assert written(template("vicuna_v1").spans([SYSTEM, *MORE])).startswith("[bos]be brief USER: where?")


def test_chatml():
    spans = template("chatml").spans([ASK, ANSWER, *MORE])
    turn = "[<|im_start|>]{}\n{}[<|im_end|>]"
    want = "\n".join([turn.format("system", "You are a helpful assistant."), turn.format("user", "<image>\nwhat is it?"),
                      turn.format("assistant", "a dog"), turn.format("user", "where?"), turn.format("assistant", "left")])
    assert written(spans) == want and learned(spans) == "a dog[<|im_end|>]left[<|im_end|>]"


def test_simple():
    spans = template("simple").spans([ASK, ANSWER, *MORE])
    assert written(spans) == "[bos]<image>Q: what is it? A: a dog[eos]Q: where? A: left[eos]"
    assert learned(spans) == " a dog[eos] left[eos]"


def test_several_pictures_stay_in_their_sentence():
    both = {"role": "user", "content": "is <image> or <image> red?"}
    assert "Q: is <image> or <image> red? A:" in written(template("simple").prompt([both]))


def test_words_that_look_like_fields_are_words():
    odd = {"role": "user", "content": "what is {text} and {images} \0?"}
    assert written(template("simple").prompt([odd])) == "[bos]Q: what is {text} and {images} \0? A:"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_the_beginning_of_its_conversation(name):
    chosen = template(name)
    prompt, whole = (tokenize("r", spans, tokenizer(), 4) for spans in (chosen.prompt([ASK]), chosen.spans([ASK, ANSWER])))
    assert whole.tokens[: len(prompt)].tolist() == prompt.tokens.tolist()
    assert not prompt.supervised.any() and not whole.supervised[: len(prompt)].any() and whole.supervised[len(prompt) :].all()
    assert Special("bos") not in chosen.prompt([ASK])[1:] and chosen.name == name


@pytest.mark.parametrize("messages, says", [
    ([], "no turns"),
    ([SYSTEM], "no turns"),
    ([ANSWER, ASK], "turn 0 is the assistant's where the user's is due"),
    ([ASK, ASK], "turn 1 is the user's where the assistant's is due"),
    ([ASK, ANSWER, SYSTEM], "turn 2 is the system's"),
    ([ASK, {"role": "assistant", "content": " \n"}], "turn 1: the assistant says nothing"),
    ([ASK, {"role": "assistant", "content": "<image>"}], "turn 1: the assistant shows an <image>"),
    ([ASK, {"role": "bot", "content": "x"}], "message 1: unknown role 'bot'"),
    ([ASK, {"role": "assistant", "text": "x"}], "message 1: has role, text; needs role and content"),
    ([ASK, {"role": "assistant", "content": None}], "message 1: has role, content; needs"),
    ([ASK], "ends with a question"),
])
def test_conversations_that_break_the_template_are_named(messages, says):
    with pytest.raises(BadExample, match=f"llava.json: record 8: .*{says}"):
        template("vicuna_v1").spans(messages, "llava.json", "8")


def test_what_a_template_cannot_take():
    with pytest.raises(BadExample, match="2 questions; template 'plain' takes 1"):
        template("plain").spans([ASK, ANSWER, *MORE])
    with pytest.raises(BadExample, match="template 'simple' has no place"):
        template("simple").spans([SYSTEM, ASK, ANSWER])
    with pytest.raises(BadExample, match="ends with an answer"):
        template("simple").prompt([ASK, ANSWER])
    with pytest.raises(UserError, match="unknown chat template 'vicuna'.*did you mean 'vicuna_v1'"):
        template("vicuna")
