"""What each kind of job does; runs inside a worker."""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
from typing import Any

from jaxtyping import Float
import numpy as np
from rich.console import Console

from mof_jax.data.worlds.pattern_world import THINGS
from mof_jax.evals.embed.labelled_sources import unit
from mof_jax.evals.metrics import cider
from mof_jax.evals.metrics.paired import group_scores
from mof_jax.mining.blind import mine
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.rules import PAPER, Rule
from mof_jax.nn.module import Params
from mof_jax.studies.blindness import exam, pictures, probes, reader, towers
from mof_jax.studies.blindness.plan import SPLITS, Study
from mof_jax.studies.blindness.reader import Features, Reader
from mof_jax.studies.blindness.store import Job, read_arrays, write, write_arrays


def features(study: Study, folder: str, job: Job) -> None:
    """Trains a tower and embeds every picture with it."""
    name = f"{job.name}-{job.seed}"
    workdir = towers.train(study, name, os.path.join(folder, "towers"))
    write_arrays(folder, job, towers.embed(study, workdir))


def language(study: Study, folder: str, job: Job) -> None:
    """Teaches a fresh language model the texts alone: how questions, answers and captions go, and no fact."""
    model = make_reader(study, "clip", study.pretrain_steps, 2 * study.batch_size)
    params, losses = model.train({}, pictures.taught(study).texts, job.seed)
    llm = {path: np.asarray(x) for path, x in params.items() if path.startswith("llm/")}
    write_arrays(folder, job, {**llm, "losses": np.array(losses)})


def readers(study: Study, folder: str, job: Job) -> None:
    """Trains one arm with one seed and examines it; I-MoF also with its streams masked or shuffled."""
    model = make_reader(study, job.name, study.steps, study.batch_size)
    start = pretrained(folder, job.seed)
    names = study.towers_of(job.name, job.seed)
    params, losses = model.train(seen(study, folder, names, "train"), pictures.taught(study).texts, job.seed, start)
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
    lesson, get = pictures.lesson(study, "train"), functools.partial(stored, folder, f"{job.name}-{job.seed}")
    asked = {split: pictures.lesson(study, split).scenes[::2] for split in SPLITS}
    learned = lambda key: probes.Learned(get("train", key), lesson.scenes, lesson.which)
    tests = lambda key: {split: probes.Asked(get(split, key), scenes) for split, scenes in asked.items()}
    linear = probes.linear(learned("pooled"), tests("pooled"))
    attentive = probes.attentive(learned("patches"), tests("patches"), job.seed)
    result: dict[str, Any] = {}
    for split in SPLITS:
        found = descriptors(get(split, "pooled"), get(split, "patches"))
        result[split] = {"linear": linear[split].tolist(), "attentive": attentive[split].tolist(),
                         "cosines": {kind: pair_cosines(x).tolist() for kind, x in found.items()}}
        texts = read_arrays(folder, Job("features", job.name, job.seed), f"{split}/texts")
        if texts:
            images, texts = (x.reshape(len(asked[split]), 2, -1) for x in (get(split, "pooled"), *texts.values()))
            scores = group_scores(np.einsum("pid,pjd->pij", images, texts))
            result[split]["statements"] = {key: x.tolist() for key, x in scores.items()}
    norms = np.linalg.norm(get("train", "patches").astype(np.float32), axis=-1)
    write(folder, job, {**result, "norm": float(norms.mean())})


def mined(study: Study, folder: str, job: Job) -> None:
    """Blind pairs among all pictures of a split, whatever their scenes: how many, and how many of them are a scene's own two."""
    describe = lambda split: {
        name: descriptors(stored(folder, f"{name}-{job.seed}", split, "pooled"),
                          stored(folder, f"{name}-{job.seed}", split, "patches"))[key] for name, key in BLIND_BY.items()}
    fitted = float(np.quantile(pair_cosines(describe("dev")["ssl"]), study.ssl_below))
    result: dict[str, Any] = {"ssl_below": fitted}
    for split in ("known", "test"):
        features = {name: Embeddings.of(x.astype(np.float32)) for name, x in describe(split).items()}
        for name, below in (("paper", PAPER["ssl"]), ("fitted", Rule("below", fitted))):
            found = mine(features, {"clip": Rule("above", study.clip_above), "ssl": below}, console=Console(quiet=True))
            own = found.pairs.i // 2 == found.pairs.j // 2
            about = found.info["statistics"]
            result[f"{split}/{name}"] = {"pairs": len(found), "own": int(own.sum()), "images": about["images"],
                                         "share": about["share_of_pairs"]}
    write(folder, job, result)


WORK: dict[str, Callable[[Study, str, Job], None]] = {
    "features": features, "language": language, "readers": readers, "probes": probe, "mined": mined}

# Which descriptor of each tower says that two pictures are alike: a masked autoencoder trains no pooled one.
BLIND_BY = {"clip": "pooled", "ssl": "patches"}


# --- pieces ---------------------------------------------------------------------------------------------------------------


def make_reader(study: Study, arm: str, steps: int, batch_size: int) -> Reader:
    """The reader of an arm."""
    model = study.model(arm, towers.vit(study), len(pictures.vocabulary()))
    return Reader(model, steps, batch_size, study.optimizer)


def pretrained(folder: str, seed: int) -> Params:
    """The language model that `language` left."""
    return {path: x for path, x in read_arrays(folder, Job("language", "llm", seed)).items() if path != "losses"}


def seen(study: Study, folder: str, names: tuple[str, ...], split: str) -> Features:
    """Patch features by encoder of a reader: `a`, `b` in the order of its towers."""
    return {key: stored(folder, name, split, "patches") for key, name in zip("ab", names)}


def stored(folder: str, tower: str, split: str, key: str) -> np.ndarray:
    """One array of what `features` kept of tower `KIND-SEED`."""
    kind, _, seed = tower.rpartition("-")
    return read_arrays(folder, Job("features", kind, int(seed)), f"{split}/{key}")[f"{split}/{key}"]


def ablations(shown: Features, seed: int) -> dict[str, Features]:
    """I-MoF's streams disturbed without training: the second one taken from other pictures, either one replaced by its mean."""
    order = np.random.default_rng((seed, 7)).permutation(len(shown["b"]))
    mean = lambda x: np.broadcast_to(x.astype(np.float32).mean(0, keepdims=True).astype(x.dtype), x.shape)
    return {"ssl shuffled": {**shown, "b": shown["b"][order]}, "ssl masked": {**shown, "b": mean(shown["b"])},
            "clip masked": {**shown, "a": mean(shown["a"])}}


def answers(study: Study, model: Reader, params: Params, shown: Features, split: str) -> list[list[bool]]:
    """Which questions of facts are answered rightly, [scenes, 2]."""
    lesson = pictures.lesson(study, split)
    scenes = lesson.scenes[::2]
    logits = reader.choose(model, params, shown, lesson.texts, exam.choices(pictures.vocabulary(), scenes))
    return exam.right_choices(logits, scenes).tolist()


def words(study: Study, model: Reader, params: Params, shown: Features, split: str) -> dict[str, Any]:
    """`named` of each scene's first picture, and `cider` of greedy captions of a tenth of all pictures."""
    lesson, vocabulary = pictures.lesson(study, split), pictures.vocabulary()
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


def descriptors(
    pooled: Float[np.ndarray, "pictures dim"], patches: Float[np.ndarray, "pictures patches width"]
) -> dict[str, Float[np.ndarray, "pictures _"]]:
    """What pictures are compared by: the pooled feature as it is, and all patches side by side, centred."""
    flat = patches.astype(np.float32).reshape(len(patches), -1)
    return {"pooled": pooled, "patches": flat - flat.mean(0)}


def pair_cosines(x: Float[np.ndarray, "pictures dim"]) -> Float[np.ndarray, "scenes"]:
    """Cosine of the two pictures of each scene."""
    x = unit(x)
    return (x[0::2] * x[1::2]).sum(-1)
