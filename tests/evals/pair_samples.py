"""Pairs of pictures, and the published layouts filled with them."""

from __future__ import annotations

from collections.abc import Callable
import csv
import pathlib

from fake_generator import picture

from mof_jax.data.pairs import PATTERNS, Pair

TRICKY = 'Does it say "stop, now" on\nthe sign, or (a) nothing?'


def mmvp_pairs(count: int, pattern: Callable[[int], str] = lambda k: "") -> list[Pair]:
    """Pair k has pictures of shades 2k and 2k + 1; its answers alternate with k."""
    return [Pair(str(k + 1), (picture(2 * k % 256), picture((2 * k + 1) % 256)), TRICKY if k == 1 else f"Question {k}, which?",
                 ('Say "yes"', "No, never") if k == 1 else ("red", "not, so (b) red"), (k % 2, 1 - k % 2), pattern=pattern(k))
            for k in range(count)]


def vlm_pairs(each: int) -> list[Pair]:
    """`each` pairs of every pattern, in the paper's order."""
    return [Pair(str(k + 1), (picture(2 * k % 256), picture((2 * k + 1) % 256)), pattern=pattern,
                 statements=(f"Scene {k}, one", f'Scene {k}, "two"'))
            for k, pattern in enumerate(key for key in PATTERNS for _ in range(each))]


def real_mmvp(folder: pathlib.Path, rows: int = 300) -> pathlib.Path:
    """A folder with the published file's size, header, folder name and JPEG pictures; and what it asks at the four wrong rows."""
    from mof_jax.data.image import images

    (folder / "MMVP Images").mkdir(parents=True)
    jpeg = images.encode(images.to_array(images.decode(picture(7))), "JPEG")
    asked = {49: "(a) Long (b) Short", 139: "(a) Standing (b) Sitting"}
    with open(folder / "Questions.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["lndex", "Question", "Options", "Correct Answer"])
        for n in range(1, rows + 1):
            k = (n - 1) // 2
            flipped = 0 if k in asked else k % 3 == 0
            writer.writerow([n, f"Question {k}, which?", asked.get(k, "(a) Open (b) Closed"), f"({'ab'[(n - 1) % 2 ^ flipped]})"])
            (folder / "MMVP Images" / f"{n}.jpg").write_bytes(jpeg)
    return folder


def edit_csv(path: pathlib.Path, change: Callable[[list[list[str]]], None]) -> None:
    """Rewrites the rows of a table, its header first."""
    with open(path, newline="") as f:
        rows = list(csv.reader(f))
    change(rows)
    with open(path, "w", newline="") as f:
        csv.writer(f).writerows(rows)


def cell(row: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    """A change for `edit_csv`."""
    return lambda rows: rows[row].__setitem__(column, value)
