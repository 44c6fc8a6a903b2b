"""Blocks, shots, subsets and names: what evaluators that ask questions share."""

from __future__ import annotations

from collections import Counter

from fake_generator import FakeGenerator
import numpy as np
import pytest

from mof_jax.errors import BadExample, UserError
from mof_jax.evals import json_files
from mof_jax.evals.answer import batch_generate


@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_blocks_keep_the_order_and_the_items(count, monkeypatch, capsys):
    monkeypatch.setattr(batch_generate, "_PICTURES", 6)
    generator = FakeGenerator(lambda asked: asked.text, log_prob=lambda asked, answer: float(asked.text) + float(answer) / 10)
    items = list(range(count))
    prompt = lambda i: generator.text(str(i))
    assert batch_generate.ask(generator, items, prompt, "f", max_tokens=4, pictures=2) == [str(i) for i in items]
    assert max([call["count"] for call in generator.calls], default=0) <= 3
    if count:
        sums, counts = batch_generate.ask_likelihood(generator, [(i, str(count - i)) for i in items], prompt, "f")
        np.testing.assert_allclose(sums, [i + (count - i) / 10 for i in items], rtol=1e-6)
        assert counts.tolist() == [1] * count
    said = capsys.readouterr().err
    assert ("f: 3 of 9 asked" in said) == (count == 9)  # how long it will take


def test_the_file_is_named_where_the_generator_knows_none():
    def fail(asked):
        raise BadExample(asked.text, "7", "no picture")

    for source, named in (("prompt", "questions.json"), ("train.json", "train.json")):
        generator = FakeGenerator(fail)
        with pytest.raises(BadExample, match=f"^{named}: record 7: no picture"):
            batch_generate.ask(generator, [0], lambda _: generator.text(source), "questions.json", max_tokens=1)


def test_shots_are_uniform_distinct_and_keyed():
    pool = list(range(10))
    draw = lambda record, seed=0: batch_generate.draw_shots(seed, record, pool, 3, lambda x: x == 4, "train.json")
    drawn = [draw(str(i)) for i in range(3000)]
    assert drawn == [draw(str(i)) for i in range(3000)] and draw("1", seed=1) != draw("1")
    assert all(len(set(shots)) == 3 for shots in drawn)
    for place in range(3):
        counts = Counter(shots[place] for shots in drawn)
        assert 4 not in counts and len(counts) == 9
        assert sum((counts[i] - 3000 / 9) ** 2 / (3000 / 9) for i in pool if i != 4) < 26.1  # 99.9 % of chi-square, 8 degrees
    with pytest.raises(UserError, match="train.json: 10 examples are too few to draw 10 shots"):
        batch_generate.draw_shots(0, "1", pool, 10, lambda x: x == 4, "train.json")


def test_spread_takes_one_of_every_stretch():
    items = list(range(100))
    for limit in (1, 7, 50, 99):
        found = json_files.spread(items, limit)
        assert len(found) == limit and all(i * 100 // limit <= x < (i + 1) * 100 // limit for i, x in enumerate(found))
    assert json_files.spread(items, 0) == json_files.spread(items, 100) == json_files.spread(items, 1000) == items
    assert {x % 2 for x in json_files.spread(items, 20)} == {0, 1}


def test_prompts_are_named_by_their_words():
    assert batch_generate.named_prompt("p/1", "x", "x") == "p/1"
    assert batch_generate.named_prompt("p/1", "y", "x") != batch_generate.named_prompt("p/1", "z", "x") != "p/1"
