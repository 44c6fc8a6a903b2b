"""Mining equals its definition, whatever the tiles, devices, bounds and interruptions."""

from __future__ import annotations

import dataclasses

from brute import brute_force
import jax
import numpy as np
import pytest
from rich.console import Console

from mof_jax.errors import Preempted, UserError
from mof_jax.mining import blind, tiles
from mof_jax.mining.blind import Mined, mine
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.rules import PAPER, Rule
from mof_jax.mining.sample import quantile_of
from mof_jax.mining.walk import Walk

COUNT = 101
QUIET = Console(quiet=True)


def world(count: int = COUNT, seed: int = 0) -> dict[str, np.ndarray]:
    """Features with near-duplicates: every fifth row copies an earlier one for `clip`, half of those for `ssl`, too."""
    rng = np.random.default_rng(seed)
    found = {"clip": rng.standard_normal((count, 24)), "ssl": rng.standard_normal((count, 16))}
    for n, row in enumerate(range(4, count, 5)):
        twin = int(rng.integers(0, row))
        found["clip"][row] = found["clip"][twin] + rng.uniform(0.1, 0.4) * rng.standard_normal(24)
        if n % 2:
            found["ssl"][row] = found["ssl"][twin] + 0.1 * rng.standard_normal(16)
    return {name: (x * rng.uniform(0.1, 30, (count, 1))).astype(np.float32) for name, x in found.items()}


def run(features, rules=PAPER, out=None, devices=1, **options) -> Mined:
    opened = {name: x if isinstance(x, Embeddings) else Embeddings.of(x, name=name) for name, x in features.items()}
    return mine(opened, rules, out, devices=jax.devices()[:devices], console=QUIET, **options)


def assert_equal(found: Mined, expected: blind.Pairs) -> None:
    np.testing.assert_array_equal(found.pairs.i, expected.i)
    np.testing.assert_array_equal(found.pairs.j, expected.j)
    np.testing.assert_allclose(found.pairs.cosines, expected.cosines, atol=1e-6)


class TestEqualsBruteForce:
    expected = brute_force(world(), PAPER)

    def test_there_is_something_to_find(self):
        alone = brute_force({"clip": world()["clip"]}, {"clip": PAPER["clip"]})
        assert 5 < len(self.expected.i) < len(alone.i) < COUNT

    @pytest.mark.parametrize("tile", [1, 7, 32, 101, 128])
    def test_for_every_tile(self, tile):
        assert_equal(run(world(), tile=tile), self.expected)

    @pytest.mark.parametrize("devices", range(2, 9))
    def test_on_every_ring(self, devices):
        """One panel that meets itself: half a ring, its antipodal hop shared in rings of even size."""
        assert_equal(run(world(), devices=devices, tile=5), self.expected)

    @pytest.mark.parametrize("devices, panel", [(1, 32), (3, 24), (4, 32)])
    def test_over_several_panels(self, devices, panel):
        found = run(world(), devices=devices, tile=8, panel=panel)
        assert_equal(found, self.expected)

    @pytest.mark.parametrize("width, dtype", [(2, "float32"), (9, "float32"), (9, "bfloat16"), (24, "bfloat16")])
    def test_for_every_bound(self, width, dtype):
        assert_equal(run(world(), tile=32, dtype=dtype, width=width), self.expected)

    @pytest.mark.parametrize("devices, panel, capacity", [(1, 200, 1), (4, 200, 2), (2, 32, 40)])
    def test_when_the_buffer_overflows(self, devices, panel, capacity, monkeypatch):
        """Windows are split until they fit, down to single pairs; the last case has many hits in every panel."""
        splits = []
        monkeypatch.setattr(tiles, "split", lambda *args, original=tiles.split: splits.append(args) or original(*args))
        rules = PAPER if capacity < 40 else {"clip": Rule("above", 0.0), "ssl": Rule("below", 0.6)}
        found = run(world(), rules, devices=devices, tile=8, panel=panel, capacity=capacity)
        assert_equal(found, brute_force(world(), rules))
        assert splits

    @pytest.mark.parametrize("rules", [
        {"clip": Rule("below", 0.1), "ssl": Rule("below", -0.2)},
        {"clip": Rule("above", -0.1), "ssl": Rule("above", 0.3)},
        {"clip": Rule("above", -1.0), "ssl": Rule("below", 1.0)},
        {"clip": Rule("above", 0.1)},
    ])
    def test_for_other_rules_and_dense_hits(self, rules):
        """Most tiles have more hits than a look at each is worth, so the second feature is multiplied, too."""
        features = {name: world()[name] for name in rules}
        assert_equal(run(features, rules, devices=2, tile=32), brute_force(features, rules))

    def test_with_centred_features(self):
        shifted = {name: x + 8 for name, x in world().items()}
        rules = {"clip": Rule("above", 0.7), "ssl": Rule("below", 0.6)}
        found = run(shifted, rules, tile=32, centre=True)
        assert_equal(found, brute_force(shifted, rules, centre=True))
        assert found.info["centred"] and len(found) != len(run(shifted, rules, tile=32))


class TestThresholds:
    def test_a_tie_is_no_hit(self):
        """cos = 1/2 exactly between rows that share one of their two ones, in every precision."""
        rows = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1], [2, 2, 0, 0]], np.float32)
        assert len(run({"x": rows}, {"x": Rule("above", 0.5)}, dtype="bfloat16")) == 1  # rows 0 and 4
        assert len(run({"x": rows}, {"x": Rule("below", 0.5)})) == 3  # opposite ones
        assert len(run({"x": rows}, {"x": Rule("above", np.nextafter(0.5, 0))})) == 7
        assert len(run({"x": rows}, {"x": Rule("above", 1.0)})) == 0

    def test_the_worst_case_of_bfloat16_is_found(self):
        """Two of 1,024 dimensions with 971 equal entries each, 923 in common: every entry rounds down by a third of a percent."""
        pair = np.zeros((2, 1024), np.float32)
        pair[0, :971], pair[1, 48:1019] = 1, 1
        rounded = np.asarray(jax.numpy.asarray(pair / np.sqrt(np.float32(971)), "bfloat16"), np.float64)
        true = 923 / 971
        assert rounded[0] @ rounded[1] < true - 0.006
        assert len(run({"x": pair}, {"x": Rule("above", true - 1e-9)}, dtype="bfloat16", width=1024)) == 1
        assert len(run({"x": pair}, {"x": Rule("above", true + 1e-9)}, dtype="bfloat16", width=1024)) == 0

    def test_quantiles_of_all_pairs(self):
        rules = {"clip": Rule("above", quantile=0.97), "ssl": Rule("below", quantile=0.5)}
        found = run(world(), rules, tile=32)
        assert_equal(found, brute_force(world(), rules))
        assert "q0.97 of all 5,050 pairs" in found.info["rules"]["clip"]

    @pytest.mark.parametrize("q, above", [(0.01, 99), (0.5, 50), (0.505, 50), (0.999, 1)])
    def test_a_quantile_lies_between_two_values(self, q, above):
        values = np.random.default_rng(0).permutation(101).astype(float)
        assert (values > quantile_of(values, q)).sum() == above and quantile_of(values, q) not in values

    def test_quantiles_of_a_sample_are_stated_and_repeatable(self, monkeypatch):
        draw = blind.make_plan.__globals__["Sample"].draw
        monkeypatch.setattr("mof_jax.mining.plan.Sample.draw", lambda usable: draw(usable, 40))
        rules = {"clip": Rule("above", quantile=0.97)}
        features = {"clip": world()["clip"]}
        first, second = run(features, rules, tile=32), run(features, rules, tile=7)
        assert "of 40 records drawn with seed 0" in first.info["rules"]["clip"] and first.info["rules"] == second.info["rules"]
        value = first.info["thresholds"]["clip"][1]
        assert_equal(second, brute_force(features, {"clip": Rule("above", value)}))

    @pytest.mark.parametrize("text, message", [
        ("1.2", "a cosine lies in"), ("nan", "a cosine lies in"), ("q1", "between 0 and 1"), ("high", "expected a cosine")])
    def test_out_of_range(self, text, message):
        with pytest.raises(UserError, match=message):
            Rule.parse("above", text)


class TestRows:
    def test_zero_and_nan_rows(self):
        features = world()
        features["clip"][9], features["ssl"][14] = 0, np.nan
        with pytest.raises(UserError, match=r"clip: row 9 is zero or not finite.*--skip-bad"):
            run(features)
        found = run(features, tile=32, skip_bad=True)
        assert_equal(found, brute_force(features, PAPER))
        assert found.info["usable"] == COUNT - 2 and not np.isin([9, 14], np.concatenate([found.pairs.i, found.pairs.j])).any()

    def test_rows_of_unreadable_pictures_take_no_part(self):
        features = {name: Embeddings.of(x) for name, x in world().items()}
        features["clip"].valid[::3] = False
        expected = brute_force(world(), PAPER)
        kept = (expected.i % 3 > 0) & (expected.j % 3 > 0)
        found = run(features, tile=32)
        np.testing.assert_array_equal(found.pairs.i, expected.i[kept])

    def test_rows_of_extreme_size(self):
        features = {name: x.astype(np.float32) * np.float32(scale) for (name, x), scale in zip(world().items(), (1e36, 1e-28))}
        assert_equal(run(features, tile=32), brute_force(world(), PAPER))


class TestChoosing:
    rules = {"clip": Rule("above", 0.2), "ssl": Rule("below", 0.2)}

    @pytest.fixture
    def everything(self) -> Mined:
        return run(world(), self.rules, tile=32)

    def test_top_k_keeps_the_blindest_of_each_image(self, everything):
        found = run(world(), self.rules, tile=32, top_k=2)
        kept = set()
        for image in range(COUNT):
            mine_ = np.flatnonzero((everything.pairs.i == image) | (everything.pairs.j == image))
            kept |= set(mine_[np.argsort(-everything.blindness[mine_], kind="stable")[:2]].tolist())
        assert list(zip(found.pairs.i, found.pairs.j)) == [(everything.pairs.i[n], everything.pairs.j[n]) for n in sorted(kept)]

    @pytest.mark.parametrize("panel", [None, 32])
    def test_limit_keeps_the_blindest_of_all(self, everything, panel):
        found = run(world(), self.rules, tile=32, limit=7, panel=panel)
        best = np.sort(everything.blindness)[::-1][:7]
        np.testing.assert_allclose(np.sort(found.blindness)[::-1], best, atol=1e-6)
        assert len(run(world(), self.rules, tile=32, limit=7, top_k=1)) == 7

    @pytest.mark.parametrize("within", ["same", "different"])
    def test_within_labels(self, everything, within):
        labels = [("", "a", "b", "c")[n % 4] for n in range(COUNT)]
        found = run(world(), self.rules, tile=32, labels=labels, within=within)
        wanted = [(i, j) for i, j in zip(everything.pairs.i, everything.pairs.j)
                  if labels[i] and labels[j] and (labels[i] == labels[j]) == (within == "same")]
        assert list(zip(found.pairs.i, found.pairs.j)) == wanted
        statistics = found.info["statistics"]
        assert statistics["same_label"] == (len(wanted) if within == "same" else 0)
        assert sum(label["pairs"] for label in statistics["labels"].values()) == statistics["same_label"]


class TestFile:
    def test_a_killed_run_goes_on_to_the_same_file(self, tmp_path, monkeypatch):
        whole, killed = str(tmp_path / "whole.parquet"), str(tmp_path / "killed.parquet")
        run(world(), out=whole, tile=8, panel=32)
        rows, walked = Walk.row, []

        def row(self, p, *args):
            if p == 2 and len(walked) == 2:
                raise KeyboardInterrupt
            walked.append(p)
            return rows(self, p, *args)

        monkeypatch.setattr(Walk, "row", row)
        with pytest.raises(KeyboardInterrupt):
            run(world(), out=killed, tile=8, panel=32)
        with pytest.raises(UserError, match="unfinished run with other features, rules or sizes"):
            run(world(seed=1), out=killed, tile=8, panel=32)
        walked.append("again")
        run(world(), out=killed, tile=8, panel=32)
        assert walked == [0, 1, "again", 2, 3]
        assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "killed.parquet").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.parquet", "whole.parquet"]

    def test_a_run_stopped_between_two_panels_goes_on_to_the_same_file(self, tmp_path):
        """Four panels: after the first row (four looks) and half of the second."""
        looks = []

        def between():
            looks.append(len(looks))
            if len(looks) == 6:
                raise Preempted("now")

        whole, stopped = str(tmp_path / "whole.parquet"), str(tmp_path / "stopped.parquet")
        run(world(), out=whole, tile=8, panel=32)
        with pytest.raises(Preempted):
            run(world(), out=stopped, tile=8, panel=32, between=between)
        assert [path.name for path in (tmp_path / "stopped.parquet.state").glob("row*")] == ["row-00000.npz"]
        run(world(), out=stopped, tile=8, panel=32, between=lambda: None)
        assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "stopped.parquet").read_bytes()

    def test_metadata_and_statistics(self, tmp_path):
        from pyarrow import parquet

        ids = [f"picture {n}" for n in range(COUNT)]
        features = {name: Embeddings.of(x, ids) for name, x in world().items()}
        out = str(tmp_path / "pairs.parquet")
        found = run(features, out=out, tile=32)
        table = parquet.read_table(out)
        assert table.column_names == ["i", "j", "id_i", "id_j", "cos_clip", "cos_ssl"]
        assert table["id_j"].to_pylist() == [ids[j] for j in found.pairs.j]
        statistics = Mined.read(out).info["statistics"]
        images = set(found.pairs.i) | set(found.pairs.j)
        assert statistics["pairs"] == len(found) and statistics["images"] == len(images)
        assert statistics["share_of_pairs"] == pytest.approx(len(found) / (COUNT * (COUNT - 1) / 2))
        assert statistics["cosines"]["clip"]["0.5"] == pytest.approx(np.median(found.cosine("clip")))
        assert found.info["thresholds"] == {"clip": ["above", 0.95], "ssl": ["below", 0.6]}
        assert found.info["features"]["clip"]["fingerprint"] == features["clip"].fingerprint

    def test_nothing_found_is_an_empty_file(self, tmp_path):
        found = run(world(), {"clip": Rule("above", 0.9999), "ssl": Rule("below", -0.9)}, str(tmp_path / "x.parquet"), tile=32)
        assert len(found) == 0 and found.info["statistics"]["pairs"] == 0


class TestRefuses:
    @pytest.mark.parametrize("change, message", [
        (lambda f: f | {"ssl": Embeddings.of(world(50)["ssl"])}, r"ssl has 50 rows .*, clip has 101"),
        (lambda f: f | {"clip": Embeddings.of(world()["clip"], [f"a{n}" for n in range(COUNT)]),
                        "ssl": Embeddings.of(world()["ssl"], [f"a{n}" if n != 3 else "b" for n in range(COUNT)])},
         r"row 3 is 'b' in array and 'a3' in array"),
        (lambda f: {"clip": f["clip"]}, "features clip but rules for clip, ssl"),
        (lambda f: {}, "at least one feature"),
    ])
    def test_features_that_do_not_belong_together(self, change, message):
        with pytest.raises(UserError, match=message):
            run(change({name: Embeddings.of(x) for name, x in world().items()}))

    @pytest.mark.parametrize("options, message", [
        (dict(tile=0), "tile 0"), (dict(capacity=0), "capacity 0"), (dict(dtype="int8"), "int8"), (dict(top_k=0), "top_k=0"),
        (dict(within="same"), "needs labels"), (dict(labels=["a"]), "1 labels for 101 records"),
        (dict(out="pairs.csv"), "local .parquet file"), (dict(out="nowhere/pairs.parquet"), "no such folder"),
    ])
    def test_options_that_make_no_sense(self, options, message):
        with pytest.raises(UserError, match=message):
            run(world(), **options)

    def test_an_output_that_exists(self, tmp_path):
        (tmp_path / "x.parquet").write_text("mine")
        with pytest.raises(UserError, match="exists already"):
            run(world(), out=str(tmp_path / "x.parquet"))
        with pytest.raises(UserError, match="not a file of mined pairs"):
            Mined.read(str(tmp_path / "x.parquet"))


def test_the_plan_takes_a_narrow_bound_where_it_pays():
    """Rows near a plane: a bound of few coordinates is as good as the cosine."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((400, 8)) @ rng.standard_normal((8, 256)) + 0.05 * rng.standard_normal((400, 256)))
    plan = blind.make_plan({"clip": Embeddings.of(rows)}, {"clip": PAPER["clip"]}, 1)
    assert plan.choices["clip"].sieve.width == 32
    assert dataclasses.replace(plan, joint=False).on_device == ["clip"]
