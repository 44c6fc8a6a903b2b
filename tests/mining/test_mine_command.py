"""`mof mine` and `mof data embed` from the outside, and the bench against the definition."""

from __future__ import annotations

import signal
import socket
import time

from brute import brute_force
import numpy as np
from PIL import Image
import pytest
from run_samples import finish, mof
import tiny_run

from mof_jax import cli, trainer
from mof_jax.bench import mine as bench
from mof_jax.data.worlds.embedded import Emoji5
from mof_jax.mining.blind import Mined
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.rules import Rule

COUNT = len(Emoji5("unseen"))


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name, dim in (("clip", 8), ("ssl", 6)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((COUNT, dim)).astype(np.float32))
    return tmp_path


def words(files, *more: str) -> list[str]:
    features = [word for name in ("clip", "ssl") for word in ("--features", f"{name}={files}/{name}.npy")]
    return ["mine", *features, "--out", f"{files}/pairs.parquet", *more]


def error(capsys, *args: str) -> str:
    """The one line that a failing command prints."""
    assert cli.main(list(args)) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and err.count("error: ") == 1
    return err


def test_mine_writes_pairs_and_a_sheet(files, capsys):
    more = ("--above", "clip=q0.9", "--below", "ssl=0", "--source", "emoji5/unseen", "--label", "flag", "--tile", "64")
    assert cli.main(words(files, *more)) == 0
    out = capsys.readouterr().out
    found = Mined.read(f"{files}/pairs.parquet")
    features = {name: np.load(files / f"{name}.npy") for name in ("clip", "ssl")}
    expected = brute_force(features, {"clip": Rule("above", quantile=0.9), "ssl": Rule("below", 0.0)})
    np.testing.assert_array_equal(found.pairs.j, expected.j)
    assert f"{len(found):,} pairs" in out and set(found.info["statistics"]["labels"]) == {"yes", "no"}
    with Image.open(files / "pairs.png") as sheet:
        assert sheet.height > 16 * 96
    assert "exists already" in error(capsys, *words(files))


@pytest.mark.parametrize("more, message", [
    (("--above", "dino=0.9"), "--above dino=0.9: no feature of that name (there is clip, ssl)"),
    (("--above", "ssl=0.9", "--below", "ssl=0.1"), "feature ssl: a rule above and one below"),
    (("--above", "clip=2"), "a cosine lies in [-1, 1]"),
    (("--above", "clip"), "--above clip: write NAME=VALUE"),
    (("--features", "clip=x.npy"), "clip is given twice"),
    (("--features", "moco=x.npy"), "feature moco: no rule"),
    (("--features", "moco=x.npy", "--above", "moco=0.9"), "x.npy: no such file"),
    (("--features", "moco=runs/none", "--above", "moco=0.9"), "for a checkpoint, give the pictures with --source"),
    (("--source", "emoji5/twemoji"), "rows for"),
    (("--source", "emoji5/unseen", "--label", "famly"), "no record has attribute 'famly' (did you mean 'family'?)"),
    (("--within", "same"), "needs labels"),
])
def test_mistakes_are_named(files, capsys, more, message):
    assert message in error(capsys, *words(files, *more))


def test_help_shows_an_example(capsys):
    for command in ("mine", "data embed", "bench mine"):
        with pytest.raises(SystemExit):
            cli.main([*command.split(), "--help"])
        assert f"mof {command} " in capsys.readouterr().out


def test_the_contestants_of_the_bench_agree():
    rows = bench.run(n=400, dim=32, repeats=1, memory=False)
    assert {"mof_jax", "mof_jax, no bound", "blocked NumPy"} <= {r["name"] for r in rows}
    assert {r["pairs"] for r in rows} == {4}, "of eight near-duplicates, half are so for both features"


@pytest.mark.slow
def test_two_processes_embed_and_mine_what_one_does(tmp_path):
    """A tiny tower over the embedded pictures."""
    config = tiny_run.get_config()
    config.steps = 4
    trainer.train(config, str(tmp_path / "run"))
    embed = ("data", "embed", "emoji5/unseen", "--checkpoint", tmp_path / "run", "--shard", "64", "--out")
    mine = ("mine", "--above", "x=0.2", "--features")
    code, _, err = finish(mof(*embed, tmp_path / "one"))
    assert code == 0, err
    assert finish(mof(*mine, f"x={tmp_path}/one", "--out", tmp_path / "one.parquet"))[0] == 0
    together(*embed, tmp_path / "two")
    for file in ("features-00001-of-00003.npy", "manifest.json"):
        assert (tmp_path / "two" / file).exists()
    one, two = (Embeddings.open(str(tmp_path / name)) for name in ("one", "two"))
    np.testing.assert_allclose(one.rows(0, len(one)), two.rows(0, len(two)), atol=1e-5)
    assert one.ids == two.ids and one.manifest["model"] == two.manifest["model"]
    together(*mine, f"x={tmp_path}/one", "--tile", "32", "--out", tmp_path / "two.parquet")
    first, second = (Mined.read(f"{tmp_path}/{name}.parquet") for name in ("one", "two"))
    assert len(first) > 10
    for a, b in zip(first.pairs, second.pairs):
        np.testing.assert_array_equal(a, b)


def start_together(*command) -> list:
    """The command as two processes of two devices each."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    joined = ("--coordinator", f"localhost:{port}", "--processes", "2", "--process-id")
    return [mof(*command, *joined, i) for i in range(2)]


def together(*command) -> None:
    """Runs it to its end."""
    ends = [finish(process) for process in start_together(*command)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    out = str(command[-1])
    assert out in ends[0][1] and out not in ends[1][1], "process 0 speaks"


@pytest.mark.slow
def test_a_signal_at_one_of_two_processes_stops_both_between_two_panels(tmp_path):
    """JAX swallows the signal, so mining has to ask; finished rows stay, and the same command goes on to the same pairs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100_000, 32)).astype(np.float32)
    x[5::1000] = x[6::1000] + 1e-3 * rng.standard_normal((100, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = ("mine", "--above", "x=0.99", "--features", f"x={tmp_path}/x.npy", "--out", tmp_path / "pairs.parquet")
    processes = start_together(*command)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pairs.parquet.state" / "row-00000.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends = [finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [75, 75], ends
    assert all("run again to go on" in err and "Traceback" not in err for _, _, err in ends)
    assert 1 <= len(list((tmp_path / "pairs.parquet.state").glob("row-*"))) < 7 and not (tmp_path / "pairs.parquet").exists()
    together(*command)
    found = Mined.read(f"{tmp_path}/pairs.parquet")
    assert {*zip(found.pairs.i.tolist(), found.pairs.j.tolist())} == {(n + 5, n + 6) for n in range(0, 100_000, 1000)}
