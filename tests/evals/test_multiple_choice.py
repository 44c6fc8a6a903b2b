"""MMBench's and SEED-Bench's files asked of a model that is known."""

from __future__ import annotations

import base64
import csv
import json
import re
import struct
import zlib

from fake_generator import FakeGenerator, picture, read_lines, shade_of, write_json
import numpy as np
import pytest

from mof_jax import evals
from mof_jax.data.image import images
from mof_jax.errors import UserError
from mof_jax.evals.answer.choice_files import mmbench, seed_bench
from mof_jax.evals.answer.multiple_choice import Choice, _likeliest

OPTIONS = ("red", "green", "blue", "yellow")
HEADER = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]


def row(index, **changes):
    """Question i is about picture i, whose right option is number i mod 4."""
    base = dict(zip("ABCD", OPTIONS)) | {
        "index": index, "question": f"Question {index}?", "hint": "Look\nwell" if index % 2 else "", "answer": "ABCD"[index % 4],
        "category": ("scene", "colour")[index % 2], "image": base64.b64encode(picture(index % 250)).decode()}
    return base | changes


def write_table(path, rows, header=HEADER):
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, header, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "mmbench.tsv", [row(i) for i in range(8)])


@pytest.fixture
def seed(tmp_path):
    """Two kinds of questions about pictures, and one about a video."""
    for i in range(8):
        (tmp_path / f"p_{i}").write_bytes(picture(i))
    choices = {f"choice_{c}": option for c, option in zip("abcd", OPTIONS)}
    questions = [choices | {"question_id": str(i), "question": f"Question {i}?", "data_id": f"p_{i}", "data_type": "image",
                            "answer": "ABCD"[i % 4], "question_type_id": 1 + i % 2} for i in range(8)]
    questions.append(questions[0] | {"question_id": "v", "data_type": "video", "data_id": "absent.mp4"})
    value = {"question_type": {"Scene Understanding": 1, "Instance Counting": 2}, "questions": questions}
    return dict(layout="seed", path=write_json(tmp_path / "seed.json", value), images=str(tmp_path))


def build(**section):
    return evals.build(dict(kind="choice", **section), "e", ("generate",))


def reads(asked):
    """A model that knows which colour is right, and finds its letter among the options shown."""
    right = OPTIONS[shade_of(asked.images[0]) % 4]
    return f"{re.search(rf'^([A-D]). {right}$', asked.text, re.MULTILINE)[1]}. {right}"


def test_mmbench_by_letter(table, tmp_path):
    right = FakeGenerator(reads, output_dir=tmp_path)
    found = build(layout="mmbench", path=table).run(right)
    assert found == {"questions": 8.0, "accuracy": 100.0, "unparsed": 0.0, "accuracy_scene": 100.0, "accuracy_colour": 100.0}
    assert right.asked[1].text == ("<image>\nLook\nwell\nQuestion 1?\nA. red\nB. green\nC. blue\nD. yellow\n"
                                   "Reply with the letter of the right option and nothing else.")
    assert right.asked[0].text.startswith("<image>\nQuestion 0?\nA. red")
    assert read_lines(tmp_path, "choice")[1] == {"id": "1", "question": "Question 1?", "options": list(OPTIONS),
                                                 "answer": "B. green", "reference": "B", "right": True}


def test_unparsed_replies_are_wrong_and_counted(table):
    found = build(layout="mmbench", path=table).run(FakeGenerator(lambda a: "who knows" if a.id in "024" else reads(a)))
    assert found["unparsed"] == 3 and found["accuracy"] == 100 * 5 / 8
    assert found["accuracy_scene"] == 25.0 and found["accuracy_colour"] == 100.0


def test_circular_needs_every_rotation(table, tmp_path):
    """One who always says A is right a quarter of the time, and never under every rotation."""
    always_a = FakeGenerator(lambda asked: "A", output_dir=tmp_path)
    assert build(layout="mmbench", path=table).run(always_a)["accuracy"] == 25.0
    found = build(layout="mmbench", path=table, circular=True).run(always_a)
    assert found["accuracy"] == 0.0 and found["questions"] == 8
    lines = read_lines(tmp_path, "choice")
    assert len({line["id"] for line in lines}) == 32 and sum(line["right"] for line in lines) == 8
    assert [line["options"][0] for line in lines[:4]] == list(OPTIONS)
    assert build(layout="mmbench", path=table, circular=True).run(FakeGenerator(reads))["accuracy"] == 100.0
    fails_once = FakeGenerator(lambda asked: "" if asked.id == "3+2" else reads(asked))
    found = build(layout="mmbench", path=table, circular=True).run(fails_once)
    assert fails_once.agrees(found, "accuracy")
    assert found["accuracy"] == 100 * 7 / 8 and found["unparsed"] == 1


def test_the_files_own_rotations_and_references(tmp_path):
    """Rows from a million on are copies, and a short image is the index of the row that holds it; three options are fine."""
    rows = [row(1_000_002, image="2"), row(2), row(5, image="2", answer="C", D=""), row(6, D="nan", answer="B")]
    generator = FakeGenerator(lambda asked: str(shade_of(asked.images[0])))
    found = build(layout="mmbench", path=write_table(tmp_path / "t.tsv", rows)).run(generator)
    assert found["questions"] == 3 and [shade_of(a.images[0]) for a in generator.asked] == [2, 2, 6]
    assert "C. blue\nReply" in generator.asked[1].text and "D." not in generator.asked[2].text


def test_a_picture_longer_than_the_csv_module_allows(tmp_path):
    before = csv.field_size_limit()
    noise = images.encode(np.random.default_rng(0).integers(0, 255, (250, 250, 3), np.uint8))
    text = base64.b64encode(noise).decode()
    assert len(text) > before
    generator = FakeGenerator()
    build(layout="mmbench", path=write_table(tmp_path / "t.tsv", [row(0, image=text)])).run(generator)
    assert generator.asked[0].images == (noise,) and csv.field_size_limit() == before


def test_seed_by_letter_and_by_likelihood(seed, tmp_path):
    found = build(**seed).run(FakeGenerator(reads))
    assert found == {"questions": 8.0, "accuracy": 100.0, "unparsed": 0.0, "accuracy_Scene Understanding": 100.0,
                     "accuracy_Instance Counting": 100.0}
    likes = lambda asked, answer: -1.0 if OPTIONS[shade_of(asked.images[0]) % 4] == answer else -2.0
    generator = FakeGenerator(log_prob=likes, output_dir=tmp_path)
    found = build(**seed, by="likelihood").run(generator)
    assert found["accuracy"] == 100.0 and "unparsed" not in found and len(generator.asked) == 32
    assert generator.asked[0].text == "<image>\nQuestion 0?"  # the options are not shown
    assert read_lines(tmp_path, "choice")[2]["answer"] == "blue"


def test_likelihoods_as_sum_and_as_mean(tmp_path):
    """The longer option is less likely as a whole and likelier by the token."""
    rows = [row(0, A="one", B="one two three", C="", D="", answer="B")]
    table = write_table(tmp_path / "t.tsv", rows)
    generator = FakeGenerator(log_prob=lambda asked, answer: -2.0 if answer == "one" else -3.0)
    accuracy = lambda length: build(layout="mmbench", path=table, by="likelihood", length=length).run(generator)["accuracy"]
    assert (accuracy("sum"), accuracy("mean")) == (0.0, 100.0)


def test_the_version():
    assert Choice("t.tsv", "mmbench").version == "prompt choice-letter/1, greedy 16, scorer letters/2"
    assert Choice("t.tsv", "mmbench", circular=True).version.endswith("scorer letters/2 circular")
    assert Choice("t.tsv", "mmbench", by="likelihood", length="mean").version == (
        "prompt choice-bare/1, likelihood mean, scorer argmax/2")


@pytest.mark.parametrize("rows, message", [
    ([row(1), row(1)], "record 1: this index stands there twice"),
    ([row(1, answer="E")], "record 1: answer 'E' is none of the 4 options"),
    ([row(1, answer="AB")], "record 1: answer 'AB' is none"),
    ([row(1, answer="")], "record 1: no answer; those of the test split"),
    ([row(1, C="")], "record 1: options must fill the columns from A on without a gap"),
    ([row(1, B="", C="", D="")], "at least two of them"),
    ([row(1, image="x" * 65)], "record 1: image is not base64"),
    ([row(1, image="77")], "record 1: image '77' is neither a picture nor the index of a row"),
    ([row(1, image=base64.b64encode(b"no picture" * 20).decode())], "record 1: not a PNG, JPEG, WebP or GIF image"),
    ([row(1, image=base64.b64encode(picture(1)[:-30] + b"x" * 80).decode())], "record 1: broken PNG"),
    ([], "the table has no rows"),
])
def test_mistakes_in_the_table(rows, message, tmp_path):
    table = write_table(tmp_path / "bad.tsv", rows)
    with pytest.raises(UserError, match=rf"bad.tsv: (record|).*{message}"):
        build(layout="mmbench", path=table).run(FakeGenerator())


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    """A picture whose header says 20,000 x 20,000."""
    data = picture(1)
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
    bomb = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    table = write_table(tmp_path / "bad.tsv", [row(1, image=base64.b64encode(bomb).decode())])
    with pytest.raises(UserError, match="bad.tsv: record 1: .*(exceeds 64000000 pixels|exceeds limit of)"):
        build(layout="mmbench", path=table).run(FakeGenerator())


def test_wrong_tables(tmp_path):
    with pytest.raises(UserError, match="t.tsv: no column answer, image; an MMBench table has"):
        build(layout="mmbench", path=write_table(tmp_path / "t.tsv", [row(1)], HEADER[:7])).run(FakeGenerator())
    (tmp_path / "t.tsv").write_text("\t".join(HEADER) + "\n1\tquestion\n")
    with pytest.raises(UserError, match="record line 2: ends before column hint"):
        build(layout="mmbench", path=str(tmp_path / "t.tsv")).run(FakeGenerator())


@pytest.mark.parametrize("change, message", [
    (lambda v: v["questions"].append(v["questions"][1]), "record 1: this question_id stands there twice"),
    (lambda v: v["questions"][1].update(answer="E"), "record 1: answer 'E' is none of A, B, C, D"),
    (lambda v: v["questions"][1].pop("choice_c"), "record 1: 'choice_c' is null"),
    (lambda v: v["questions"][1].update(data_id="p_99"), "record 1: image 'p_99': no such file"),
    (lambda v: v["questions"][1].update(data_id="../p_1"), "record 1: image path '../p_1' leads outside"),
    (lambda v: v.update(questions=v["questions"][-1:]), "all of its 1 questions are about videos"),
])
def test_mistakes_in_a_seed_file(seed, change, message):
    with open(seed["path"]) as f:
        value = json.load(f)
    change(value)
    with open(seed["path"], "w") as f:
        json.dump(value, f)
    with pytest.raises(UserError, match=message):
        build(**seed).run(FakeGenerator())


@pytest.mark.parametrize("change, message", [
    (lambda v: v.update(question_type={"a": [1]}), r"'question_type' gives 'a' the number \[1\]"),
    (lambda v: v.update(question_type={"a": {}}), "'question_type' gives 'a' the number {}"),
    (lambda v: v.update(question_type={"a": 1, "b": 1}), "'question_type' gives 'b' the number 1; each needs one of its own"),
    (lambda v: v.update(question_type=["a"]), "'question_type' is a list where an object of numbers by name is expected"),
    (lambda v: v["questions"][0].update(question_id=["x"]), "record questions 0: 'question_id' is"),
    (lambda v: v["questions"][1].update(question_type_id=[1]), "record 1: 'question_type_id' is"),
    (lambda v: v["questions"][1].update(question="a \ud83d"), "record 1: 'question': half a surrogate pair"),
    (lambda v: v["questions"][1].update(choice_b="a\0b"), "record 1: 'choice_b': a NUL at 1 is no text"),
    (lambda v: v["questions"].insert(0, [1]), "record questions 0: not an object"),
])
def test_types_in_a_seed_file(seed, change, message):
    with open(seed["path"]) as f:
        value = json.load(f)
    change(value)
    with open(seed["path"], "w") as f:
        json.dump(value, f)
    with pytest.raises(UserError, match=message):
        seed_bench(seed["path"], seed["images"])


@pytest.mark.parametrize("data, message", [
    (b"[" * 100_000, "nested too deeply; download it again"), (b'{"a": %s}' % (b"9" * 5000), "a number has too many digits"),
    (b'{"a": 1, "a": 2}', "key 'a' stands twice"), (b"\xff\xfe{\0", "is UTF-16, not UTF-8"),
    (b"[1]", "holds a list, not an object"),
    (b'{"x": "caf\xe9"}', "byte 0xe9 at 10 is not UTF-8"),
])
def test_a_seed_file_that_is_no_object(tmp_path, data, message):
    (tmp_path / "s.json").write_bytes(data)
    with pytest.raises(UserError, match=f"s.json: .*{message}"):
        seed_bench(str(tmp_path / "s.json"), str(tmp_path))


@pytest.mark.parametrize("change, message", [
    (lambda t: t.replace("\tA\t", "\tB\t", 1), "line 1: column 'B' stands twice in the header"),
    (lambda t: t.rstrip() + "\textra\n", "line 3: has more cells than the header"),
    (lambda t: t.replace("\n", '\n"', 1), "t.tsv line 2: a cell of this row begins with a quote"),
    (lambda t: t.encode("utf-16"), "t.tsv line 1: is UTF-16"),
    (lambda t: t.encode().replace(b"red", b"r\xe9d"), "line 3: byte 0xe9"),
    (lambda t: t.replace("red", "r\0d"), "line 3: .*a NUL"),
])
def test_cells_of_the_table(tmp_path, change, message):
    path = write_table(tmp_path / "t.tsv", [row(1)])
    with open(path, encoding="utf-8", newline="") as f:
        changed = change(f.read())
    (tmp_path / "t.tsv").write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(UserError, match=message):
        mmbench(path)


def test_an_index_of_many_digits(tmp_path):
    table = write_table(tmp_path / "t.tsv", [row(1) | {"index": "9" * 5000}])
    assert [question.id for question in mmbench(table)] == ["9" * 5000]


def test_mistakes_in_the_config():
    for section, message in ((dict(layout="seed"), "images: the folder"), (dict(layout="seedy"), "'seedy' is not one"),
                             (dict(layout="mmbench", by="likelihood", circular=True), "circular: a likelihood")):
        with pytest.raises(UserError, match=message):
            build(path="x", **section)


@pytest.mark.parametrize("scores, chosen", [([-1.0, -2.0], 0), ([-2.0, -1.0], 1), ([-1.0, -1.0], None), ([np.nan, -1.0], None),
                                            ([-3.0, -1.0, -1.0], None), ([-np.inf, -np.inf], None)])
def test_of_equally_likely_options_none_is_chosen(scores, chosen):
    assert _likeliest(np.array(scores, np.float32)) == chosen
