"""Files of benchmarks, as their authors publish them."""

from __future__ import annotations

import base64
import json
import pathlib

import pyarrow as pa
from pyarrow import parquet

from mof_jax.data.pairs import PATTERNS, Pair
from mof_jax.evals.answer import captioning, choice_files, pope, vqa
from mof_jax.evals.embed import classes, prompts
from mof_jax.evals.mmvp import mmvp, mmvp_files

from ..harness import Seed, Target
from .samples import dumped, lines, picture, written

_PAIRS = [
    Pair(
        str(k + 1),
        (picture(2 * k), picture(2 * k + 1)),
        f"Question {k}, which?",
        ("red", "not red"),
        (k % 2, 1 - k % 2),
        pattern=list(PATTERNS)[0],
    )
    for k in range(2)
]


def _seeds_of_mmvp() -> list[Seed]:
    files = written(lambda root: mmvp_files.write_mmvp(str(root / "x"), _PAIRS))
    replies = lines(*({"id": q.id, "answer": "(a)"} for q in mmvp.questions(_PAIRS)))
    return [
        Seed(
            files | {"answers.jsonl": replies},
            {"x/Questions.csv": "csv", "x/patterns.csv": "csv", "answers.jsonl": "jsonl"},
        )
    ]


def _read_mmvp(folder: pathlib.Path) -> None:
    mmvp.questions(mmvp_files.read_mmvp(str(folder / "x")))
    mmvp.score_answers(str(folder / "answers.jsonl"), _PAIRS)


def _seeds_of_vlm() -> list[Seed]:
    pairs = [
        Pair(str(k), (picture(k), picture(k + 9)), pattern=name, statements=(f"one {k}", f"two {k}"))
        for k, name in enumerate(list(PATTERNS)[:3])
    ]
    files = written(lambda root: mmvp_files.write_mmvp_vlm(str(root / "x"), pairs))
    return [Seed(files, {"x/Questions.csv": "csv"})]


def _seeds_of_parquet() -> list[Seed]:
    def write(root: pathlib.Path) -> None:
        questions = mmvp.questions(_PAIRS)
        parquet.write_table(
            pa.table(
                {
                    "Index": list(range(1, 5)),
                    "Question": [q.question for q in questions],
                    "Options": ["(a) red (b) not red"] * 4,
                    "Correct Answer": [f"({'ab'[q.right]})" for q in questions],
                    "image": [{"bytes": q.image(), "path": None} for q in questions],
                }
            ),
            root / "x.parquet",
        )

    return [Seed(written(write), {"x.parquet": "bytes"})]


def _seeds_of_mmbench() -> list[Seed]:
    data = base64.b64encode(picture()).decode()
    rows = [
        ("index", "hint", "question", "A", "B", "C", "answer", "category", "image"),
        ("1", "", "what?", "red", "green", "blue", "B", "x", data),
        ("2", "see", "how?", "one", "two", "", "A", "y", "1"),
        ("1000001", "", "what?", "green", "blue", "red", "A", "x", "1"),
    ]
    return [Seed({"x.tsv": "".join("\t".join(row) + "\n" for row in rows).encode()}, {"x.tsv": "csv"})]


def _read_mmbench(folder: pathlib.Path) -> None:
    for question in choice_files.mmbench(str(folder / "x.tsv")):
        question.rotations()
        question.image()


def _seeds_of_seed() -> list[Seed]:
    rows = [
        {
            "question_id": n,
            "question": "what?",
            "choice_a": "a",
            "choice_b": "b",
            "choice_c": "c",
            "choice_d": "d",
            "answer": "B",
            "data_type": "image",
            "data_id": "a.png",
            "question_type_id": 1,
        }
        for n in (1, 2)
    ]
    return [
        Seed(
            {"x.json": dumped({"questions": rows, "question_type": {"Scene": 1}}), "a.png": picture()},
            {"x.json": "json"},
        )
    ]


def _read_seed(folder: pathlib.Path) -> None:
    for question in choice_files.seed_bench(str(folder / "x.json"), str(folder)):
        question.image()


def _seeds_of_vqa() -> list[Seed]:
    asked = [{"question_id": n, "image_id": n, "question": "what is it?"} for n in (1, 2)]
    noted = [{"question_id": n, "answer_type": "other", "answers": [{"answer": "apple"}] * 10} for n in (1, 2)]
    config = {"image": "COCO_{image_id:012d}.jpg"}
    return [
        Seed(
            {
                "q.json": dumped({"questions": asked}),
                "a.json": dumped({"annotations": noted}),
                "config.json": dumped(config),
            },
            {"q.json": "json", "a.json": "json"},
        )
    ]


def _read_vqa(folder: pathlib.Path) -> None:
    pattern = json.loads((folder / "config.json").read_bytes())["image"]
    found = vqa.read_questions(vqa.VqaFiles(str(folder / "q.json"), str(folder / "a.json"), str(folder), pattern))
    assert all(len(q.image) < 1000 for q in found)


def _seeds_of_captions() -> list[Seed]:
    found = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)],
        "annotations": [{"image_id": n, "caption": "an apple"} for n in (1, 2)],
    }
    return [Seed({"x.json": dumped(found)}, {"x.json": "json"})]


def _seeds_of_pope() -> list[Seed]:
    rows = [{"question_id": n, "image": "a.png", "text": "Is there a cat?", "label": "yes"} for n in (1, 2)]
    return [Seed({"x.json": lines(*rows), "a.png": picture()}, {"x.json": "jsonl"})]


def _seeds_of_classes() -> list[Seed]:
    return [
        Seed(
            {"c.txt": "cat\ndog\nKäse\n".encode(), "t.txt": b"a photo of {}\n{}.\n"},
            {"c.txt": "bytes", "t.txt": "bytes"},
        )
    ]


def _read_classes(folder: pathlib.Path) -> None:
    names = classes.class_list(str(folder / "c.txt"), [])
    assert all(isinstance(name, str) for name in names)
    assert all(phrase.count("{") == 1 for phrase in prompts.phrases((str(folder / "t.txt"),)))


TARGETS = [
    Target("classes", _seeds_of_classes, _read_classes),
    Target("mmvp", _seeds_of_mmvp, _read_mmvp),
    Target("mmvp-vlm", _seeds_of_vlm, lambda folder: mmvp_files.read_mmvp_vlm(str(folder / "x")) and None),
    Target("mmvp-parquet", _seeds_of_parquet, lambda folder: mmvp_files.read_mmvp(str(folder / "x.parquet")) and None),
    Target("mmbench", _seeds_of_mmbench, _read_mmbench),
    Target("seed-bench", _seeds_of_seed, _read_seed),
    Target("vqa", _seeds_of_vqa, _read_vqa),
    Target(
        "coco-captions",
        _seeds_of_captions,
        lambda folder: captioning.read_captions(captioning.CaptionFiles(str(folder / "x.json"), str(folder))) and None,
    ),
    Target("pope", _seeds_of_pope, lambda folder: pope.read_questions(str(folder / "x.json")) and None),
]
