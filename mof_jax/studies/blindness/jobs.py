"""The study as jobs that a pool of single-threaded workers takes in turn; each leaves a file, and a job with its file is done.

On two cores two workers of one thread beat one run on both: the models are small, and threads wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
import multiprocessing
import os
import time

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mof_jax import config as configs
from mof_jax import storage
from mof_jax.console import plain
from mof_jax.errors import UserError
from mof_jax.studies.blindness.plan import Study
from mof_jax.studies.blindness.store import Job, read

# Set before a worker imports JAX. Huge pages: every step allocates its buffers anew, and small pages cost a quarter of the time.
_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "MALLOC_TOP_PAD_": "200000000",
                "MALLOC_TRIM_THRESHOLD_": "4000000000",
                "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1"}


def waves(study: Study, folder: str) -> Iterator[list[Job]]:
    """Jobs in the order in which they need each other: towers and language models; everything that reads features; the ratio
    that the dev world prefers, with the seeds that the sweep left out."""
    split = lambda name: (name.rpartition("-")[0], int(name.rpartition("-")[2]))
    cost = {"clip": 3.0, "stated": 3.0, "ssl": 2.5, "other": 4.0, "random": 0.3}
    towers = [Job("features", kind, seed, cost.get(kind, 1.0)) for kind, seed in map(split, study.all_towers)]
    language = [Job("language", "llm", seed, 1.0) for seed in study.seeds]
    readers = [Job("readers", arm, seed, 2.0 if len(study.towers_of(arm, seed)) > 1 else 1.5)
               for arm in study.arms for seed in study.seeds_of(arm)]
    probes = [Job("probes", kind, seed, 0.8) for kind, seed in map(split, study.all_towers)]
    yield towers + language
    mined = [Job("mined", "pairs", seed, 0.5) for seed in study.seeds]
    yield readers + probes + mined
    yield [Job("readers", best_ratio(study, folder), seed, 1.5) for seed in study.seeds]


def best_ratio(study: Study, folder: str) -> str:
    """The arm of the sweep with the best pair accuracy on the dev world, of the seed that the sweep was trained with."""
    def score(arm: str) -> float:
        result = read(folder, Job("readers", arm, study.seeds_of(arm)[0]))
        return float(np.mean(np.all(result["splits"]["dev"]["right"], axis=1)))

    return max(study.sweep, key=score)


def run(study: Study, folder: str, workers: int = 2) -> None:
    """Every job that has no file yet.

    Raises:
      UserError: the folder holds results of other settings.
    """
    os.makedirs(folder, exist_ok=True)
    settings, path = json.dumps(configs.to_dict(study), indent=1), os.path.join(folder, "study.json")
    if os.path.exists(path) and storage.read(path).decode() != settings:
        raise UserError(f"{folder}: holds the results of other settings ({path}); give another folder with --out")
    storage.write_atomic(path, [settings.encode()])
    for jobs in waves(study, folder):
        left = sorted((job for job in jobs if not os.path.exists(os.path.join(folder, job.file))), key=lambda job: -job.cost)
        if left:
            _in_pool(study, folder, left, min(workers, len(left)))


def _in_pool(study: Study, folder: str, jobs: Sequence[Job], workers: int) -> None:
    kept = {key: os.environ.get(key) for key in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)  # for the children, which start afresh and read it on import
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with multiprocessing.get_context("spawn").Pool(workers) as pool, Progress(*columns) as progress:
            bar = progress.add_task(f"{len(jobs)} jobs, {workers} workers", total=len(jobs))
            for job, seconds in pool.imap_unordered(_work, [(study, folder, job) for job in jobs]):
                progress.console.print(plain(f"{job.kind:9} {job.name}-{job.seed}  {seconds:.0f} s"))
                progress.advance(bar)
    finally:
        for key, value in kept.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


def _work(task: tuple[Study, str, Job]) -> tuple[Job, float]:
    study, folder, job = task
    begun = time.perf_counter()
    from mof_jax import run as runs
    from mof_jax.studies.blindness import work

    runs.set_up_jax(runs.resolve(next(iter(study.towers.values()))))  # the compilation cache: three seeds compile once
    os.makedirs(os.path.join(folder, job.kind), exist_ok=True)
    work.WORK[job.kind](study, folder, job)
    return job, time.perf_counter() - begun
