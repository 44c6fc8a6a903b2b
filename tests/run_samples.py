"""Files and processes that the tests of whole runs share."""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parent


def write_pool(folder: pathlib.Path, count: int = 40) -> pathlib.Path:
    """`pool.jsonl` with pictures, two kinds of caption and a score."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "pool.jsonl", "w") as f:
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{i:03d}.png")
            f.write(json.dumps({"id": f"p{i}", "image": f"{i:03d}.png", "alt": f"noise number {i}",
                                "synthetic": f"a synthetic caption of picture {i}",
                                "scores": {"dfn": float(rng.random())}}) + "\n")
    return folder


def environment(devices: int) -> dict[str, str]:
    """Environment of a training process with so many CPU devices."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])  # the suite's own otherwise, see conftest
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT.parent}"}


def mof(*args: str, devices: int = 2, **options) -> subprocess.Popen:
    """`mof ARGS` as a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "mof_jax.cli", *map(str, args)], env=environment(devices),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def start_two(*args: str) -> list[subprocess.Popen]:
    """`mof ARGS` as two processes of one device each."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    together = ("--coordinator", f"localhost:{port}", "--processes", "2", "--process-id")
    return [mof(*args, *together, i, devices=1) for i in range(2)]


def finish(process: subprocess.Popen, timeout: float = 240) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def lines(path: pathlib.Path) -> list[dict]:
    """The objects of a JSON-lines file."""
    return [json.loads(text) for text in path.read_text().splitlines()]
