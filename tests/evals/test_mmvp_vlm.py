"""MMVP-VLM over an encoder whose embeddings are known; `test_evaluators` has a real one."""

from __future__ import annotations

from fake_generator import shade_of
from fake_model import FakeModel
import numpy as np
from pair_samples import mmvp_pairs, vlm_pairs
import pytest

from mof_jax import evals
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.mmvp.mmvp_files import write_mmvp_vlm
from mof_jax.evals.mmvp.mmvp_vlm import MmvpVlm


class FakeEmbedder(FakeModel):
    """Knows of a picture its shade and of a statement which half of which pair it is about.

    `knows(k)`: `right`, `swapped`, or `alike`, where both pictures of pair k are embedded as one.
    """

    def __init__(self, knows=lambda k: "right"):
        self.knows, self.said = knows, []

    @staticmethod
    def axis(k: int, which: int) -> np.ndarray:
        return np.eye(64, dtype=np.float32)[(2 * k + which) % 64]

    def embed_images(self, record, name, count):
        shades = [shade_of(record(i).image) for i in range(count)]
        row = {"right": (0, 1), "swapped": (1, 0), "alike": (0, 0)}
        return np.stack([self.axis(s // 2, row[self.knows(s // 2)][s % 2]) for s in shades])

    def texts(self, texts):
        self.said += texts
        read = lambda text: (int(text.split("Scene ")[1].split(",")[0]), int("two" in text))
        return np.stack([self.axis(*read(text)) for text in texts])


def build(**section):
    return evals.build(dict(kind="mmvp_vlm", **section), "e")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "w"
    write_mmvp_vlm(str(folder), vlm_pairs(2))
    return str(folder)


def test_right_swapped_and_alike(world, capsys):
    model = FakeEmbedder(lambda k: "swapped" if k == 0 else "alike" if k in (2, 3) else "right")
    found = build(path=world).run(model)
    assert model.agrees(found, "image_score", "text_score", "group_score", "group_match")
    assert found["pairs"] == 18 and model.said[:2] == ["a photo of Scene 0, one", 'a photo of Scene 0, "two"']
    for score in ("image_score", "text_score", "group_score", "group_match"):
        assert found[score] == pytest.approx(100 * 15 / 18)
    assert found["image_score_orientation"] == 50 and found["group_match_presence"] == 0 and found["text_score_viewpoint"] == 100
    assert found["image_low"] < found["image_score"] < found["image_high"]
    assert not capsys.readouterr().out  # the paper's table is about the published set
    assert "SimpleMatch" not in found and not any("test" in key for key in found)


def test_the_table_stands_beside_a_set_of_the_published_size(tmp_path, capsys):
    write_mmvp_vlm(str(tmp_path / "w"), vlm_pairs(15))
    build(path=str(tmp_path / "w"), pairs=135).run(FakeEmbedder(lambda k: "right"))
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert "EVA02 ViT-bigE-14+ 224 13.3 20.0 66.7 26.7 26.7 66.7 26.7 20.0 33.3 33.3".split() in lines
    assert ["this", "model", *["100"] * 10] in lines


def test_scores_that_use_the_pairing_say_so(world):
    """Alike pictures are told apart by nobody; a pair swapped is matched wrongly with confidence."""
    found = build(path=world, matching=True).run(FakeEmbedder(lambda k: "alike" if k == 5 else "right"))
    assert found["simple_match_on_test_pairs"] == found["group_match"] == pytest.approx(100 * 17 / 18)
    assert found["global_match_on_test_set"] >= 100 * 34 / 36


def test_cosines_not_lengths(world):
    """A longer picture must not win; nor does the common scale of all embeddings matter."""

    class Long(FakeEmbedder):
        def embed_images(self, record, name, count):
            return super().embed_images(record, name, count) * np.linspace(0.1, 30, count, dtype=np.float32)[:, None] + 0.01

    assert build(path=world).run(Long())["group_score"] == 100


def test_the_prompt_and_the_version(world):
    model = FakeEmbedder()
    evaluator = build(path=world, prompt="")
    evaluator.run(model)
    assert model.said[0] == "Scene 0, one" and evaluator.version == "prompt '', scorer mmvp_vlm/1"
    assert MmvpVlm("w").version == "prompt 'a photo of ', scorer mmvp_vlm/1"


def test_mistakes(world):
    with pytest.raises(BadExample, match="record 1: has no two statements"):
        MmvpVlm("w").measure(FakeEmbedder(), mmvp_pairs(1))
    with pytest.raises(UserError, match="18 pairs where 135 are expected"):
        build(path=world, pairs=135).run(FakeEmbedder())
