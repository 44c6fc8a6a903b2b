"""MMVP-VLM in its published layout, written, read, and broken in many ways."""

from __future__ import annotations

import os

from pair_samples import cell, edit_csv, vlm_pairs
import pytest

from mof_jax.data.pairs import PATTERNS
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.mmvp.mmvp_files import read_mmvp_vlm, write_mmvp_vlm


def test_mmvp_vlm_there_and_back(tmp_path):
    pairs = vlm_pairs(2)
    write_mmvp_vlm(str(tmp_path / "w"), pairs)
    assert read_mmvp_vlm(str(tmp_path / "w")) == pairs
    assert (tmp_path / "w" / "Questions.csv").read_text().splitlines()[:2] == [
        "Question ID,Type,Statement", '1,Orientation,"Scene 0, one"']
    last = tmp_path / "w" / "MLLM_VLM Images" / "Camera Perspective"
    assert sorted(os.listdir(last)) == ["33.png", "34.png", "35.png", "36.png"]
    write_mmvp_vlm(str(tmp_path / "sorted"), pairs[::-1])
    found = read_mmvp_vlm(str(tmp_path / "sorted"))
    assert [pair.pattern for pair in found] == [pair.pattern for pair in pairs] and found[0].images == pairs[1].images


def test_patterns_of_different_size_are_not_written(tmp_path):
    with pytest.raises(UserError, match="patterns of different size.*orientation 2.*presence 1"):
        write_mmvp_vlm(str(tmp_path / "w"), [p for p in vlm_pairs(2) if p.id not in ("3",)])


@pytest.mark.parametrize("root", ["MLLM_VLM Images", "MMVP_VLM_Images", "MMVP_VLM Images", "MLLM_VLM_Images"])
def test_names_of_the_root_and_of_types(root, tmp_path):
    write_mmvp_vlm(str(tmp_path / "w"), vlm_pairs(1))
    os.rename(tmp_path / "w" / "MLLM_VLM Images", tmp_path / "w" / root)
    os.rename(tmp_path / "w" / root / "Structural Character", tmp_path / "w" / root / "Structural_Character")
    os.rename(tmp_path / "w" / root / "Text", tmp_path / "w" / root / "Texts")

    def rename(rows):
        rows[15][1] = "texts"  # one half of a pair alone: the same pattern still
        rows[17][1] = rows[18][1] = "Camera_Perspective"

    edit_csv(tmp_path / "w" / "Questions.csv", rename)
    assert read_mmvp_vlm(str(tmp_path / "w")) == vlm_pairs(1)


@pytest.fixture(scope="module")
def real_vlm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm") / "w"
    write_mmvp_vlm(str(folder), vlm_pairs(15))
    return folder


def test_the_published_size(real_vlm):
    pairs = read_mmvp_vlm(str(real_vlm), pairs=135)
    assert len(pairs) == 135 and [pair.pattern for pair in pairs] == [key for key in PATTERNS for _ in range(15)]
    with pytest.raises(UserError, match="135 pairs where 136 are expected"):
        read_mmvp_vlm(str(real_vlm), pairs=136)


def swap_types(rows, one, other):
    for row in rows[1:]:
        row[1] = {one: other, other: one}.get(row[1], row[1])


@pytest.mark.parametrize("each, change, message", [
    (1, lambda rows: rows.pop(), "17 rows are no whole pairs .*270 rows"),
    (1, cell(3, 0, "4"), "record row 3: Question ID is '4' where 3 is expected"),
    (1, cell(3, 1, "Taste"), "record row 3: type 'Taste' is none of Orientation, Presence"),
    (1, cell(4, 1, "Text"), "record row 4: type 'Text'; row 3, the pair's other half, has 'Presence'"),
    (1, cell(4, 2, ""), "record row 4: the statement is empty"),
    (1, lambda rows: [row.__setitem__(1, "Text") for row in rows[3:5]], "patterns of different size .*text 2"),
    (1, lambda rows: swap_types(rows, "Text", "Color"), "record row 11: no picture 11.jpg or 11.png in '.*Text'"),
    (1, lambda rows: rows.__delitem__(slice(17, None)), "16 rows, but pictures without one: 2, the first is 17.png in '.*Camera"),
    (15, lambda rows: swap_types(rows, "Text", "Color"), "the 135 pairs are not nine patterns of 15 in the paper's order"),
])
def test_mistakes_in_mmvp_vlm(each, change, message, tmp_path):
    write_mmvp_vlm(str(tmp_path / "w"), vlm_pairs(each))
    edit_csv(tmp_path / "w" / "Questions.csv", change)
    with pytest.raises(UserError, match=message) as error:
        read_mmvp_vlm(str(tmp_path / "w"))
    assert "Questions.csv" in str(error.value) and "\n" not in str(error.value)


def test_missing_folders_of_mmvp_vlm(tmp_path):
    write_mmvp_vlm(str(tmp_path / "w"), vlm_pairs(1))
    os.rename(tmp_path / "w" / "MLLM_VLM Images" / "Color", tmp_path / "Color")
    with pytest.raises(BadExample, match="record row 11: no picture 11.jpg or 11.png in '.*MLLM_VLM Images.Color'"):
        read_mmvp_vlm(str(tmp_path / "w"))
    os.rename(tmp_path / "w" / "MLLM_VLM Images", tmp_path / "w" / "Pictures")
    with pytest.raises(UserError, match="w: no folder 'MLLM_VLM Images'"):
        read_mmvp_vlm(str(tmp_path / "w"))
    with pytest.raises(UserError, match="nowhere/Questions.csv: no such file"):
        read_mmvp_vlm(str(tmp_path / "nowhere"))
