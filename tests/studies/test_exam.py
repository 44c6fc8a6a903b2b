"""What readers are taught and asked: rows of words with a picture in them, and what counts as a right choice."""

import numpy as np
import pytest

from mof_jax.data.pairs import PATTERNS
from mof_jax.data.worlds.pattern_world import THINGS, scene
from mof_jax.studies.blindness import exam


@pytest.fixture(scope="module")
def words():
    return exam.Vocabulary()


def test_every_text_of_every_split_can_be_said_and_fits(words):
    for pattern in PATTERNS:
        for n in range(200):
            facts = scene(pattern, n, ("dev", "test", "known")[n % 3])
            for which in (0, 1):
                found = exam.texts(words, facts, which, stated=True)
                assert (found.ends <= exam.WORDS).all() and (found.begins < found.ends).all()
                answer = words.text(found.tokens[0, found.begins[0]:])
                assert answer == facts.options[facts.answers[which]] and len(answer.split()) == 1
                said = words.text(found.tokens[2, found.begins[2]:])
                assert said == " ".join(exam.words_of(facts.caption(which)))


def test_no_two_things_begin_with_one_word(words):
    assert len({words(name)[0] for name in THINGS}) == len(THINGS)


@pytest.mark.parametrize("slots", [0, 5])
def test_a_row_is_the_text_with_room_for_the_picture_behind_its_first_token(words, slots):
    texts = exam.stack([exam.texts(words, scene("text", n), n % 2, True) for n in range(4)])[:, 0]
    rows = exam.rows(texts, slots)
    for n in range(4):
        index = rows["image_index"][n]
        assert index[1 : 1 + slots].tolist() == list(range(slots)) and (np.delete(index, range(1, 1 + slots)) == -1).all()
        np.testing.assert_array_equal(np.delete(rows["tokens"][n], range(1, 1 + slots)), texts.tokens[n])
        learned = np.flatnonzero(rows["loss_weight"][n])
        assert learned.tolist() == list(range(texts.begins[n] + slots, texts.ends[n] + slots))
        assert rows["tokens"][n][learned[-1]] == exam.EOS
        assert rows["segment_ids"][n].sum() == texts.ends[n] + slots


def test_the_likelier_option_counts_and_a_tie_does_not(words):
    scenes = [scene("state", n, "test") for n in range(6)]
    answers = np.array([facts.answers for facts in scenes])
    knows = np.eye(2)[answers]
    assert exam.right_choices(knows, scenes).all()
    assert not exam.right_choices(-knows, scenes).any() and not exam.right_choices(np.zeros((6, 2, 2)), scenes).any()
    always = np.broadcast_to([1.0, 0.0], (6, 2, 2))
    assert (exam.right_choices(always, scenes).sum(1) == 1).all()  # the same answer for both: right once, no pair
