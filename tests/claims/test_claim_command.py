"""A claim from its commit to its row: killed and gone on with, judged once, and refused wherever it does
not stand."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import fake_claim
import pytest
import tiny_claim

from mof_jax import cli
from mof_jax.claims import bases, commits, judge, rows
from mof_jax.errors import UserError

SPEC = "configs/tiny.py"


def git(folder, *words, when: int | None = None) -> str:
    date = {} if when is None else {"GIT_COMMITTER_DATE": f"@{when} +0000"}
    run = subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], cwd=folder, check=True,
                         capture_output=True, text=True, env={**os.environ, **date})
    return run.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a committed claim; the test runs in it."""
    (tmp_path / "r/configs").mkdir(parents=True)
    shutil.copy(tiny_claim.__file__, tmp_path / "r" / SPEC)
    git(tmp_path / "r", "init", "-q")
    commit(tmp_path / "r")
    monkeypatch.chdir(tmp_path / "r")
    return tmp_path / "r"


def commit(folder, when: int | None = None) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x", when=when)


def judged(seeds=(0, 1, 2)) -> judge.Judged:
    return judge.run(SPEC, "../w", "docs", seeds=seeds, workers=4, command=fake_claim.command)


def edit(path: pathlib.Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_from_pilot_to_verdict(repository, capsys):
    pilot = judged((100, 101))
    assert pilot.pilot and pilot.row["verdict"] == "shown" and rows.read("docs/claims.jsonl") == []
    row = judged().row
    assert (
        row["verdict"] == "shown"
        and row["pilots"] == 1
        and row["file"] == SPEC
        and row["data"] == "synthetic signal"
    )
    assert row["commit"] == git(repository, "rev-parse", "HEAD") and row["code"] == commits.code()
    assert {arm: len(seeds) for arm, seeds in row["arms"].items()} == {"trained": 3, "still": 3, "slow": 3}
    assert row["conditions"][0]["claimed"] == 10.0 and row["conditions"][1]["margin"] == 5.0
    assert rows.read("docs/claims.jsonl") == [row]
    table = pathlib.Path("docs/claims.md").read_text()
    assert (
        "**shown**" in table
        and "A trained model finds more" in table
        and f"`mof claim {SPEC} --workdir W`" in table
    )
    assert cli.main(["claim", "--check"]) == 0 and "docs: 1 of 1 claims stand" in capsys.readouterr().out
    with pytest.raises(UserError, match="judged already, in docs/claims.jsonl; a verdict's seeds run once"):
        judged()


def test_killed_and_gone_on_with(repository):
    words = [sys.executable, fake_claim.__file__, SPEC, "../w", "docs", "0,1,2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trace, limit = pathlib.Path("../w/trace"), time.monotonic() + 120
    while not (trace.exists() and len(trace.read_text().splitlines()) >= 3):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not pathlib.Path("docs/claims.jsonl").exists()
    assert judged().row["verdict"] == "shown" and len(rows.read("docs/claims.jsonl")) == 1
    runs = trace.read_text().splitlines()
    assert len(set(runs)) == 9 and len(runs) <= 10, "only the one under way, if any, is begun anew"


def test_what_is_not_committed_is_not_judged(repository):
    edit(repository / SPEC, "RATE = 1e-3", "RATE = 2e-3")  # a constant that claim() reads
    with pytest.raises(
        UserError, match="its claim.. is not committed as it stands; commit it before its first run"
    ):
        judged()
    assert judged((100,)).pilot
    for seeds in ((0, 1), (0, 1, 100), (3, 4, 5), (100, 100)):
        with pytest.raises(UserError, match="a verdict takes 0, 1, 2"):
            judged(seeds)


def line(**changes) -> None:
    """Another last row."""
    found = rows.read("docs/claims.jsonl")
    pathlib.Path("docs/claims.jsonl").write_text(json.dumps(found[0] | changes) + "\n")
    rows.write_table("docs")


def test_rows_that_do_not_stand(repository, capsys):
    row = judged().row
    assert rows.check("docs") == []
    cases = [
        (dict(verdict="refuted"), "its intervals say shown, not refuted"),
        (dict(hash="0" * 16), "has changed since"),
        (dict(commit="f" * 40), "is not in this history"),
        (dict(time="2001-01-01T00:00:00Z"), "after it was judged"),
        (dict(file="configs/none.py"), "no such file"),
        (dict(conditions=[]), "has no condition, or one without the seeds"),
        (dict(pilots="1"), "'pilots' is missing, or of another type"),
        (dict(time="noon"), "noon"),
    ]
    for changes, says in cases:
        line(**changes)
        assert len(found := rows.check("docs")) == 1 and says in found[0], found
        line(**row)
    assert rows.check("docs") == []
    pathlib.Path("docs/claims.md").write_text("better")
    assert "claims.md: is not what claims.jsonl gives" in rows.check("docs")[0]
    assert cli.main(["claim", "--check"]) == 1 and "claims.md: is not what" in capsys.readouterr().err
    assert cli.main(["claim", "--table"]) == 0
    for flag in ("--check", "--table"):
        assert cli.main(["claim", flag, "--docs", "nowhere"]) == 1
        assert "nowhere: no such folder" in capsys.readouterr().err


def test_a_text_that_changes_is_another_claim(repository):
    judged()
    edit(repository / SPEC, "margin=5.0", "margin=50.0")
    commit(repository)
    assert "has changed since" in rows.check("docs")[0]


def test_what_claim_does_not_read_may_change(repository):
    first = commits.committed(SPEC)
    edit(repository / SPEC, "c.steps, c.batch_size = ", "c.batch_size, c.steps = ")
    commit(repository)
    assert commits.committed(SPEC) == first and first.commit != git(repository, "rev-parse", "HEAD")
    edit(repository / SPEC, "RATE = 1e-3", "RATE = 2e-3")
    commit(repository)
    edit(repository / SPEC, "RATE = 2e-3", "RATE = 1e-3")
    commit(repository)
    again = commits.committed(SPEC)
    assert again.hash == first.hash and again.commit == git(repository, "rev-parse", "HEAD"), (
        "since when it stands, unbroken"
    )


def test_rows_from_before_the_commit(repository):
    later = int(time.time()) + 3600
    edit(repository / SPEC, "RATE = 1e-3", "RATE = 2e-3")
    commit(repository, when=later)
    judged()
    assert "its claim was committed after it was judged" in rows.check("docs")[0]


def test_an_argument_is_another_claim(repository):
    edit(repository / SPEC, "def claim() -> Claim:", "def claim(arg: str = 'retrieval/r@1') -> Claim:")
    edit(repository / SPEC, 'metric="retrieval/r@1"', "metric=arg")
    commit(repository)
    judged()
    spec = f"{SPEC}:geometry/uniformity"
    row = judge.run(spec, "../w", "docs", workers=4, command=fake_claim.command).row
    assert row["file"] == spec and row["metric"] == "geometry/uniformity" and rows.check("docs") == []
    with pytest.raises(UserError, match=f"{spec}: this claim is judged already"):
        judge.run(spec, "../w", "docs", command=fake_claim.command)


def test_mistakes(repository):
    edit(repository / SPEC, 'metric="retrieval/r@1"', 'metric="retrieved/r@1"')
    with pytest.raises(
        UserError, match="arm trained: metric retrieved/r@1: its config has no evaluator of that name"
    ):
        judged((100,))
    edit(repository / SPEC, 'metric="retrieved/r@1"', 'metric="retrieval/r@2"')
    with pytest.raises(UserError, match="retrieval keeps no items of 'r@2'"):
        judged((100,))
    edit(repository / SPEC, '"trained": {}', '"trained": {"seed": 1}')
    with pytest.raises(UserError, match="arm trained sets the seed"):
        judged((100,))
    edit(repository / SPEC, '"trained": {"seed": 1}', '"trained": {"init_from": ["base:clip"]}')
    with pytest.raises(UserError, match="arm trained: no base is called 'clip'"):
        judged((100,))
    (repository / SPEC).write_text("def claim(): return 1")
    with pytest.raises(UserError, match="claim.. returned int"):
        judged((100,))


def test_bases_are_found_by_config_data_and_code(repository, monkeypatch):
    trained = []

    class Fake:
        def __init__(self, sweep, folder, command):
            self.point, self.folder = sweep.points[0], folder

        def run(self):
            folder = pathlib.Path(self.folder) / "runs" / self.point.id
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text("{}")
            trained.append(str(folder))

    monkeypatch.setattr(bases, "Runner", Fake)
    first = bases.train(SPEC, "../store", "c1")
    assert bases.train(SPEC, "../store", "c1") == first and trained == [first]
    assert bases.train(SPEC, "../store", "c2") != first
    edit(repository / SPEC, "size=64", "size=65")
    assert bases.train(SPEC, "../store", "c1") != first and len(trained) == 3
    assert bases.resolve({"init_from": [dict(path="base:x")]}, {"x": "/p"}) == {
        "init_from": [dict(path="/p")]
    }


def test_arms_begin_from_a_base_that_is_trained_once(repository, monkeypatch):
    edit(repository / SPEC, '"trained": {}', '"trained": {"init_from": [{"path": "base:clip"}]}')
    edit(repository / SPEC, "minutes=0.1", f'minutes=0.1, bases={{"clip": "{SPEC}"}}')
    monkeypatch.setattr(bases, "trainer", lambda spec: fake_claim.command)
    judged((100,)), judged((101,))
    (base,) = pathlib.Path("../w/bases").iterdir()
    assert len((base / "trace").read_text().splitlines()) == 1
    arms, _ = judge.grid(SPEC, judge.load(SPEC), (100,), {"clip": "/base"})
    assert [source.path for source in arms["trained", 100].run.init_from] == ["/base"]
    assert arms["still", 100].run.init_from == ()


def test_with_real_runs(repository, capsys):
    """Two arms and a seed through `mof train`, the rows that its evaluators leave, and the figures of its
    log."""
    edit(repository / SPEC, ', "slow": {"optimizer.lr": RATE / 2}', "")
    edit(
        repository / SPEC,
        'Equivalence("trained", "slow", margin=5.0)',
        'Equivalence("trained", "still", margin=100.0)',
    )
    assert cli.main(["claim", SPEC, "--workdir", "../w", "--seeds", "100"]) == 0
    assert "a pilot, and no verdict" in capsys.readouterr().out
    (row,) = rows.read("docs/claims_pilots.jsonl")
    for arm, point in (("trained", 0), ("still", 1)):
        id = [p.id for p in judge.grid(SPEC, judge.load(SPEC), (100,))[1].points][point]
        logged = [
            json.loads(line)
            for line in pathlib.Path(f"../w/runs/{id}/evals.jsonl").read_text().splitlines()
        ]
        found = {line["name"]: line for line in logged}
        assert row["arms"][arm]["100"] == pytest.approx(found["retrieval"]["r@1"])
    assert row["conditions"][1]["verdict"] == "shown"
