"""`mof fit` from a file to tables, JSON and pictures; its mistakes; and its bench."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import samples

from mof_jax import cli
from mof_jax.bench import fit as bench
from mof_jax.errors import UserError
from mof_jax.scaling import plots
from mof_jax.scaling.fit import fit
from mof_jax.scaling.registry import LAWS

COLUMNS = "N=Model Size,C=Training FLOP,L=loss"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """IsoFLOP runs in the columns of Besiroglu et al.'s table, and one that failed."""
    p = samples.parabolas(np.random.default_rng(0))
    path = tmp_path_factory.mktemp("table") / "points.csv"
    with open(path, "w", newline="") as f:
        rows = zip(p["N"], p["C"], p["L"])
        csv.writer(f).writerows([("Model Size", "Training FLOP", "loss"), *rows, (1e9, 1e20, "nan")])
    return path


def run(capsys, *args) -> str:
    assert cli.main(["fit", *map(str, args)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_tables_say_what_was_found_and_what_was_left_out(path, capsys):
    out = run(capsys, path, "--law", "isoflop", "--columns", COLUMNS, "--bootstrap", 100, "--plan", "1e22",
              "--topology", "v5e:16x16", "--price", 1.2)
    for text in ("N_opt = k_N C^a", "45 points", "L is NaN", "exponent of N_opt", "For 1e+22 FLOP", "chip-hours", "$",
                 "no loss: isoflop predicts sizes alone"):
        assert text in out, text


def test_json_holds_everything(path, capsys):
    found = json.loads(run(capsys, path, "--law", "isoflop", "--columns", COLUMNS, "--drop-highest", 2, "--json",
                           "--bootstrap", 100, "--plan", "1e21"))
    assert found["points"] == 43 and [e["row"] for e in found["excluded"] if e["row"] > 45] == [46]
    assert sum("--drop-highest" in e["reason"] for e in found["excluded"]) == 2
    assert found["params"]["a"]["low"] < 0.5 < found["params"]["a"]["high"]
    assert found["plan"]["N"]["low"] < found["plan"]["N"]["value"] and found["plan"]["lr"] is None
    assert [g["used"] for g in found["groups"]] == [True] * 5 and found["resampled"] == "residual"


def test_rates_of_one_fit_in_the_plan_of_another(path, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    p = samples.lr_grid(np.random.default_rng(0))
    grid = tmp_path / "grid.jsonl"
    rows = ({"N": n, "lr": rate, "L": loss, "batch": 256} for n, rate, loss in zip(p["N"], p["lr"], p["L"]))
    grid.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(capsys, grid, "--law", "lr", "--bootstrap", 0, "--out", tmp_path / "lr")
    assert {x.name for x in (tmp_path / "lr").iterdir()} == {
        "fit.json", "points.csv", *(f"{name}.{kind}" for name in ("fit", "residuals") for kind in plots.FORMATS)}
    found = json.loads(run(capsys, path, "--law", "isoflop", "--columns", COLUMNS, "--json", "--bootstrap", 0, "--plan", "1e21",
                           "--rates", tmp_path / "lr/fit.json"))
    assert found["plan"]["batch"] == 256 and 1e-5 < found["plan"]["lr"] < 1e-3
    assert found["plan"]["N"]["low"] is None, "no resamples, no interval"
    again = json.loads(run(capsys, tmp_path / "lr/points.csv", "--law", "lr", "--bootstrap", 0, "--json"))
    assert again["params"] == json.loads((tmp_path / "lr/fit.json").read_text())["params"]


def test_a_plan_of_mof_plan_gives_the_throughput(path, tmp_path, monkeypatch, capsys):
    """Half of the chips' peak: 8 chips of v5e, 197 TFLOP/s each, so many FLOPs in two seconds."""
    record = {"name": "a.py", "topology": "v5e:2x4", "fits": True, "model_flops": 8 * 197e12, "seconds": 2.0,
              "roofline": {"bound": 1.25, "exposed": 1.6}}
    plans = tmp_path / "plans.jsonl"
    plans.write_text(json.dumps(record) + "\n" + json.dumps(record | {"name": "b.py", "fits": False}) + "\n")
    args = (path, "--law", "isoflop", "--columns", COLUMNS, "--bootstrap", 0, "--plan", "1e21", "--price", 2)
    cost = json.loads(run(capsys, *args, "--json", "--throughput", f"{plans}#a.py"))["plan"]["cost"]
    assert (cost["topology"], cost["chips"], cost["mfu"]) == ("v5e:2x4", 8, 0.5) and cost["source"] == f"{plans}#a.py"
    assert cost["chip_hours"] == pytest.approx(1e21 / 197e12 / 0.5 / 3600) == cost["dollars"] / 2
    assert (cost["least"], cost["exposed"]) == pytest.approx((cost["chip_hours"] * 1.25 / 2, cost["chip_hours"] * 1.6 / 2))
    monkeypatch.chdir(tmp_path)  # a long name would break the line elsewhere
    out = " ".join(run(capsys, *args, "--throughput", "plans.jsonl#a.py").split())
    assert "at 50% of the peak" in out and "at the best its step allows" in out


@pytest.mark.parametrize("args, message", [
    (("--law", "chinchila"), "unknown law 'chinchila' (did you mean 'chinchilla'?)"),
    (("--law", "isoflop"), "the law needs N"),
    (("--law", "isoflop", "--columns", "N=Size"), "no column 'Size'"),
    (("--law", "isoflop", "--columns", COLUMNS, "--price", "1"), "belong to --plan"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1e22", "--price", "1"), "--price belongs to --throughput or"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1e22", "--mfu", "0.3"), "--mfu belongs to --topology"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1e22", "--throughput", "p", "--topology", "v5e:2x2"), "give one"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1e22", "--throughput", "none.jsonl"), "none.jsonl"),
    (("--law", "pure-power", "--columns", COLUMNS, "--plan", "1e22"), "the law 'pure-power' has no compute-optimal"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "nan"), "--plan nan: a number of FLOPs above zero"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "-1"), "--plan -1: a number of FLOPs above zero"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1", "--topology", "v5e:2x2", "--price", "inf"), "--price inf"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1", "--topology", "v5e:2x2", "--mfu", "2"), "--mfu 2: a share"),
    (("--law", "isoflop", "--columns", COLUMNS, "--bootstrap", "10"), "40 resamples at least"),
    (("--law", "isoflop", "--columns", COLUMNS, "--drop-highest", "-1"), "--drop-highest -1: at least 0"),
    (("--law", "isoflop", "--columns", COLUMNS, "--diverged", "1"), "a ratio above 1"),
    (("--law", "isoflop", "--columns", COLUMNS, "--drop-highest", "44"), "groups have an optimum inside their grid"),
    (("--law", "isoflop", "--columns", COLUMNS, "--plan", "1e22", "--rates", "none.json"), "--rates none.json: no such file"),
])
def test_a_mistake_is_one_line(path, capsys, args, message):
    assert cli.main(["fit", str(path), *args]) == 1
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_missing_library_is_said_before_the_work(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("mof_jax.scaling.fit.fit", None)  # not called
    out = tmp_path / "out"
    assert cli.main(["fit", str(path), "--law", "isoflop", "--columns", COLUMNS, "--out", str(out)]) == 1
    assert "plots need matplotlib" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("json_", [True, False])
def test_a_law_is_printed_whatever_becomes_of_its_plots(path, tmp_path, monkeypatch, capsys, json_):
    pytest.importorskip("matplotlib")

    def fails(figures, folder):
        raise UserError(f"{folder}: no space left on the disk")

    monkeypatch.setattr(plots, "save", fails)
    args = ["fit", str(path), "--law", "isoflop", "--columns", COLUMNS, "--bootstrap", "0", "--out", str(tmp_path / "out")]
    assert cli.main(args + ["--json"] * json_) == 1
    out, err = capsys.readouterr()
    assert "no space left" in err and ('"law": "isoflop"' in out if json_ else "N_opt = k_N C^a" in out)
    assert json.loads((tmp_path / "out/fit.json").read_text())["points"] == 45


def test_a_law_is_printed_whatever_becomes_of_its_plan(path, monkeypatch, capsys):
    def fails(*args):
        raise UserError("no compute-optimal frontier: an exponent is not positive")

    monkeypatch.setattr("mof_jax.scaling.frontier.plan", fails)
    assert cli.main(["fit", str(path), "--law", "isoflop", "--columns", COLUMNS, "--bootstrap", "0", "--plan", "1e21"]) == 1
    out, err = capsys.readouterr()
    assert "N_opt = k_N C^a" in out and "an exponent is not positive" in err


def test_a_folder_that_cannot_be_made_is_said_before_the_work(path, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("mof_jax.scaling.fit.fit", None)
    (tmp_path / "file").write_text("")
    assert cli.main(["fit", str(path), "--law", "isoflop", "--columns", COLUMNS, "--out", str(tmp_path / "file/out")]) == 1
    assert "file/out: " in capsys.readouterr().err


def test_the_warning_of_units_is_printed_and_kept(tmp_path, capsys):
    p = samples.chinchilla(np.random.default_rng(0), n=24)
    rows = ((n / 1e6, d / 1e9, 6 * n * d, loss) for n, d, loss in zip(p["N"], p["D"], p["L"]))
    with open(tmp_path / "[red]a.csv", "w", newline="") as f:
        csv.writer(f).writerows([("params", "tokens", "flops", "loss"), *rows])
    args = (tmp_path / "[red]a.csv", "--law", "pure-power", "--bootstrap", 0)
    out = run(capsys, *args)
    assert "warning: the table's C is 1e+15 times 6·N·D; parameters in millions and tokens in billions" in " ".join(out.split())
    assert "[red]a.csv" in out
    assert json.loads(run(capsys, *args, "--json"))["warnings"][0].startswith("the table's C is 1e+15 times 6·N·D")


def test_help_names_every_law(capsys):
    for words in (("fit",), ("bench", "fit")):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        out = capsys.readouterr().out
        assert f"example:\n  mof {' '.join(words)}" in out
        assert words != ("fit",) or all(name in " ".join(out.split()) for name in LAWS)


@pytest.mark.parametrize("name", LAWS)
def test_pictures_have_units_and_hold_the_points(name):
    pytest.importorskip("matplotlib")
    draw, _ = samples.DRAWS[name]
    fewer = {"n": 60} if name in ("chinchilla", "repeats") else {}
    f = fit(draw(np.random.default_rng(0), **fewer), LAWS[name], 40, starts=12)
    figures = plots.draw(f)
    assert set(figures) == {"fit", "residuals"} | ({"frontier"} if name in ("chinchilla", "isoflop", "envelope") else set())
    for figure in figures.values():
        figure.canvas.draw()
        for axes in figure.axes:
            assert axes.get_ylabel(), "every axis says what it shows"
        panels = [axes for axes in figure.axes if axes.get_xlabel()]
        assert panels and all(axes.get_xscale() == "log" for axes in panels)
    target = f.points[f.law.target]
    axes = figures["fit"].axes[0]
    drawn = sum(len(line.get_ydata()) for line in axes.lines if line.get_marker() == "o") + sum(
        len(c.get_offsets()) for c in axes.collections if hasattr(c, "get_offsets"))
    assert drawn >= len(target)


def test_the_bench_compares_one_objective(capsys):
    rows = bench.run(starts=6, bootstrap=40)
    assert [r["name"].split(",")[0] for r in rows] == ["ours", "SciPy", "SciPy", "SciPy", "ours"]
    assert rows[0]["ratio"] == 1 and all(r["starts"] == 6 for r in rows)
    assert min(r["objective"] for r in rows) == pytest.approx(rows[0]["objective"], rel=1e-6)
    bench.show(rows)
    assert "240 points, 6 starts" in capsys.readouterr().out
