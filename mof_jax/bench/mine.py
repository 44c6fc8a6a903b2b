"""Exact mining of blind pairs against faiss and blocked NumPy, in turns, in one run, all of them checked to find the same pairs.

    mof bench mine --n 50000

Every contestant finds the pairs with cos_clip > 0.95 and cos_ssl < 0.6 among N random unit vectors with planted
near-duplicates, half of which are near-duplicates for the second feature, too. The others get what helps them: rows in memory
and normalised already, the second feature only looked at where the first has a hit, and for NumPy the upper triangle only
(faiss has no such search). Ours reads its rows from disk, normalises, plans, compiles and writes its file within its time.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from mof_jax import console
from mof_jax.mining.blind import mine
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.rules import PAPER

Found = set[tuple[int, int]]
_BLOCK = 4096  # rows of NumPy's tiles and of faiss's batches of queries
_ABOVE, _BELOW = PAPER["clip"].value, PAPER["ssl"].value


def run(n: int = 50_000, dim: int = 768, repeats: int = 3, memory: bool = True) -> list[dict]:
    """Measures every contestant.

    Args:
      n: records. dim: of both features. repeats: turns, after one that warms everything up on a sixteenth of the records.
      memory: measure ours at `n` and `2 n`, each in a process of its own.

    Returns:
      One row a contestant: `name`, `seconds` (median), `ratio` (its time over ours, median over paired turns), `pairs`, `peak_mb`
      (anonymous memory at its peak beyond what was there before; None where not measured).

    Raises:
      AssertionError: two contestants found different pairs.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = write(folder, n, dim)
        small = write(os.path.join(folder, "small"), max(n // 16, 64), dim)
        seconds: dict[str, list[float]] = {}
        results: dict[str, Found] = {}
        for turn in range(repeats + 1):
            for name, contestant in contestants(*(files if turn else small)).items():
                begun = time.perf_counter()
                found = contestant()
                if turn:
                    seconds.setdefault(name, []).append(time.perf_counter() - begun)
                    results[name] = found
        reference = results["mof_jax"]
        for name, found in results.items():
            assert found == reference, f"{name} finds {len(found)} pairs, mof_jax {len(reference)}"
        peaks = {}
        if memory and os.path.exists("/proc/self/status"):
            double = write(os.path.join(folder, "double"), 2 * n, dim)
            peaks = {"mof_jax": peak_mb(*files), f"mof_jax, {2 * n:,} records": peak_mb(*double)}
    rows = [{"name": name, "seconds": statistics.median(times), "pairs": len(results[name]), "peak_mb": peaks.get(name),
             "ratio": statistics.median(theirs / ours for theirs, ours in zip(times, seconds["mof_jax"]))}
            for name, times in seconds.items()]
    return rows + [{"name": name, "seconds": None, "pairs": None, "ratio": None, "peak_mb": peak}
                   for name, peak in peaks.items() if name not in seconds]


def write(folder: str, n: int, dim: int) -> tuple[str, str]:
    """Two `.npy` files of unit rows; a fiftieth of the records has a near-duplicate in the first, half of those in both."""
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(0)
    planted = n // 50
    copies, originals = rng.permutation(n)[: 2 * planted].reshape(2, planted)
    files = os.path.join(folder, "clip.npy"), os.path.join(folder, "ssl.npy")
    for file, some in zip(files, (planted, planted // 2)):
        x = rng.standard_normal((n, dim), dtype=np.float32)
        x[copies[:some]] = x[originals[:some]] + 0.25 * rng.standard_normal((some, dim), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        np.save(file, x)
    return files


def contestants(clip: str, ssl: str) -> dict[str, Callable[[], Found]]:
    """By name; faiss where it is installed."""
    a, b = np.load(clip), np.load(ssl)
    found = {"mof_jax": lambda: ours(clip, ssl), "mof_jax, no bound": lambda: ours(clip, ssl, a.shape[1]),
             "blocked NumPy": lambda: blocked(a, b)}
    with contextlib.suppress(ImportError):
        import faiss

        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        found["faiss IndexFlatIP.range_search"] = lambda: ranges(faiss, a, b)
    return found


def ours(clip: str, ssl: str, width: int | None = None) -> Found:
    """From files to a file; at full `width` every tile is a product over all dimensions."""
    with tempfile.TemporaryDirectory() as folder:
        features = {"clip": Embeddings.open(clip), "ssl": Embeddings.open(ssl)}
        mined = mine(features, PAPER, os.path.join(folder, "pairs.parquet"), width=width, console=Console(quiet=True))
    return set(zip(mined.pairs.i.tolist(), mined.pairs.j.tolist()))


def blocked(a: np.ndarray, b: np.ndarray) -> Found:
    """Tiles of the upper triangle."""
    found: Found = set()
    for top in range(0, len(a), _BLOCK):
        for left in range(top, len(a), _BLOCK):
            i, j = np.nonzero(a[top : top + _BLOCK] @ a[left : left + _BLOCK].T > _ABOVE)
            found |= _unlike(b, i + top, j + left)
    return found


def ranges(faiss, a: np.ndarray, b: np.ndarray) -> Found:
    """An inner-product index of the first feature, asked for everything above the threshold."""
    index = faiss.IndexFlatIP(a.shape[1])
    index.add(a)
    found: Found = set()
    for start in range(0, len(a), _BLOCK):
        limits, _, j = index.range_search(a[start : start + _BLOCK], _ABOVE)
        i = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits.astype(np.int64)))
        found |= _unlike(b, i, j)
    return found


def _unlike(b: np.ndarray, i: np.ndarray, j: np.ndarray) -> Found:
    i, j = i[i < j], j[i < j]
    kept = np.sum(b[i] * b[j], axis=1) < _BELOW
    return set(zip(i[kept].tolist(), j[kept].tolist()))


def peak_mb(clip: str, ssl: str) -> float:
    """Of ours in a process of its own: the most anonymous memory it holds, less what it held before it began."""
    done = subprocess.run([sys.executable, "-m", "mof_jax.bench.mine", clip, ssl], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _anonymous_mb() -> float:
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) / 1024


def _watch(clip: str, ssl: str) -> None:
    """Prints the peak of a run; a first one on a few rows brings in what any run needs."""
    with tempfile.TemporaryDirectory() as folder:
        ours(*write(folder, 256, 32))
    before, peak, stop = _anonymous_mb(), [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], _anonymous_mb())

    watcher = threading.Thread(target=sample)
    watcher.start()
    ours(clip, ssl)
    stop.set()
    watcher.join()
    print(peak[0] - before)


def show(rows: list[dict], n: int, dim: int) -> None:
    """Prints the rows as a table."""
    table = Table(title=f"Blind pairs among {n:,} × {dim}", title_justify="left")
    for column in ("contestant", "median s", "ours is × as fast", "pairs", "peak MB beyond the embeddings"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    text = lambda value, form: "" if value is None else format(value, form)
    for r in rows:
        forms = {"seconds": ".2f", "ratio": ".2f", "pairs": ",", "peak_mb": ",.0f"}
        table.add_row(r["name"], *(text(r[key], form) for key, form in forms.items()))
    console.stdout().print(table)


if __name__ == "__main__":
    _watch(*sys.argv[1:])
