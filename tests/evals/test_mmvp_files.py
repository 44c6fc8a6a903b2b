"""MMVP in its published layout, written, read, and broken in many ways."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile

from fake_generator import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_samples import cell, edit_csv, mmvp_pairs, real_mmvp, vlm_pairs
import pytest

from mof_jax.data.image import images
from mof_jax.data.pairs import PATTERNS, Pair
from mof_jax.errors import BadExample, UserError
from mof_jax.evals.mmvp.mmvp_files import read_mmvp, read_mmvp_vlm, write_mmvp, write_mmvp_vlm


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return real_mmvp(tmp_path_factory.mktemp("real") / "MMVP")


# --- there and back -------------------------------------------------------------------------------------------------------


def test_mmvp_there_and_back(tmp_path):
    pairs = mmvp_pairs(4, lambda k: ["", "text", "colour"][k % 3])
    write_mmvp(str(tmp_path / "a world"), pairs)
    assert read_mmvp(str(tmp_path / "a world")) == pairs
    header, first = (tmp_path / "a world" / "Questions.csv").read_text().splitlines()[:2]
    assert header == "lndex,Question,Options,Correct Answer"
    assert first == '1,"Question 0, which?","(a) red (b) not, so (b) red",(a)'
    assert (tmp_path / "a world" / "MMVP Images" / "8.png").read_bytes() == pairs[3].images[1]
    assert sorted(os.listdir(tmp_path)) == ["a world"] and oct((tmp_path / "a world").stat().st_mode)[-3:] == "755"


def test_without_patterns_no_file_of_them(tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(2))
    assert not (tmp_path / "w" / "patterns.csv").exists()
    assert [pair.pattern for pair in read_mmvp(str(tmp_path / "w"))] == ["", ""]


def test_pictures_keep_their_bytes(tmp_path):
    """JPEG and PNG as they are; another format becomes PNG, pixel for pixel."""
    pixels = images.to_array(images.decode(picture(9)))
    kinds = {kind: images.encode(pixels, kind) for kind in ("JPEG", "PNG", "WEBP")}
    pair = mmvp_pairs(1)[0]
    write_mmvp(str(tmp_path / "w"), [dataclasses.replace(pair, images=(kinds["JPEG"], kinds["PNG"])),
                                     dataclasses.replace(pair, images=(kinds["WEBP"], kinds["JPEG"]))])
    first, second = read_mmvp(str(tmp_path / "w"))
    assert first.images == (kinds["JPEG"], kinds["PNG"]) and second.images[1] == kinds["JPEG"]
    assert second.images[0].startswith(b"\x89PNG")
    assert (images.to_array(images.decode(second.images[0])) == images.to_array(images.decode(kinds["WEBP"]))).all()
    assert sorted(os.listdir(tmp_path / "w" / "MMVP Images")) == ["1.jpg", "2.png", "3.png", "4.jpg"]


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS.filter(lambda w: "(b)" not in w.lower()), WORDS, st.booleans(),
                          st.sampled_from(["", *PATTERNS])), min_size=1, max_size=4))
def test_any_words_survive(rows):
    shades = (picture(1), picture(2))
    pairs = [Pair(str(k), shades, question, (a, b), (0, 1) if first else (1, 0), pattern=pattern)
             for k, (question, a, b, first, pattern) in enumerate(rows, 1)]
    with tempfile.TemporaryDirectory() as folder:
        write_mmvp(f"{folder}/w", pairs)
        assert read_mmvp(f"{folder}/w") == pairs


def test_nothing_is_overwritten_and_nothing_is_left_half_done(tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(1))
    with pytest.raises(UserError, match="already there; name a new folder"):
        write_mmvp(str(tmp_path / "w"), mmvp_pairs(1))
    broken = dataclasses.replace(mmvp_pairs(1)[0], images=(picture(1), b"no picture"))
    with pytest.raises(BadExample, match="not a PNG"):
        write_mmvp(str(tmp_path / "v"), [broken])
    assert os.listdir(tmp_path) == ["w"]


@pytest.mark.parametrize("write, change, message", [
    (write_mmvp, dict(question=" "), "record 1: MMVP needs a question and two options"),
    (write_mmvp, dict(options=("yes", "")), "record 1: MMVP needs a question and two options"),
    (write_mmvp, dict(options=()), "record 1: MMVP needs a question and two options"),
    (write_mmvp, dict(answers=(1, 1)), "record 1: MMVP needs opposite answers"),
    (write_mmvp, dict(options=("a (B) c", "d")), "without '\\(b\\)' in it"),
    (write_mmvp_vlm, dict(statements=(), pattern="text"), "record 1: MMVP-VLM needs a pattern and two statements"),
    (write_mmvp_vlm, dict(statements=("x", "y"), pattern=""), "record 1: MMVP-VLM needs a pattern"),
])
def test_pairs_that_a_layout_cannot_hold(write, change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write(str(tmp_path / "w"), [dataclasses.replace(mmvp_pairs(1)[0], **change)])


# --- MMVP as published ----------------------------------------------------------------------------------------------------


def test_the_published_file(real):
    pairs = read_mmvp(str(real), pairs=150)
    assert len(pairs) == 150 and pairs[49].options == ("Long", "Short") and pairs[0].images[0].startswith(b"\xff\xd8")
    assert {pair.answers for pair in pairs} == {(0, 1), (1, 0)} and {pair.pattern for pair in pairs} == {""}


def test_corrected_labels_change_four_rows(real):
    before, after = read_mmvp(str(real)), read_mmvp(str(real), "corrected")
    rows = [2 * k + which + 1 for k in range(150) for which in (0, 1) if before[k].answers[which] != after[k].answers[which]]
    assert rows == [99, 100, 279, 280]
    assert [dataclasses.replace(a, answers=b.answers) for a, b in zip(after, before)] == before


@pytest.mark.parametrize("labels", ["original", "corrected"])
def test_a_copy_that_is_corrected_already(labels, real, tmp_path):
    """It is neither flipped back nor passed off as the original."""
    copy = real_mmvp(tmp_path / "copy")

    def swap(rows):
        for n in (99, 100, 279, 280):
            rows[n][3] = "(b)" if rows[n][3] == "(a)" else "(a)"

    edit_csv(copy / "Questions.csv", swap)
    if labels == "corrected":
        assert read_mmvp(str(copy), labels) == read_mmvp(str(real), labels)
    else:
        with pytest.raises(UserError, match="rows 99, 100, 279 and 280 are not labelled as published; say labels='corrected'"):
            read_mmvp(str(copy), labels)


def test_corrected_labels_are_for_the_published_file(tmp_path):
    write_mmvp(str(tmp_path / "small"), mmvp_pairs(3))
    write_mmvp(str(tmp_path / "as large"), mmvp_pairs(150))
    for name, rows in (("small", 6), ("as large", 300)):
        with pytest.raises(UserError, match=rf"this is another set \({rows} rows\); leave labels at 'original'"):
            read_mmvp(str(tmp_path / name), "corrected")
    with pytest.raises(UserError, match="labels: 'correct' is neither"):
        read_mmvp(str(tmp_path / "small"), "correct")


@pytest.mark.parametrize("header", ["Index", "index", "\ufefflndex", " LNDEX "])
def test_spellings_of_the_index(header, tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(2))
    edit_csv(tmp_path / "w" / "Questions.csv", lambda rows: rows[0].__setitem__(0, header))
    assert read_mmvp(str(tmp_path / "w")) == mmvp_pairs(2)


def test_options_are_split_at_b_alone(tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(1))

    def change(rows):
        for row in rows[1:]:
            row[2], row[3] = "(A) left, (as seen) (c) here(B)right (b) there ", row[3][1]

    edit_csv(tmp_path / "w" / "Questions.csv", change)
    (pair,) = read_mmvp(str(tmp_path / "w"))
    assert pair.options == ("left, (as seen) (c) here", "right (b) there") and pair.answers == (0, 1)


@pytest.mark.parametrize("change, message", [
    (lambda rows: rows.pop(), "Questions.csv: 7 rows are no whole pairs .*300 rows"),
    (lambda rows: rows.pop(3), "Questions.csv: record row 3: lndex is '4' where 3 is expected"),
    (lambda rows: rows.__setitem__(slice(3, 5), rows[3:5][::-1]), "record row 3: lndex is '4' where 3 is expected"),
    (cell(4, 0, "3"), "record row 4: lndex is '3' where 4 is expected"),
    (cell(4, 0, "four"), "record row 4: lndex is 'four'"),
    (lambda rows: rows.__delitem__(slice(7, None)), "6 rows, but pictures without one: 2, the first is 7.png in '.*MMVP Images'"),
    (lambda rows: rows.extend([["9", *rows[8][1:3], "(a)"], ["10", *rows[8][1:3], "(b)"]]),
     "record row 9: no picture 9.jpg or 9.png in '.*MMVP Images'"),
    (cell(4, 1, "What?"), "record row 4: asks something else than row 3"),
    (cell(4, 2, "(a) red (b) blue"), "record row 4: asks something else than row 3"),
    (cell(3, 1, " "), "record row 3: the question is empty"),
    (cell(2, 2, "red or green"), "record row 2: options 'red or green'; expected"),
    (cell(2, 2, "(a) (b) green"), "record row 2: options"),
    (cell(2, 2, "(b) green (a) red"), "record row 2: options"),
    (cell(2, 3, "(c)"), r"record row 2: correct answer '\(c\)' is neither \(a\) nor \(b\)"),
    (cell(2, 3, ""), "record row 2: correct answer ''"),
    (cell(2, 3, "(a)"), "record row 2: has the same answer as row 1"),
    (lambda rows: rows[5].pop(), "record row 5: ends before column Correct Answer"),
    (lambda rows: rows[5].append("x"), "record row 5: has more cells than the header"),
    (cell(0, 2, "Choices"), "Questions.csv: no column Options"),
    (lambda rows: rows.__delitem__(slice(1, None)), "Questions.csv: the table has no rows"),
])
def test_mistakes_in_the_table(change, message, tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(4))
    edit_csv(tmp_path / "w" / "Questions.csv", change)
    with pytest.raises(UserError, match=message) as error:
        read_mmvp(str(tmp_path / "w"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut, message", [
    (lambda data: data[:-20], "ends before column|no whole pairs|does not close before the end of the file"),
    (lambda data: data.replace(b'""', b'"', 1), "line 4: a cell of this row begins with a quote, and text follows"),
    (lambda data: data[:40] + b"\xff\xfe\x00" + data[40:], "byte 0xff.* is not UTF-8"),
    (lambda data: b"", "the table has no rows"),
])
def test_a_corrupt_table(cut, message, tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(4))
    file = tmp_path / "w" / "Questions.csv"
    file.write_bytes(cut(file.read_bytes()))
    with pytest.raises(UserError, match=f"Questions.csv.*({message})") as error:
        read_mmvp(str(tmp_path / "w"))
    assert "\n" not in str(error.value)


def test_a_download_that_is_cut_off(tmp_path):
    """299 rows, 298 rows with 300 pictures, and 300 rows with 299 pictures; 298 of both only where 150 pairs are expected."""
    folder = real_mmvp(tmp_path / "MMVP")
    edit_csv(folder / "Questions.csv", lambda rows: rows.pop())
    with pytest.raises(UserError, match=r"299 rows are no whole pairs \(the published file has 300 rows\)"):
        read_mmvp(str(folder))
    edit_csv(folder / "Questions.csv", lambda rows: rows.pop())
    with pytest.raises(UserError, match="298 rows, but pictures without one: 2, the first is 299.jpg"):
        read_mmvp(str(folder))
    for n in (299, 300):
        (folder / "MMVP Images" / f"{n}.jpg").unlink()
    assert len(read_mmvp(str(folder))) == 149
    with pytest.raises(UserError, match="149 pairs where 150 are expected; is it cut off"):
        read_mmvp(str(folder), pairs=150)
    (folder / "MMVP Images" / "7.jpg").unlink()
    with pytest.raises(BadExample, match="Questions.csv: record row 7: no picture 7.jpg"):
        read_mmvp(str(folder))


def test_broken_and_double_pictures(tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(2))
    file = tmp_path / "w" / "MMVP Images" / "3.png"
    data = file.read_bytes()
    file.write_bytes(data[:-30] + b"x" * 30)
    with pytest.raises(BadExample, match=r"Questions.csv: record row 3 \(3.png\): broken PNG"):
        read_mmvp(str(tmp_path / "w"))
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(BadExample, match=r"row 3 \(3.png\): not a PNG, JPEG"):
        read_mmvp(str(tmp_path / "w"))
    file.write_bytes(data)
    (file.parent / "3.JPG").write_bytes(data)
    with pytest.raises(UserError, match="3.JPG and 3.png are both picture 3; remove one"):
        read_mmvp(str(tmp_path / "w"))
    file.unlink()
    (file.parent / ".DS_Store").write_bytes(b"")
    assert read_mmvp(str(tmp_path / "w")) == mmvp_pairs(2)


def test_a_folder_with_nothing_of_it(tmp_path):
    with pytest.raises(UserError, match="neither Questions.csv nor a parquet file in this folder"):
        read_mmvp(str(tmp_path))
    with pytest.raises(UserError, match="nowhere: neither"):
        read_mmvp(str(tmp_path / "nowhere"))


# --- patterns of MMVP's questions -----------------------------------------------------------------------------------------


def write_patterns(path: pathlib.Path, *rows: str) -> str:
    path.write_text("\n".join(("index,pattern", *rows)))
    return str(path)


def test_patterns_by_any_name_and_in_any_order(tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(3, lambda k: "text"))
    labels = write_patterns(tmp_path / "mine.csv", "6,", "5,", "1,Spatial", "2,position", "4,Color", "3,Color and Appearance")
    assert [pair.pattern for pair in read_mmvp(str(tmp_path / "w"), patterns=labels)] == ["position", "colour", ""]


@pytest.mark.parametrize("rows, message", [
    (("1,text", "2,text", "3,text"), "mine.csv: no pattern for question 4; one row a question"),
    (("1,text", "2,text", "3,text", "4,text", "5,text"), "mine.csv: 5 patterns for 4 questions"),
    (("1,text", "2,text", "3,text", "3,text"), "mine.csv: record 3: this index stands there twice"),
    (("1,text", "2,colour", "3,text", "4,text"), "mine.csv: record row 2: pattern 'colour' where the other half has 'text'"),
    (("1,text", "2,text", "3,taste", "4,taste"), "mine.csv: record 3: pattern 'taste' is none of orientation"),
])
def test_mistakes_in_the_patterns(rows, message, tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(2))
    with pytest.raises(UserError, match=message):
        read_mmvp(str(tmp_path / "w"), patterns=write_patterns(tmp_path / "mine.csv", *rows))


# --- the parquet copy -----------------------------------------------------------------------------------------------------


def write_parquet(path: pathlib.Path, pairs: list[Pair], **changes) -> str:
    import pyarrow
    from pyarrow import parquet

    halves = [(pair, which) for pair in pairs for which in (0, 1)]
    columns = {
        "Index": pyarrow.array(range(1, len(halves) + 1), pyarrow.int32()), "Question": [pair.question for pair, _ in halves],
        "Options": [f"(a) {p.options[0]} (b) {p.options[1]}" for p, _ in halves],
        "Correct Answer": [f"({'ab'[pair.answers[which]]})" for pair, which in halves],
        "image": [{"bytes": pair.images[which], "path": None} for pair, which in halves]} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({k: v for k, v in columns.items() if v is not None}), path)
    return str(path)


def test_the_parquet_copy(tmp_path, real):
    file = write_parquet(tmp_path / "copy" / "data" / "train-00000-of-00001.parquet", mmvp_pairs(3))
    assert read_mmvp(file) == read_mmvp(str(tmp_path / "copy")) == mmvp_pairs(3)
    corrected = read_mmvp(str(real), "corrected")
    file = write_parquet(tmp_path / "c.parquet", corrected)
    assert read_mmvp(file, "corrected") == corrected
    with pytest.raises(UserError, match="not labelled as published; say labels='corrected'"):
        read_mmvp(file)


def test_mistakes_in_a_parquet_copy(tmp_path):
    pairs = mmvp_pairs(2)
    mistakes = ((dict(Options=None), "no column Options"), (dict(image=[None] * 4), "row 1: no picture in column image"),
                (dict(image=[b"no picture"] * 4), "row 1: not a PNG"), (dict(Index=[1, 2, 2, 3]), "lndex is '2' where 3"),
                (dict(Question=["q", "q", None, "q"]), "row 3: Question is empty"))
    for changes, message in mistakes:
        with pytest.raises(UserError, match=f"p.parquet: .*{message}"):
            read_mmvp(write_parquet(tmp_path / "p.parquet", pairs, **changes))
    (tmp_path / "p.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="p.parquet: not parquet"):
        read_mmvp(str(tmp_path / "p.parquet"))
    write_parquet(tmp_path / "two" / "a.parquet", pairs), write_parquet(tmp_path / "two" / "b.parquet", pairs)
    with pytest.raises(UserError, match="2 parquet files; name one of them"):
        read_mmvp(str(tmp_path / "two"))


# --- elsewhere -----------------------------------------------------------------------------------------------------------


def test_from_an_object_store():
    """The same folder behind an address."""
    import fsspec

    fs = fsspec.filesystem("memory")
    with tempfile.TemporaryDirectory() as folder:
        write_mmvp(f"{folder}/w", mmvp_pairs(2, lambda k: "state"))
        write_mmvp_vlm(f"{folder}/v", vlm_pairs(1))
        fs.put(f"{folder}/w", "/mmvp-test/w", recursive=True)
        fs.put(f"{folder}/v", "/mmvp-test/v", recursive=True)
    assert read_mmvp("memory://mmvp-test/w") == mmvp_pairs(2, lambda k: "state")
    assert read_mmvp_vlm("memory://mmvp-test/v") == vlm_pairs(1)
    with pytest.raises(UserError, match="write to a local folder"):
        write_mmvp("memory://mmvp-test/x", mmvp_pairs(1))


def test_a_download_cache_links_its_files(tmp_path):
    write_mmvp(str(tmp_path / "w"), mmvp_pairs(2))
    os.rename(tmp_path / "w" / "MMVP Images" / "3.png", tmp_path / "blob")
    os.symlink(tmp_path / "blob", tmp_path / "w" / "MMVP Images" / "3.png")
    assert read_mmvp(str(tmp_path / "w")) == mmvp_pairs(2)
