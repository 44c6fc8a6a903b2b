"""What each kind of job does; runs inside a worker."""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Any

import numpy as np

from mof_jax.data.pattern_world import THINGS
from mof_jax.evals import cider
from mof_jax.evals.paired import group_scores
from mof_jax.nn.module import Params
from mof_jax.studies.blindness import exam, pictures, probes, reader, towers
from mof_jax.studies.blindness.jobs import Job, read_arrays, write, write_arrays
from mof_jax.studies.blindness.plan import SPLITS, Study
from mof_jax.studies.blindness.reader import Features, Reader


def features(study: Study, folder: str, job: Job) -> None:
    """Trains a tower and embeds every picture with it."""
    name = f"{job.name}-{job.seed}"
    workdir = towers.train(study, name, os.path.join(folder, "towers"))
    towers.embed(study, workdir, os.path.join(folder, job.file))


def language(study: Study, folder: str, job: Job) -> None:
    """Teaches a fresh language model the texts alone: how questions, answers and captions go, and no fact."""
    model = make_reader(study, "clip", study.pretrain_steps, 2 * study.batch_size)
    lesson = lesson_of(study)
    params, losses = model.train({}, lesson.texts, job.seed)
    llm = {path: np.asarray(x) for path, x in params.items() if path.startswith("llm/")}
    write_arrays(os.path.join(folder, job.file), {**llm, "losses": np.array(losses)})


def readers(study: Study, folder: str, job: Job) -> None:
    """Trains one arm with one seed and examines it; I-MoF also with its streams masked or shuffled."""
    model = make_reader(study, job.name, study.steps, study.batch_size)
    start = pretrained(folder, job.seed)
    names = study.towers_of(job.name, job.seed)
    params, losses = model.train(seen(study, folder, names, "train"), lesson_of(study).texts, job.seed, start)
    result: dict[str, Any] = {"losses": losses, "towers": names, "splits": {}}
    for split in SPLITS:
        shown = seen(study, folder, names, split)
        result["splits"][split] = {"right": answers(study, model, params, shown, split)}
        if split == "test":
            result["splits"][split] |= words(study, model, params, shown, split)
        if job.name == "imof" and split == "test":
            result["masked"] = {kind: answers(study, model, params, changed, split)
                                for kind, changed in ablations(shown, job.seed).items()}
            result["masked"]["words"] = answers(study, model, {**params, **start}, {}, split)
    write(folder, job, result)


def probe(study: Study, folder: str, job: Job) -> None:
    """What a tower's features hold, by pattern; its cosines of pairs; for a CLIP also how its texts find their pictures."""
    path = os.path.join(folder, f"features/{job.name}-{job.seed}.npz")
    lesson = towers.lesson_of(study, "train")
    asked = {split: towers.lesson_of(study, split).scenes[::2] for split in SPLITS}
    learned = lambda key: probes.Learned(towers.load(path, "train", key), lesson.scenes, lesson.which)
    tests = lambda key: {split: probes.Asked(towers.load(path, split, key), scenes) for split, scenes in asked.items()}
    linear = probes.linear(learned("pooled"), tests("pooled"))
    attentive = probes.attentive(learned("patches"), tests("patches"), job.seed)
    result: dict[str, Any] = {}
    for split in SPLITS:
        cosines = {kind: pair_cosines(x).tolist() for kind, x in descriptors(path, split).items()}
        result[split] = {"linear": linear[split].tolist(), "attentive": attentive[split].tolist(), "cosines": cosines}
        with np.load(path, allow_pickle=False) as arrays:
            if f"{split}/texts" in arrays.files:
                images, texts = (arrays[f"{split}/{key}"].reshape(len(asked[split]), 2, -1) for key in ("pooled", "texts"))
                scores = group_scores(np.einsum("pid,pjd->pij", images, texts))
                result[split]["statements"] = {key: x.tolist() for key, x in scores.items()}
    norms = np.linalg.norm(towers.load(path, "train", "patches").astype(np.float32), axis=-1)
    write(folder, job, {**result, "norm": float(norms.mean())})


WORK: dict[str, Callable[[Study, str, Job], None]] = {
    "features": features, "language": language, "readers": readers, "probes": probe}


# --- pieces ---------------------------------------------------------------------------------------------------------------


def lesson_of(study: Study) -> pictures.Lesson:
    """What readers learn: their captions say the fact, as instruction data does; the towers' captions are another matter."""
    return pictures.training(pictures.Size(study.pictures, study.pixels, stated=1.0))


def make_reader(study: Study, arm: str, steps: int, batch_size: int) -> Reader:
    """The reader of an arm."""
    model = study.model(arm, towers.vit(study), len(pictures.vocabulary()))
    return Reader(model, steps, batch_size, study.optimizer)


def pretrained(folder: str, seed: int) -> Params:
    """The language model that `language` left."""
    return {k: x for k, x in read_arrays(os.path.join(folder, f"language/llm-{seed}.npz")).items() if k != "losses"}


def seen(study: Study, folder: str, names: tuple[str, ...], split: str) -> Features:
    """Patch features by encoder of a reader: `a`, `b` in the order of its towers."""
    return {key: towers.load(os.path.join(folder, f"features/{name}.npz"), split, "patches") for key, name in zip("ab", names)}


def ablations(shown: Features, seed: int) -> dict[str, Features]:
    """I-MoF's streams disturbed without training: the second one taken from other pictures, either one replaced by its mean."""
    order = np.random.default_rng((seed, 7)).permutation(len(shown["b"]))
    mean = lambda x: np.broadcast_to(x.astype(np.float32).mean(0, keepdims=True).astype(x.dtype), x.shape)
    return {"ssl shuffled": {**shown, "b": shown["b"][order]}, "ssl masked": {**shown, "b": mean(shown["b"])},
            "clip masked": {**shown, "a": mean(shown["a"])}}


def answers(study: Study, model: Reader, params: Params, shown: Features, split: str) -> list[list[bool]]:
    """Which questions of facts are answered rightly, [scenes, 2]."""
    lesson = towers.lesson_of(study, split)
    scenes = lesson.scenes[::2]
    logits = reader.choose(model, params, shown, lesson.texts, exam.choices(pictures.vocabulary(), scenes))
    return exam.right_choices(logits, scenes).tolist()


def words(study: Study, model: Reader, params: Params, shown: Features, split: str) -> dict[str, Any]:
    """`named` of each scene's first picture, and `cider` of greedy captions of a tenth of all pictures."""
    lesson, vocabulary = towers.lesson_of(study, split), pictures.vocabulary()
    of = lambda rows, kind: ({k: x[rows] for k, x in shown.items()}, lesson.texts[rows, exam.KINDS.index(kind)],
                             np.arange(len(rows)))
    first = [vocabulary(name)[0] for name in THINGS]  # no two things begin with one word
    asked, some = np.arange(0, len(lesson.scenes), 2), np.arange(0, len(lesson.scenes), 10)
    guesses = model.next_logits(params, *of(asked, "name"))[:, first].argmax(-1)
    truth = np.array([list(THINGS).index(lesson.scenes[i].thing) for i in asked])
    said = [vocabulary.text(row) for row in model.captions(params, *of(some, "caption"))]
    wanted = [lesson.scenes[i].caption(int(lesson.which[i])) for i in some]
    references = [[cider.tokenize(x)] for x in wanted]
    score = cider.cider_d([cider.tokenize(x) for x in said], references, cider.document_frequency(references), len(references))
    return {"named": (guesses == truth).tolist(), "cider": 100 * float(np.mean(score)), "captions": list(zip(said, wanted))[:18]}


def descriptors(path: str, split: str) -> dict[str, np.ndarray]:
    """Image descriptors with which pairs are compared: the pooled feature as it is, and all patches side by side, centred."""
    patches = towers.load(path, split, "patches").astype(np.float32)
    flat = patches.reshape(len(patches), -1)
    return {"pooled": towers.load(path, split, "pooled"), "patches": flat - flat.mean(0)}


def pair_cosines(x: np.ndarray) -> np.ndarray:
    """Cosine of the two pictures of each scene."""
    x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return (x[0::2] * x[1::2]).sum(-1)


