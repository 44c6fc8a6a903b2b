"""What is read from a work dir: handmade files whose every number is known."""

from __future__ import annotations

import json
import pathlib

import fsspec
import numpy as np
import pytest

from mof_jax.errors import UserError
from mof_jax.explore import curves, runs, tables

LINES = [
    {"step": 1, "loss": 4.0, "lr": 0.1, "mfu": None, "seconds": {"step": 1.0, "start": 3.0}},
    {"step": 5, "loss": 2.0, "lr": 0.2, "mfu": None, "seconds": {"step": 4.0, "start": 3.0}},
    {"step": 10, "loss": "nan", "lr": 0.3, "mfu": None, "skipped": True, "seconds": {"step": 6.0, "start": 2.0}},
]
RESULTS = [
    {"step": 5, "name": "unseen", "r@1": 10.0, "images": 4.0, "time": 0.5},
    {"step": 10, "name": "unseen", "r@1": 11.0, "images": 4.0, "time": 0.5},
    {"step": 10, "name": "unseen", "r@1": 12.0, "images": 4.0, "time": 0.6},  # evaluated again after a restart
]
TOWERS = dict(
    embed_dim=16, image=dict(width=16, depth=2, heads=2, patch_size=8, image_size=16, pool="gap", cls_token=False),
    text=dict(width=16, depth=1, heads=2, causal=False, mask_padding=True, pool="gap"))
CONFIG = dict(task="contrastive", steps=10, batch_size=16, model=TOWERS,
              tokenizer=dict(kind="bpe", vocab_size=400, context_length=8))


def write(folder: str, lines: list[dict] = LINES, torn: str = '{"step": 15, "lo', config: dict = CONFIG) -> str:
    """A work dir, local or an address, whose last line a kill cut off."""
    text = "".join(json.dumps(line) + "\n" for line in lines) + torn
    results = "".join(json.dumps(line) + "\n" for line in RESULTS)
    table = ("image/a/kernel  (3, 4)  trained  lr×1.0  decay×1.0  P(None,)\nimage/a/bias  (4,)  trained  lr×1.0  decay×0.0  P()\n"
             "image/scale  ()  frozen  lr×(0.1, 1.0)  decay×0.0  P()\ntext/embed  (5, 2)  frozen  lr×1.0  decay×1.0  P()\n")
    for name, content in (("config.json", json.dumps(config)), ("metrics.jsonl", text), ("evals.jsonl", results),
                          ("parameters.txt", table)):
        with fsspec.open(f"{folder}/{name}", "w", auto_mkdir=True) as f:
            f.write(content)
    return folder


@pytest.fixture(params=["local", "bucket"])
def run(request, tmp_path) -> runs.Run:
    return runs.Run.read(write(f"memory://{tmp_path.name}/run" if request.param == "bucket" else str(tmp_path / "run")))


def test_a_series_stops_at_the_torn_line_and_keeps_what_was_not_finite(run):
    x, y = run.series("loss")
    assert x.tolist() == [1, 5, 10]
    np.testing.assert_array_equal(y, [4.0, 2.0, np.nan])
    assert run.series("loss", "examples").x.tolist() == [16, 80, 160]


def test_keys_are_those_that_hold_a_number(run):
    assert run.keys == ("step", "loss", "lr")  # mfu is null, `skipped` a truth, `seconds` a section


def test_a_key_that_no_line_has_is_an_error_that_names_the_nearest(run):
    with pytest.raises(UserError, match="'los'.*loss"):
        run.series("los")
    with pytest.raises(UserError, match="over 'exampels'.*examples"):
        run.series("loss", "exampels")


def test_flops_are_those_of_the_trainer(run):
    from mof_jax.plan.cost import sketch
    from mof_jax.run import resolve

    each = sum(sketch(resolve(CONFIG)).flops.values())
    assert each > 0
    np.testing.assert_allclose(run.series("lr", "flops").x, np.array([1, 5, 10]) * each)


def test_evaluations_take_the_last_of_a_step(run):
    found = run.evaluations()
    assert set(found) == {"unseen/r@1", "unseen/images"}
    assert found["unseen/r@1"].x.tolist() == [5, 10] and found["unseen/r@1"].y.tolist() == [10.0, 12.0]
    assert run.last()["unseen/r@1"] == 12.0 and run.last()["lr"] == 0.3


def test_goodput_is_the_last_lines(run):
    assert run.seconds == {"step": 6.0, "start": 2.0}
    table = tables.goodput(run)
    assert table.title == "Goodput 75.0%" and list(table.columns[2].cells) == ["75.0%", "25.0%"]


def test_parameters_by_part(run):
    assert run.parameters() == [runs.Part("image", 16, 1, "1.0, (0.1, 1.0)", "1.0, 0.0"), runs.Part("text", 0, 10, "1.0", "1.0")]
    assert [part.name for part in run.parameters(2)] == ["image/a", "image/scale", "text/embed"]


def test_a_parameter_line_that_no_run_writes_is_an_error(tmp_path):
    folder = write(str(tmp_path / "run"))
    (tmp_path / "run" / "parameters.txt").write_text("image/a (3,4)\n")
    with pytest.raises(UserError, match="parameters.txt line 1"):
        runs.Run.read(folder).parameters()


def test_a_folder_that_is_no_work_dir(tmp_path):
    with pytest.raises(UserError, match="config.json: no such file"):
        runs.Run.read(str(tmp_path))
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(UserError, match="not JSON"):
        runs.Run.read(str(tmp_path))


def test_the_last_stage_of_a_staged_run(tmp_path):
    write(str(tmp_path / "second"))
    (tmp_path / "stages.json").write_text(json.dumps({"stages": ["first", "second"]}))
    assert runs.Run.read(str(tmp_path)).name == "second"


def test_differences_are_dotted_keys_with_each_runs_value():
    one = runs.Run("a", "a", {"lr": 1, "model": {"width": 8, "tags": [1, 2]}, "evals": []}, [], [])
    two = runs.Run("b", "b", {"lr": 1, "model": {"width": 16, "tags": [1, 3]}, "ema": 0.9, "evals": []}, [], [])
    assert runs.differences([one, two]) == {"model.width": [8, 16], "model.tags.1": [2, 3], "ema": [runs.ABSENT, 0.9]}
    assert runs.differences([one, one]) == {} == runs.differences([one])


def test_smoothing_closed_forms():
    np.testing.assert_allclose(runs.smooth(np.full(5, 3.0), 0.9), 3.0)  # no pull towards zero at the start
    np.testing.assert_array_equal(runs.smooth(np.array([4.0, 1.0, 7.0]), 0.0), [4.0, 1.0, 7.0])
    # (y2 + w·y1 + w²·y0) / (1 + w + w²)
    np.testing.assert_allclose(runs.smooth(np.array([4.0, 2.0, 8.0]), 0.5), [4, (2 + 2) / 1.5, (8 + 1 + 1) / 1.75])
    np.testing.assert_allclose(runs.smooth(np.array([4.0, np.nan, 2.0]), 0.5), [4, np.nan, (2 + 2) / 1.5])
    with pytest.raises(UserError, match="smoothing 1"):
        runs.smooth(np.ones(2), 1.0)


def test_a_table_of_runs_has_what_differs_and_the_last_numbers(tmp_path):
    other = json.loads(json.dumps(CONFIG))
    other["model"]["text"]["width"] = 32
    both = runs.read_all({"narrow": write(str(tmp_path / "a")), "wide": write(str(tmp_path / "b"), config=other)})
    table = tables.compare(both, ["unseen/r@1"])
    assert [column.header for column in table.columns] == ["", "narrow", "wide"]
    keys, narrow, wide = (list(column.cells) for column in table.columns)
    assert keys == ["config.model.text.width", "loss", "examples", "examples_per_s", "unseen/r@1", "FLOP a step"]
    assert narrow[:-1] == ["16", "nan", runs.ABSENT, runs.ABSENT, "12"] and wide[:-1] == ["32", *narrow[1:-1]]
    assert float(wide[-1]) > float(narrow[-1])


def test_curves_hold_the_series(tmp_path):
    pytest.importorskip("matplotlib")
    run = runs.Run.read(write(str(tmp_path / "run")))
    figure = curves.compare([run], "lr", over=["step", "examples"], smoothing=0)
    raw, smoothed = figure.axes[1].lines
    assert raw.get_xdata().tolist() == [16, 80, 160] == smoothed.get_xdata().tolist()
    assert smoothed.get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="r@7.*unseen/images, unseen/r@1"):
        curves.evaluations([run], ["unseen/r@7"])


def test_ensure_trains_what_is_not_there_or_not_done(tmp_path, monkeypatch):
    """The tests of the notebooks train for real."""
    trained = []
    monkeypatch.setattr(runs.trainer, "train", lambda config, workdir: trained.append((config.steps, workdir)))
    spec, folder = str(pathlib.Path(__file__).parents[1] / "tiny_run.py"), str(tmp_path / "run")
    assert runs.ensure(folder, spec, ["steps=10"]) == folder and trained == [(10, folder)]
    write(folder)
    assert runs.ensure(folder, spec, ["steps=10"]) == folder and len(trained) == 1  # step 10 is logged
    runs.ensure(folder, spec, ["steps=11"])
    assert trained[1:] == [(11, folder)]
    with pytest.raises(UserError, match="stepz.*steps"):
        runs.ensure(folder, spec, ["stepz=3"])


def test_an_overview_shows_mfu_where_there_is_some_and_marks_what_is_not_finite(tmp_path):
    pytest.importorskip("matplotlib")
    more = {"grad_norm": 1.0, "examples_per_s": 8.0, "data_wait": 0.25}
    plain = runs.Run.read(write(str(tmp_path / "a"), [{**line, **more} for line in LINES]))
    fast = runs.Run.read(write(str(tmp_path / "b"), [{**line, **more, "mfu": 0.5} for line in LINES]))
    figure = curves.overview(plain)
    loss, *_, wait, _ = figure.axes
    assert [line.get_xdata().tolist() for line in loss.lines if line.get_label() == "not finite"] == [[10.0]]
    assert wait.lines[0].get_ydata().tolist() == [25.0] * 3
    assert len(curves.overview(fast).axes) == len(figure.axes) + 1
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [None, "16", [], True, -1, 1.5, 1e300])
def test_a_batch_size_that_is_none_is_said(tmp_path, size):
    run = runs.Run.read(write(str(tmp_path), config=CONFIG | {"batch_size": size}))
    assert run.series("loss").x.tolist() == [1, 5, 10]
    with pytest.raises(UserError, match="config.json: batch_size is .*, not a number of examples"):
        run.series("loss", "examples")


CHANGE = {"step": 3, "examples": 48, "flops": 1e9, "keys": {"optimizer.lr": [0.1, 0.2]}}


@pytest.mark.parametrize("changes", [
    3, [3], [{}], "x", {"a": 1}, *([CHANGE | change] for change in (
        {"step": "3"}, {"step": 0}, {"step": None}, {"step": 1.5}, {"examples": []}, {"examples": -1}, {"flops": "1"},
        {"flops": 10**400}, {"flops": float("nan")}, {"keys": None}, {"keys": {"lr": 3}}, {"keys": {"lr": [1, 2, 3]}},
        {"more": 1})),
    [CHANGE, CHANGE | {"step": 2}]])
def test_changes_that_are_none_are_said(tmp_path, changes):
    folder = write(str(tmp_path), config=CONFIG | {"changes": [CHANGE, CHANGE | {"step": 5}]})
    assert [change.step for change in runs.Run.read(folder).changes] == [3, 5]
    with pytest.raises(UserError, match="'changes', what the config was otherwise before, is damaged there"):
        runs.Run.read(write(str(tmp_path), config=CONFIG | {"changes": changes}))
