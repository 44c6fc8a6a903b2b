"""MMVP asked of models that are known, of a real one, and scored from files of answers."""

from __future__ import annotations

import dataclasses
import json
import re

from fake_generator import FakeGenerator, read_lines, shade_of
import numpy as np
from pair_samples import mmvp_pairs, real_mmvp
import pytest
from sequence_samples import tokenizer
from small_models import weights

from mof_jax import cli, evals
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.decode.respond import Generator
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.mmvp.mmvp import Mmvp, score_answers
from mof_jax.evals.mmvp.mmvp_files import read_mmvp, write_mmvp
from mof_jax.evals.model import Model
from mof_jax.mesh import make_mesh
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, Mllm, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton

PATTERNS = ["text", "colour", "", "colour"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four pairs, three of which have a pattern."""
    folder = tmp_path_factory.mktemp("worlds") / "w"
    write_mmvp(str(folder), mmvp_pairs(4, lambda k: PATTERNS[k]))
    return str(folder)


def build(**section):
    return evals.build(dict(kind="mmvp", **section), "e", ("generate",))


def truth(asked) -> int:
    """Which option is right: the answers of `mmvp_pairs`, known by the shade of the picture."""
    k, which = divmod(shade_of(asked.images[0]), 2)
    return (k % 2) ^ which


def reads(asked):
    return f"({'ab'[truth(asked)]})"


def test_a_perfect_model_and_what_it_is_asked(world, tmp_path):
    model = FakeGenerator(reads, output_dir=tmp_path)
    found = build(path=world).run(model)
    assert found == {"pairs": 4, "pair_accuracy": 100, "pair_low": 100, "pair_high": 100, "question_accuracy": 100,
                     "pair_accuracy_colour": 100, "pair_accuracy_text": 100, "unparsed": 0}
    assert [asked.id for asked in model.asked] == [f"{k}/{which}" for k in (1, 2, 3, 4) for which in (0, 1)]
    assert model.asked[0].text == ("<image>\nQuestion 0, which?\nA. red\nB. not, so (b) red\n"
                                   "Reply with the letter of the right option and nothing else.")
    assert [call["sample"] for call in model.calls] == [None] and all(len(asked.images) == 1 for asked in model.asked)
    assert read_lines(tmp_path, "mmvp")[3] == {
        "id": "2/1", "question": mmvp_pairs(2)[1].question, "options": ['Say "yes"', "No, never"], "answer": "(a)",
        "reference": "A", "right": True, "pattern": "colour"}


@pytest.mark.parametrize("reply", ["(a)", "B", "I cannot tell"])
def test_always_the_same_is_never_right(reply, world):
    found = build(path=world).run(FakeGenerator(lambda asked: reply))
    parsed = reply != "I cannot tell"
    assert found["pair_accuracy"] == 0 and found["question_accuracy"] == 50 * parsed and found["unparsed"] == 8 * (not parsed)


def test_one_half_is_not_a_pair(world):
    """Wrong in pair 2 and unparsable in pair 4, one half each."""
    model = FakeGenerator(lambda asked: {"2/1": "b", "4/0": "?"}.get(asked.id, reads(asked)))
    found = build(path=world).run(model)
    assert found["pair_accuracy"] == 50 and found["question_accuracy"] == 75 and found["unparsed"] == 1
    assert found["pair_accuracy_colour"] == 0 and found["pair_accuracy_text"] == 100
    assert found["pair_low"] < 50 < found["pair_high"]


def test_guessing_gets_a_quarter():
    pairs, rng = [dataclasses.replace(pair, options=("red", "blue")) for pair in mmvp_pairs(2000)], np.random.default_rng(0)
    found = Mmvp("world").measure(FakeGenerator(lambda asked: "AB"[rng.integers(2)]), pairs)
    assert abs(found["pair_accuracy"] - 25) < 4 * 100 * (0.1875 / 2000) ** 0.5
    assert abs(found["question_accuracy"] - 50) < 4 * 100 * (0.25 / 4000) ** 0.5


def test_a_perfect_model_under_the_original_labels(tmp_path):
    """148 of 150, since four published labels are wrong; 150 once they are set right."""
    folder = str(real_mmvp(tmp_path / "MMVP"))
    know = {f"{pair.id}/{which}": "ab"[pair.answers[which]] for pair in read_mmvp(folder, "corrected") for which in (0, 1)}
    model = FakeGenerator(lambda asked: know[asked.id])
    original = build(path=folder, pairs=150).run(model)
    assert original["pair_accuracy"] == pytest.approx(100 * 148 / 150) and original["pairs"] == 150
    assert original["question_accuracy"] == pytest.approx(100 * 296 / 300)
    assert build(path=folder, labels="corrected").run(model)["pair_accuracy"] == 100


def test_by_likelihood(world):
    """The options are not shown; the likelier one is chosen, by its sum or by the token."""
    options = {pair.id: pair.options for pair in mmvp_pairs(4)}
    likes = lambda asked, answer: -1.0 if answer == options[asked.id[0]][truth(asked)] else -2.0
    model = FakeGenerator(log_prob=likes)
    found = build(path=world, by="likelihood").run(model)
    assert found["pair_accuracy"] == 100 and "unparsed" not in found
    assert model.asked[0].text == "<image>\nQuestion 0, which?" and len(model.asked) == 16
    longer = FakeGenerator(log_prob=lambda asked, answer: -1.0 - len(answer.split()) / 10)
    found = build(path=world, by="likelihood").run(longer)  # the options of one pair are of one length: equally likely
    assert found["question_accuracy"] == 37.5 and found["tied"] == 2


def test_fewer_pairs(world, tmp_path):
    found = build(path=world, limit=2).run(FakeGenerator(reads, output_dir=tmp_path))
    assert found["pairs"] == 2 and len(read_lines(tmp_path, "mmvp")) == 4


def test_the_version_says_what_a_number_means(world, capsys):
    assert Mmvp("w").version == "prompt choice-letter/1, greedy 16, scorer letters/2, labels original"
    assert Mmvp("w", by="likelihood", labels="corrected").version == (
        "prompt choice-bare/1, likelihood sum, scorer argmax/2, labels corrected")
    assert re.match(r"prompt choice-letter/1\+[0-9a-f]{8}, greedy 4", Mmvp("w", instruction="Letter?", max_tokens=4).version)
    build(path=world).run(FakeGenerator(reads))
    assert "mmvp: prompt choice-letter/1" in capsys.readouterr().out


def test_mistakes():
    with pytest.raises(UserError, match="e.labels: 'correct' is not one of 'original', 'corrected'"):
        build(path="w", labels="correct")
    with pytest.raises(UserError, match="limit: -1 is not at least 0"):
        build(path="w", limit=-1)
    said = "'mmvp' requires generate; this task's models can embed/image, which suits embedding_geometry, fewshot, knn, probe"
    with pytest.raises(UserError, match=said):
        evals.build(dict(kind="mmvp", path="w"), "e", ("embed/image",))
    statements = dataclasses.replace(mmvp_pairs(1)[0], question="", options=())
    with pytest.raises(BadExample, match="record 1: has no question with two options"):
        Mmvp("w").measure(FakeGenerator(), [statements])


def test_a_real_model(world):
    """Both ways of asking, through tokenizer, preprocessing and decoding; the pictures matter to it."""
    vit = ViTConfig(width=16, depth=1, heads=2, mlp_dim=16, patch_size=4, image_size=8, pool="none")
    llm = LLMConfig(vocab_size=tokenizer().vocab_size, width=16, depth=1, heads=2, mlp_dim=16)
    config = MllmConfig((EncoderConfig("clip", vit),), llm)
    skeleton = Skeleton.of(lambda rngs: Mllm(config, rngs))
    generator = Generator(config, skeleton, make_mesh(), Preprocess(8), tokenizer(), "simple", batch_size=8)
    model = Model("mllm", generates=generator).bind(weights(skeleton))
    by_letter = build(path=world, max_tokens=2).run(model)
    assert by_letter["pairs"] == 4 and 0 <= by_letter["pair_accuracy"] <= by_letter["question_accuracy"] <= 100
    assert build(path=world, by="likelihood").run(model)["pairs"] == 4


# --- files of answers -----------------------------------------------------------------------------------------------------


def write_jsonl(path, lines) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def answered(world, tmp_path):
    """What a model that errs once left, and its result."""
    model = FakeGenerator(lambda asked: {"1/0": "b", "3/1": "?"}.get(asked.id, reads(asked)), output_dir=tmp_path)
    found = build(path=world).run(model)
    return found, read_lines(tmp_path, "mmvp")


def test_answers_come_back_as_they_went(answered, world, tmp_path):
    found, lines = answered
    assert score_answers(write_jsonl(tmp_path / "a.jsonl", lines[::-1]), read_mmvp(world)) == found  # ids say which is which
    plain = [{"answer": line["answer"]} for line in lines]
    assert score_answers(write_jsonl(tmp_path / "b.jsonl", plain), read_mmvp(world)) == found


def test_a_judges_yes_and_no(world, tmp_path):
    """As the authors' script counts: exactly yes or no, whatever the case; consecutive lines are a pair."""
    said = ["yes", "YES", "yes", "no", "Yes.", "yes", "yes", ""]
    found = score_answers(write_jsonl(tmp_path / "j.jsonl", [{"judgement": text} for text in said]), read_mmvp(world))
    assert found["pair_accuracy"] == 25 and found["question_accuracy"] == 100 * 5 / 8 and found["unparsed"] == 2
    assert found["pair_accuracy_text"] == 100 and found["pair_accuracy_colour"] == 0


def test_a_judge_beats_the_parser(answered, world, tmp_path):
    """A judgement added to the exported lines counts; the labels it was made with must be those of now."""
    _, lines = answered
    judged = [line | {"judgement": "yes"} for line in lines]
    assert score_answers(write_jsonl(tmp_path / "j.jsonl", judged), read_mmvp(world))["pair_accuracy"] == 100
    judged[2] = judged[2] | {"reference": "A"}
    with pytest.raises(BadExample, match="line 3: was judged against 'A' where 'B' is right; are the labels"):
        score_answers(write_jsonl(tmp_path / "j.jsonl", judged), read_mmvp(world))


@pytest.mark.parametrize("change, message", [
    (lambda lines: lines[:-1], "7 lines for 8 questions; one line a question, two a pair"),
    (lambda lines: [lines[0], *lines[:-1]], "record 1/0: this id stands there twice"),
    (lambda lines: [lines[0] | {"id": "9/0"}, *lines[1:]], "no line with id '1/0'; leave ids out"),
    (lambda lines: [{"answer": "a"}, *lines[1:]], "record line 1: 'id' is null"),
    (lambda lines: [{"id": "1/0", "text": "a"}, *lines[1:]], "record line 1: 'answer' is null where a text"),
    (lambda lines: [lines[0], lines[1] | {"judgement": "yes"}, *lines[2:]], "record line 1: 'judgement' is null"),
    (lambda lines: [*lines[:-1], lines[-1] | {"judgement": True}], "'judgement' is"),
])
def test_mistakes_in_a_file_of_answers(change, message, answered, world, tmp_path):
    with pytest.raises(UserError, match=f"a.jsonl: .*{message}"):
        score_answers(write_jsonl(tmp_path / "a.jsonl", change(answered[1])), read_mmvp(world))


# --- the command line -----------------------------------------------------------------------------------------------------


def test_answers_on_the_command_line(answered, world, tmp_path, capsys):
    file = write_jsonl(tmp_path / "a.jsonl", answered[1])
    assert cli.main(["eval", "--task", "mmvp", "--data-dir", world, "--answers", file]) == 0
    out = capsys.readouterr().out
    assert "labels original" in " ".join(out.split()) and re.search(r"pair_accuracy\W+50.00", out)
    assert cli.main(["eval", "--task", "mmvp", "--data-dir", world, "--answers", file, "--labels", "corrected"]) == 1
    assert "this is another set (8 rows)" in capsys.readouterr().err


def test_the_task_is_a_section(monkeypatch):
    called = []
    monkeypatch.setattr("mof_jax.evaluate.evaluate", lambda *args, **kw: called.append((args, kw)))
    for words in (["--task", "mmvp", "--data-dir", "D"], ["--task", "mmvp", "--data-dir", "D", "--labels", "corrected"],
                  ["--task", "mmvp_vlm", "--data-dir", "D", "--follow"], []):
        assert cli.main(["eval", "--checkpoint", "W", *words]) == 0
    assert [args for args, _ in called] == [
        ("W", [dict(kind="mmvp", path="D")]), ("W", [dict(kind="mmvp", path="D", labels="corrected")]),
        ("W", [dict(kind="mmvp_vlm", path="D")]), ("W", None)]
    assert [kw["follow"] for _, kw in called] == [False, False, True, False]


@pytest.mark.parametrize("words, message", [
    ([], "give --checkpoint, or --answers FILE"),
    (["--checkpoint", "W", "--answers", "F", "--task", "mmvp", "--data-dir", "D"], "give --checkpoint, or --answers FILE"),
    (["--checkpoint", "W", "--task", "mmvp"], "--task and --data-dir go together"),
    (["--checkpoint", "W", "--data-dir", "D"], "--task and --data-dir go together"),
    (["--checkpoint", "W", "--task", "mmvp", "--data-dir", "D", "--evals", "F"], "--task and --evals exclude each other"),
    (["--checkpoint", "W", "--labels", "corrected"], "--labels and --answers belong to --task mmvp"),
    (["--answers", "F"], "--labels and --answers belong to --task mmvp"),
    (["--answers", "F", "--task", "mmvp_vlm", "--data-dir", "D"], "--labels and --answers belong to --task mmvp"),
])
def test_flags_that_do_not_go_together(words, message, capsys):
    assert cli.main(["eval", *words]) == 1
    assert message in capsys.readouterr().err
