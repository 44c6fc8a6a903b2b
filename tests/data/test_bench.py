"""The benchmark runs, on a handful of pictures."""

from rich.console import Console

from mof_jax.bench import data, fields


def test_bench_returns_one_row_a_loader():
    rows = data.run(
        count=6, width=64, height=48, image_size=16, batch_size=4, threads=1, repeats=1, console=Console(quiet=True)
    )
    assert [row["name"] for row in rows][0] == "plain Pillow loop"
    assert [row["name"] for row in rows][2:4] == ["mof_jax, no threads", "mof_jax, 1 threads"]
    assert rows[0]["ratio"] == 1 and all(row["images_per_s"] > 0 for row in rows)


def test_every_field_has_a_row():
    rows = fields.run(repeats=1, seconds=0.0001)
    assert [row["name"] for row in rows][:2] == ["image, text, group", "text, group"] and rows[0]["ratio"] == 1
    assert len(rows) == 16 and all(row["examples_per_s"] > 0 for row in rows)
    fields.show(rows)
