"""The plan of the study, its jobs, and what is computed from what they leave."""

import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import pytest

from mof_jax import config as configs
from mof_jax import run
from mof_jax.data.pairs import PATTERNS
from mof_jax.data.worlds.pattern_world import scene
from mof_jax.errors import UserError
from mof_jax.studies.blindness import jobs, probes, report, store, towers
from mof_jax.studies.blindness.plan import ARMS, CONTROLS, SPLITS, Study
from mof_jax.studies.blindness.results import Results
from mof_jax.studies.blindness.store import Job

CONFIG = pathlib.Path(__file__).parents[2] / "configs/mof/reproduce.py"
PAIRS = 20  # a pattern


@pytest.fixture(scope="module")
def study() -> Study:
    return configs.build(Study, configs.load(str(CONFIG)).to_dict())


# Plan


def test_towers_are_whole_runs_of_one_shape_on_the_same_pictures(study):
    tower = towers.vit(study)
    assert (tower.grid**2, tower.image_size) == (16, study.pixels)
    runs = {kind: run.resolve({**values, "seed": 1}) for kind, values in study.towers.items()}
    assert {c.data.sources[0].size for c in runs.values()} == {36_000} and {c.batch_size for c in runs.values()} == {128}
    assert runs["clip"].steps == runs["ssl"].steps == runs["stated"].steps and runs["random"].optimizer.lr == 0
    assert runs["clip"].data.sources[0].stated < runs["stated"].data.sources[0].stated == 1.0
    other = dataclasses.replace(study, towers={**study.towers, "ssl": {**study.towers["ssl"], "model": {
        **study.towers["ssl"]["model"], "encoder": {**study.towers["ssl"]["model"]["encoder"], "depth": 2}}}})
    with pytest.raises(ValueError, match="differ"):
        towers.vit(other)


def test_arms_and_controls_have_the_tokens_and_adapters_they_are_compared_by(study):
    model = lambda arm: study.model(arm, towers.vit(study), 100)
    assert [model(arm).tokens_per_image for arm in ("clip", "ssl", "amof-0.5", "imof")] == [16, 16, 16, 32]
    shapes = lambda arm: {k: v for k, v in model(arm).adapters.items()}
    assert all(shapes(arm) == shapes("imof") and model(arm).tokens_per_image == 32 for arm in CONTROLS)
    assert study.towers_of("clip-clip", 2) == ("clip-2", "clip-0") and study.towers_of("clip-twice", 1) == ("clip-1", "clip-1")
    assert study.seeds_of("imof") == (0, 1, 2) and study.seeds_of("stated-imof") == (0,)
    assert [ARMS[arm].fusion.ssl_ratio for arm in study.sweep] == [0.25, 0.5, 0.625, 0.75, 0.875]
    assert len(study.all_towers) == len(set(study.all_towers)) == 11


# Jobs


def fill(study: Study, folder, rights) -> None:
    """Result files of every job; `rights(arm, seed, split)` [scenes, 2]."""
    count = PAIRS * len(PATTERNS)
    rng = np.random.default_rng(0)
    for wave in jobs.waves(study, str(folder)):
        for job in wave:
            os.makedirs(folder / job.kind, exist_ok=True)
            if job.kind == "readers":
                splits = {split: {"right": rights(job.name, job.seed, split).tolist()} for split in SPLITS}
                splits["test"] |= {"named": [True, False], "cider": 50.0, "captions": [["a cat", "a cat"]]}
                store.write(str(folder), job, {"splits": splits, "masked": {"ssl masked": splits["test"]["right"]}})
            elif job.kind == "probes":
                cosines = {"pooled": np.tile([0.99, 0.5], count // 2).tolist(), "patches": np.linspace(0, 1, count).tolist()}
                bits = lambda: (rng.random((count, 2)) < 0.7).tolist()
                one = {"linear": bits(), "attentive": bits(), "cosines": cosines,
                       "statements": {"image": np.repeat(rng.random(9) < 0.5, PAIRS).tolist()}}
                store.write(str(folder), job, {**{split: one for split in SPLITS}, "norm": 11.0})
            elif job.kind == "mined":
                one = {"pairs": 1200 + job.seed, "own": 20, "images": 300, "share": 0.0005}
                store.write(str(folder), job, {"ssl_below": 0.5} | {
                    f"{split}/{name}": one for split in ("known", "test") for name in ("paper", "fitted")})


def by_arm(arm: str, seed: int, split: str) -> np.ndarray:
    """I-MoF answers every third pair, the sweep better with the ratio, everybody else every fourth one."""
    step = 3 if arm == "imof" else 4
    right = np.zeros((PAIRS * len(PATTERNS), 2), bool)
    right[::step] = True
    if arm.startswith("amof-0"):
        right[: int(100 * ARMS[arm].fusion.ssl_ratio)] = True
    right[:, 0] = True
    return right


@pytest.fixture(scope="module")
def filled(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    fill(study, folder, by_arm)
    return folder


def test_the_dev_world_chooses_the_ratio_and_its_seeds_are_trained_last(study, filled):
    waves = list(jobs.waves(study, str(filled)))
    assert jobs.best_ratio(study, str(filled)) == "amof-0.875"
    assert [job.file for job in waves[-1]] == [f"readers/amof-0.875-{seed}.json" for seed in (0, 1, 2)]
    first = {job.file for job in waves[0]}
    assert {"features/clip-0.npz", "features/other-0.npz", "language/llm-2.npz"} <= first
    assert sum(job.kind == "readers" for job in waves[1]) == 7 * 3 - 3 + 6 + 4


def test_a_folder_of_other_settings_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "waves", lambda study, folder: iter(()))
    jobs.run(study, str(tmp_path))
    jobs.run(study, str(tmp_path))
    with pytest.raises(UserError, match="results of other settings"):
        jobs.run(dataclasses.replace(study, steps=7), str(tmp_path))


def test_jobs_with_a_file_are_done(study, filled, monkeypatch):
    begun = []
    monkeypatch.setattr(jobs, "_in_pool", lambda study, folder, left, workers: begun.append([job.file for job in left]))
    os.makedirs(filled / "features", exist_ok=True)
    jobs.run(study, str(filled))
    assert len(begun) == 1 and len(begun[0]) == 14  # towers and language models; every reader and probe has its file
    os.remove(filled / "readers/imof-1.json")
    jobs.run(study, str(filled))
    assert begun[2] == ["readers/imof-1.json"]
    fill(study, filled, by_arm)


# Results


def test_differences_are_those_of_pairs_with_a_bootstrap_over_them(study, filled):
    results = Results(study, str(filled))
    count = PAIRS * len(PATTERNS)
    found = results.difference("imof", "clip")
    share = lambda step: 100 * len(range(0, count, step)) / count
    assert results.pair_accuracy("imof").tolist() == pytest.approx([share(3)] * 3)
    assert found.mean == pytest.approx(share(3) - share(4)) and len(found.seeds) == 3
    assert all(low < value < high for value, low, high in found.seeds)
    assert found.clear == all(low > 0 for _, low, _ in found.seeds)
    assert results.difference("stated-imof", "stated-clip").seeds[0][0] == 0 and not results.difference("imof", "imof").clear
    assert results.by_pattern("clip").shape == (3, 9) and results.amof == "amof-0.875"


def test_blind_pairs_and_the_gain_on_them(study, filled):
    results = Results(study, str(filled))
    count = PAIRS * len(PATTERNS)
    places = np.arange(count)
    np.testing.assert_array_equal(results.blind(0), (places % 2 == 0) & (places < count / 2))
    np.testing.assert_array_equal(results.blind(0, ssl_below=0.1), (places % 2 == 0) & (np.linspace(0, 1, count) < 0.1))
    # CLIP has every fourth pair right, all of them even; I-MoF every third: by pattern, weighted by its share of blind pairs.
    gain = (places % 3 == 0) * 1.0 - (places % 4 == 0)
    parts = [(gain[p][results.blind(0)[p]], gain[p][~results.blind(0)[p]]) for p in np.split(places, 9)]
    parts = [(a, b) for a, b in parts if len(a) and len(b)]
    expected = 100 * sum(len(a) * (a.mean() - b.mean()) for a, b in parts) / sum(len(a) for a, _ in parts)
    value, low, high = results.blind_gain("imof", "clip", 0)
    assert value == pytest.approx(expected) and low < value < high


def test_the_report_says_what_the_files_say(study, filled, tmp_path):
    pytest.importorskip("matplotlib")
    report.write(study, str(filled), str(tmp_path / "story"))
    page = (tmp_path / "story.md").read_text()
    assert "story_plan.md" in page and "The dev world chose 0.875" in page and "p = 0.062" in page
    assert "| I-MoF | **33.3** |" in page and page.count("\n## ") == 10
    assert "| test | re-fitted | 1,201 | 0.50 | 300 | 20 |" in page and "| orientation | 25 (25 25 25) |" in page
    numbers = json.loads((tmp_path / "story.json").read_text())
    assert numbers["pair_accuracy"]["test"]["clip"] == [25.0] * 3 and numbers["ssl_ratio"] == 0.875
    assert (tmp_path / "story.png").stat().st_size > 10_000


# Probes


def test_a_probe_finds_what_is_planted_and_nothing_else():
    scenes = [scene(pattern, n) for pattern in PATTERNS for n in range(60)]
    which = np.arange(len(scenes)) % 2
    asked = [scene(pattern, n, "test") for pattern in PATTERNS for n in range(20)]
    names = sorted({probes.fact_class(s, w) for s in [*scenes, *asked] for w in (0, 1)})
    rng = np.random.default_rng(0)
    codes = {name: rng.standard_normal((4, 8)) for name in names}
    feature = lambda s, w: codes[probes.fact_class(s, int(w))] + 0.1 * rng.standard_normal((4, 8))
    train = probes.Learned(np.stack([feature(*x) for x in zip(scenes, which)]), scenes, which)
    test = probes.Asked(np.stack([feature(s, w) for s in asked for w in (0, 1)]), asked)
    flat = lambda x: x._replace(features=x.features.reshape(len(x.features), -1))
    known = {probes.fact_class(s, int(w)) for s, w in zip(scenes, which)}
    seen = np.array([all(probes.fact_class(s, w) in known for w in (0, 1)) for s in asked])
    assert seen.mean() > 0.8
    asked_seen = [s for s, ok in zip(asked, seen) if ok]
    test = probes.Asked(test.features.reshape(len(asked), 2, 4, 8)[seen].reshape(-1, 4, 8), asked_seen)
    assert probes.linear(flat(train), {"test": flat(test)})["test"].mean() > 0.98
    noise = probes.Asked(rng.standard_normal(test.features.shape), asked_seen)
    assert 0.3 < probes.linear(flat(train), {"noise": flat(noise)})["noise"].mean() < 0.7
    with jax.default_matmul_precision("highest"):
        assert probes.attentive(train, {"test": test})["test"].mean() > 0.95


def test_a_probe_is_asked_for_one_of_two_facts_and_a_tie_is_wrong():
    scores = np.array([[[2.0, 1.0, 9.0], [0.0, 3.0, 9.0]], [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]])
    assert probes.right(scores, np.array([[0, 1], [0, 1]])).tolist() == [[True, True], [False, False]]


@pytest.mark.slow
def test_the_whole_study_runs_and_goes_on(study, tmp_path):
    """Three steps of everything, in the real pool; a second call does nothing again."""
    small = {kind: {**values, "steps": min(3, values["steps"]), "batch_size": 16,
                    "data": {**values["data"], "sources": [dict(kind="patterns", size=64, pixels=48)]},
                    "optimizer": {**values["optimizer"], "schedule": dict(warmup=0)}} for kind, values in study.towers.items()}
    optimizer = dataclasses.replace(study.optimizer, schedule=dataclasses.replace(study.optimizer.schedule, warmup=0))
    tiny = dataclasses.replace(study, towers=small, pictures=900, pairs=PAIRS, dev_pairs=PAIRS, steps=3, pretrain_steps=2,
                               batch_size=8, optimizer=optimizer)
    folder = str(tmp_path / "runs")
    jobs.run(tiny, folder)
    files = {job.file: os.path.getmtime(os.path.join(folder, job.file)) for wave in jobs.waves(tiny, folder) for job in wave}
    jobs.run(tiny, folder)
    assert files == {file: os.path.getmtime(os.path.join(folder, file)) for file in files}
    found = store.read(folder, Job("readers", "imof", 0))
    assert set(found["masked"]) == {"ssl shuffled", "ssl masked", "clip masked", "words"} and len(found["losses"]) == 3
    assert np.shape(found["splits"]["test"]["right"]) == (9 * PAIRS, 2)
    assert not np.all(found["masked"]["words"], axis=1).any()  # who sees nothing answers both pictures alike
    report.write(tiny, folder, str(tmp_path / "story"))
