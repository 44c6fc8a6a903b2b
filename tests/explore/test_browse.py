"""The browser, over features whose neighbours are known and over a model that nobody trained."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
import pytest

from mof_jax.data.record import Record
from mof_jax.errors import UserError
from mof_jax.evals.embed import gallery
from mof_jax.explore.browse import Browser, Guesses, worst
from mof_jax.mesh import make_mesh


class Tables:
    """An encoder of features in tables: what a `Browser` asks of a model."""

    def __init__(self, texts: dict[str, list[float]]):
        self.mesh, self._texts = make_mesh(), texts

    def texts(self, texts: list[str]) -> np.ndarray:
        return np.array([self._texts[text] for text in texts], np.float32)


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


WORDS = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "fox": [0.6, 0.8], "animal": [0.8, 0.6]}
ITEMS = [Record(f"r{i}", png(80 * i), {"alt": (label,)}, attributes={"label": label})
         for i, label in enumerate(("cat", "dog", "fox"))]


@pytest.fixture
def browser() -> Browser:
    """The picture of the fox looks like a cat; the others are where their captions are."""
    pixels = np.array([[1.0, 0.0], [0.0, 1.0], [0.96, 0.28]], np.float32)
    captions = ["cat", "dog", "fox"]
    encoder = Tables(WORDS)
    return Browser(encoder, ITEMS, np.arange(3), captions, np.arange(3), pixels, encoder.texts(captions))


def test_neighbours_of_any_text_and_of_a_picture(browser):
    scores, found = browser.pictures(["animal"], k=2)
    assert found.tolist() == [[2, 0]]
    np.testing.assert_allclose(scores, [[0.96 * 0.8 + 0.28 * 0.6, 0.8]], rtol=1e-6)
    assert browser.texts([2, 1], k=1)[1].tolist() == [[0], [1]]


def test_a_sheet_frames_what_is_right_and_nothing_for_a_free_text(browser, monkeypatch):
    seen = []
    monkeypatch.setattr(gallery, "draw", lambda *args: seen.append(args))
    browser.sheet(["cat", "animal"], [2], k=2)
    asked, shown, k, _ = seen[0]
    assert [(text, [right for _, right in answers]) for text, answers in asked] == [
        ("cat", [True, False]), ("animal", [False, False])]
    assert shown[0][1] == [("cat", False), ("fox", True)] and k == 2


def test_the_worst_mistake_is_the_fox(browser):
    queries, right = worst(browser.pixels, browser.words, browser.ids, browser.caption_ids, 1)
    assert (queries.tolist(), right.tolist()) == ([2], [2])  # cat 0.96 against fox 0.80
    sheet = browser.mistakes(count=2, k=3)
    assert sheet.width > 500 and sheet.height > 200


def test_worst_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    queries, keys = rng.standard_normal((40, 4)), rng.standard_normal((60, 4))
    query_ids, key_ids = rng.integers(0, 9, 40), rng.integers(0, 8, 60)  # no key is right for the queries of item 8
    margins = {}
    for i, query in enumerate(queries):
        scores = keys @ query
        if (key_ids == query_ids[i]).any():
            margins[i] = scores[key_ids != query_ids[i]].max() - scores[key_ids == query_ids[i]].max()
    order = sorted(margins, key=lambda i: -margins[i])
    found, right = worst(queries, keys, query_ids, key_ids, 99, strip=7)
    assert found.tolist() == order
    assert (key_ids[right] == query_ids[found]).all()


def test_zero_shot_guesses_and_accuracy(browser):
    guesses = browser.zero_shot()
    assert list(guesses.names) == ["cat", "dog", "fox"] and guesses.best[:, 0].tolist() == [0, 1, 0]
    assert guesses.accuracy() == pytest.approx(200 / 3) and guesses.accuracy(2) == 100.0


def test_the_surest_wrong_guess_comes_first(monkeypatch):
    seen = []
    monkeypatch.setattr(gallery, "draw_answers", lambda cells, columns: seen.append([cell[1:] for cell in cells]))
    scores = np.array([[0.9, 0.8], [0.9, 0.5], [0.7, 0.1]])
    guesses = Guesses(ITEMS, ["cat", "dog", "fox"], ["cat", "dog", "fox"], scores, np.array([[1, 0], [0, 1], [2, 0]]))
    guesses.sheet(right=False)
    guesses.sheet(1, right=True)
    assert seen == [[("surer than the next by 0.40", "cat", "dog"), ("surer than the next by 0.10", "dog", "cat")],
                    [("surer than the next by 0.60", "fox", None)]]


def test_a_source_without_such_captions_is_refused():
    with pytest.raises(UserError, match="no text of kind long"):
        Browser.of(Tables(WORDS), dict(kind="synthetic", size=4), texts=["long"])
    with pytest.raises(UserError, match="source.knd.*kind"):
        Browser.of(Tables(WORDS), dict(knd="synthetic"))
