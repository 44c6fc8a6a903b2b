"""Images per second of the input pipeline against a plain loop and, where installed, open_clip's way of loading.

    python -m mof_jax.bench.data

All rows read the same generated tar in one run, in turns, so that their ratios hold on a busy machine too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import importlib.util
import io
import os
import statistics
import tarfile
import tempfile
import time

import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from mof_jax.config import build
from mof_jax.console import stdout
from mof_jax.data.pipeline import DataConfig, Pipeline


def run(
    count: int = 512,
    width: int = 640,
    height: int = 480,
    image_size: int = 224,
    batch_size: int = 64,
    threads: int | None = None,
    repeats: int = 3,
    console: Console | None = None,
) -> list[dict[str, object]]:
    """Measures and prints.

    Args:
      count: JPEGs in the tar.
      width, height: their size, pixels.
      image_size: side that they are resized and centre-cropped to.
      threads: of the threaded rows; by default one a core.
      repeats: passes over the tar for each row; the median counts.

    Returns:
      One `{"name", "images_per_s", "ratio"}` a row; `ratio` is to the plain loop.
    """
    threads = threads or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        tar = os.path.join(folder, "00000.tar")
        write_tar(tar, count, width, height)
        loops: dict[str, Callable[[], Iterator[int]]] = {
            "plain Pillow loop": lambda: _plain(tar, image_size, False),
            "the same with scaled JPEG decoding": lambda: _plain(tar, image_size, True),
            "mof_jax, no threads": _ours(tar, folder, image_size, batch_size, 0),
            f"mof_jax, {threads} threads": _ours(tar, folder, image_size, batch_size, threads),
        }
        if importlib.util.find_spec("webdataset") and importlib.util.find_spec("torch"):
            loops[f"webdataset, {threads} workers"] = lambda: _webdataset(tar, image_size, batch_size, threads)
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(repeats):
            for name, loop in loops.items():
                rates[name].append(_rate(loop(), count))
    plain = statistics.median(rates["plain Pillow loop"])
    rows = [
        {"name": n, "images_per_s": statistics.median(r), "ratio": statistics.median(r) / plain}
        for n, r in rates.items()
    ]
    table = Table(
        "loader", "images/s", "x plain", title=f"{count} JPEGs of {width}x{height} to {image_size}x{image_size}"
    )
    for row in rows:
        table.add_row(row["name"], f"{row['images_per_s']:.0f}", f"{row['ratio']:.2f}")
    (console or stdout()).print(table)
    return rows


def write_tar(path: str, count: int, width: int, height: int) -> None:
    """A tar of JPEGs (quality 88) with captions: smooth colours with some grain, about as heavy as photographs."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), np.uint8)).resize((width, height), 3)
    grain = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            picture = Image.blend(coarse.rotate(i), grain, 0.25)
            out = io.BytesIO()
            picture.save(out, "JPEG", quality=88)
            for name, data in ((f"{i:06d}.jpg", out.getvalue()), (f"{i:06d}.txt", f"picture {i}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _rate(batches: Iterator[int], count: int) -> float:
    """Images per second over `count` images, after half as many that pay for starting up."""
    warm = 0
    while warm < count // 2:
        warm += next(batches)
    start, seen = time.perf_counter(), 0
    for size in batches:
        seen += size
        if seen >= count:
            break
    return seen / (time.perf_counter() - start)


def _plain(tar: str, image_size: int, scaled: bool) -> Iterator[int]:
    """What everybody writes first: full decode, resize the short side, crop the centre; or with Pillow's `draft`."""
    while True:
        with tarfile.open(tar) as t:
            for member in t:
                if member.name.endswith(".jpg"):
                    picture = Image.open(io.BytesIO(t.extractfile(member).read()))
                    if scaled:
                        picture.draft("RGB", (image_size, image_size))
                    picture = picture.convert("RGB")
                    scale = image_size / min(picture.size)
                    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), 3)
                    left, top = (picture.width - image_size) // 2, (picture.height - image_size) // 2
                    np.asarray(picture.crop((left, top, left + image_size, top + image_size)))
                    yield 1


def _ours(tar: str, folder: str, image_size: int, batch_size: int, threads: int) -> Callable[[], Iterator[int]]:
    source = {"kind": "webdataset", "path": tar, "cache_dir": os.path.join(folder, "index")}
    values = {"sources": [source], "image_size": image_size, "resize": "shortest", "threads": threads}
    config = build(DataConfig, values | {"chunk": 8, "prefetch": 2})
    pipeline = Pipeline(config, lambda texts: np.zeros((len(texts), 8), np.int32), batch_size)
    return lambda: (len(batch["image"]) for batch, _ in pipeline.batches())


def _webdataset(tar: str, image_size: int, batch_size: int, workers: int) -> Iterator[int]:
    """open_clip's recipe: shuffled tar stream, Pillow decode, worker processes."""
    import torch
    import webdataset

    def shrink(picture: Image.Image) -> torch.Tensor:
        scale = image_size / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), 3)
        left, top = (picture.width - image_size) // 2, (picture.height - image_size) // 2
        return torch.from_numpy(np.array(picture.crop((left, top, left + image_size, top + image_size))))

    dataset = webdataset.DataPipeline(
        webdataset.ResampledShards(tar),
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(200),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg", text="txt"),
        webdataset.map_dict(image=shrink),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(batch_size),
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    return (len(pictures) for pictures, _ in loader)


if __name__ == "__main__":
    run()
