"""The data-filtering loop at toy scale: corrupt a pool, train a scorer elsewhere, score, filter, train again.

Trusted pictures come from two vendors, the pool from two others; 40 % of the pool's captions are moved to wrong pictures.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from run_samples import ROOT

from mof_jax import cli, trainer
from mof_jax import config as configs
from mof_jax.data.worlds.embedded import Emoji5

pytestmark = pytest.mark.slow
STEPS, WRONG = 300, 0.4


def write(folder, vendors, wrong: float) -> np.ndarray:
    """A JSONL source of the vendors' pictures; returns which captions are still right."""
    source = Emoji5("train", vendors=vendors)
    rng = np.random.default_rng(0)
    moved = rng.random(len(source)) < wrong
    caption_of = np.arange(len(source))
    caption_of[moved] = np.roll(rng.permutation(caption_of[moved]), 1)  # neighbours are near-synonyms: their swap is no error
    folder.mkdir()
    with open(folder / "pool.jsonl", "w") as f:
        for i in range(len(source)):
            name = f"{i:05d}.webp"
            (folder / name).write_bytes(source[i].image)
            words = source[int(caption_of[i])].texts
            f.write(json.dumps({"id": name, "image": name, "texts": {k: list(v) for k, v in words.items()}}) + "\n")
    return caption_of == np.arange(len(source))


def train(workdir, folder, evals=(), **source) -> dict:
    """The quickstart's model on a folder."""
    c = configs.load(str(ROOT.parent / "configs/clip/quickstart.py"))
    c.data.sources = [dict(kind="jsonl", name="pool", path=f"{folder}/pool.jsonl",
                           captions=dict(probabilities=dict(alt=1.0), tags=3), **source)]
    c.steps, c.evals, c.optimizer.schedule.warmup = STEPS, list(evals), 20
    return trainer.train(c, str(workdir))


def test_filtering_finds_the_right_captions_and_helps(tmp_path):
    write(tmp_path / "trusted", ("noto", "noto-v1"), 0.0)
    right = write(tmp_path / "pool", ("fluent", "fluent-flat"), WRONG)
    train(tmp_path / "scorer", tmp_path / "trusted")
    scores = tmp_path / "scores.jsonl"
    assert cli.main(["data", "score", str(tmp_path / "pool/pool.jsonl"), "--checkpoint", str(tmp_path / "scorer"),
                     "--out", str(scores)]) == 0
    values = np.array([json.loads(line)["scores"]["dfn"] for line in scores.read_text().splitlines()])
    kept = values >= np.sort(values)[::-1][int(len(values) * (1 - WRONG))]
    precision = right[kept].mean()
    print(f"right captions: {right.mean():.1%} of the pool, {precision:.1%} of what is kept")
    assert precision > 1 - WRONG / 2 > 0.65 > right.mean()  # more than half of the wrong captions are gone

    evals = [dict(kind="retrieval", name="twemoji", source=dict(kind="emoji5", split="twemoji"))]
    raw = train(tmp_path / "raw", tmp_path / "pool", evals)["twemoji"]
    filtered = train(tmp_path / "filtered", tmp_path / "pool", evals,
                     filter=dict(rules=dict(dfn=dict(fraction=1 - WRONG)), sidecar=str(scores)))["twemoji"]
    print(f"R@5 on an unseen vendor: {raw['r@5']:.1f} from the whole pool, {filtered['r@5']:.1f} from what is kept")
    assert filtered["r@5"] > raw["r@5"] + 3
