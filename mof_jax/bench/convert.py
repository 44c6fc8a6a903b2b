"""`mof convert` of a random Llama, there and back: peak memory over the file's size, and seconds beside reading the file alone.

    mof bench convert --params 1.1e9

Every contestant runs in a process of its own, whose peak is the most memory the system ever gave it (VmHWM): interpreter,
libraries and mapped files are in it. The readers hold one tensor at a time. All find the file in the page cache where it fits
there.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
from rich.table import Table

from mof_jax import console
from mof_jax.convert import DTYPES, convert
from mof_jax.interop import safetensors, transfer, weights
from mof_jax.interop.families.llama import LLAMA
from mof_jax.nn.module import Skeleton

_VOCABULARY, _HEAD = 32_000, 64  # Llama's words, and the width of a head


def run(params: float = 1.1e9, dtype: str = "f32") -> list[dict]:
    """Measures every contestant, one after the other.

    Args:
      params: of the model, about. dtype: `f32`, `bf16` or `f16`, of the file and of the checkpoint.

    Returns:
      One row a contestant: `name`, `seconds` (starting the interpreter included), `ratio` (over those of the first reader),
      `peak_gb`, `of_file` (its peak over the size of the file), `file_gb`.
    """
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours, back = (os.path.join(folder, name) for name in ("theirs", "ours", "back"))
        size = write(theirs, params, dtype)
        file = os.path.join(theirs, "model.safetensors")
        jobs = ({"safetensors": ["library", file]} if importlib.util.find_spec("safetensors") else {}) | {
            "our reader": ["reader", file], "import": ["convert", f"hf:{theirs}", ours, dtype],
            "export": ["convert", ours, f"hf:{back}", dtype]}
        measured = {name: _measure(job) for name, job in jobs.items()}
        _same(file, os.path.join(back, "model.safetensors"))
    reference = next(iter(measured.values()))[0]
    return [{"name": name, "seconds": seconds, "ratio": seconds / reference, "peak_gb": peak / 1e9, "of_file": peak / size,
             "file_gb": size / 1e9} for name, (seconds, peak) in measured.items()]


def write(folder: str, params: float, dtype: str) -> int:
    """A Llama of about `params` random parameters, as `transformers` would store it; bytes of its file."""
    os.makedirs(folder)
    # A layer has 12 width² parameters; like published models, it is about a hundredth as deep as it is wide.
    width = next(w for w in range(_HEAD, 1 << 15, _HEAD) if 12 * w * w * depth(w) + 2 * _VOCABULARY * w >= params)
    theirs = dict(model_type="llama", hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=depth(width),
                  num_attention_heads=width // _HEAD, vocab_size=_VOCABULARY, rms_norm_eps=1e-5)
    config = LLAMA.read(theirs)
    shapes = Skeleton.of(lambda rngs: LLAMA.build(config, rngs)).shapes
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bf16" else DTYPES[dtype])
    tensors = {name: (shape, kind) for name, shape in transfer.announce(LLAMA.table(config), shapes).items()}
    rng = np.random.default_rng(0)
    arrays = ((name, rng.standard_normal(shape, np.float32).astype(kind)) for name, (shape, _) in tensors.items())
    weights.save(folder, tensors, arrays, limit=1 << 50)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(theirs, f)
    return sum(math.prod(shape) * kind.itemsize for shape, _ in tensors.values())


def depth(width: int) -> int:
    """Layers of a model of that width."""
    return max(2, width // 96)


def _measure(job: list[str]) -> tuple[float, int]:
    """(seconds, peak bytes) of one contestant."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "mof_jax.bench.convert", *job], check=True, capture_output=True, text=True)
    return time.perf_counter() - begun, int(done.stdout.split()[-1])


def _same(first: str, second: str) -> None:
    """Checks that the way back gave every bit back."""
    header, other = safetensors.read_header(first), safetensors.read_header(second)
    assert header.keys() == other.keys(), "other tensors came back"
    for name, entry in header.items():
        x, y = (safetensors.read_tensor(file, name, e) for file, e in ((first, entry), (second, other[name])))
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), f"{name} came back changed"


def _library(file: str) -> None:
    from safetensors import safe_open

    with safe_open(file, "np") as tensors:
        for name in tensors.keys():
            tensors.get_tensor(name)


def _reader(file: str) -> None:
    for name, entry in safetensors.read_header(file).items():
        safetensors.read_tensor(file, name, entry)


def _convert(source: str, target: str, dtype: str) -> None:
    convert(source, target, dtype)


def show(rows: list[dict]) -> None:
    """Prints the rows as a table."""
    table = Table(title=f"A file of {rows[0]['file_gb']:.2f} GB", title_justify="left")
    for column in ("contestant", "seconds", f"÷ {rows[0]['name']}", "peak GB", "÷ file"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for r in rows:
        table.add_row(r["name"], f"{r['seconds']:.1f}", f"{r['ratio']:.2f}", f"{r['peak_gb']:.2f}", f"{r['of_file']:.2f}")
    console.stdout().print(table)


_JOBS: dict[str, Callable[..., None]] = {"library": _library, "reader": _reader, "convert": _convert}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        _JOBS[sys.argv[1]](*sys.argv[2:])
    with open("/proc/self/status") as f:
        print(next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024)
