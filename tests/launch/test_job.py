"""Job files: what they mean, and what is said of wrong ones."""

from __future__ import annotations

import json
import pathlib

import pytest

from launch import job as jobs
from launch.ledger import Ledger, elapsed
from mof_jax import config as configs
from mof_jax.errors import UserError

EXAMPLES = sorted((pathlib.Path(__file__).parents[2] / "launch" / "examples").glob("*.toml"))
BASE = {"name": "run", "project": "my-project", "zone": "us-central2-b", "topology": "v5e:4x4", "workdir": "gs://b/run",
        "source": {"git": "https://example.com/mof.git", "rev": "abc"}, "train": {"config": "configs/x.py"},
        "guard": {"max_hours": 2}}
GKE = {"cluster": "pod", "location": "us-central1", "image": "i"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_jobs(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    found = jobs.load(str(path))
    jobs.check(found, path.name)
    assert found.dollars_per_hour == found.guard.price_per_chip_hour * 256


@pytest.mark.parametrize("change, message", [
    ({"nmae": "x"}, r"job.nmae: unknown key \(did you mean 'name'\?\)"),
    ({"guard": {"max_hour": 2}}, r"job.guard.max_hour: unknown key \(did you mean 'max_hours'\?\)"),
    ({"guard": {}}, "job.guard.max_hours: missing"), ({"guard": {"max_hours": 0}}, "job.guard.max_hours: 0.0 is not above 0"),
    ({"guard": {"max_hours": 2, "max_dollars": 5}}, "max_dollars needs guard.price_per_chip_hour"),
    ({"name": "Run"}, "name 'Run': lowercase letters"), ({"name": "a_b"}, "name 'a_b'"), ({"name": "a" * 64}, "63 at most"),
    ({"name": "-a"}, "name '-a'"), ({"name": "a-"}, "name 'a-'"), ({"name": "a;rm -rf /"}, "name"),
    ({"name": "1a"}, "name '1a'"),
    ({"name": "a\n"}, "name"), ({"project": "My Project"}, "is no project id"), ({"zone": "us-central2"}, "is no zone"),
    ({"topology": "v5e:3"}, "topology 'v5e:3'"), ({"topology": "v7:2x2"}, "unknown TPU generation 'v7'"),
    ({"topology": "tpu7x:4x4x4"}, 'tpu7x is offered on GKE only; set backend = "gke"'),
    ({"workdir": "/tmp/x"}, "a slice's disk goes with the slice"), ({"backend": "gke"}, r'backend "gke" needs \[gke\]'),
    ({"source": {"git": "x"}}, "rev is missing"), ({"source": {"git": "x", "rev": "r", "wheel": "w"}},
                                                   "either git .* or wheel"),
    ({"source": {"git": "--upload-pack=x", "rev": "r"}}, "do not start with a dash"),
    ({"source": None}, r"\[source\] is missing"),
    ({"source": {"git": "x", "rev": "r", "extras": ["a]; x"]}}, "is no extra"),
    ({"env": {"A-B": "x"}}, "'A-B' is no name of a variable"),
    ({"env": {"HF_TOKEN": "hf_abc"}}, 'env.HF_TOKEN looks like a secret; write it under .secrets. as "env:HF_TOKEN"'),
    ({"secrets": {"A": "kubernetes:s/k"}}, "kubernetes does not exist on backend tpu-vm"),
    ({"backend": "gke", "gke": GKE, "secrets": {"A": "secret-manager:projects/p/secrets/s"}},
     "secret-manager does not exist on backend"),
    ({"backend": "gke", "gke": {**GKE, "cluster": "a b"}}, "cluster 'a b'"), ({"env": {"A": "x\0y"}}, "a NUL byte"),
    ({"retry": {"policy": {"hnag": "stop"}}}, r"no class of exits 'hnag' \(did you mean 'hang'\?\)"),
    ({"retry": {"policy": {"oom": "again"}}}, "'again' is not one of 'stop'"), ({"topology": None}, "topology is missing")])
def test_wrong_jobs_say_what_is_wrong(change, message):
    with pytest.raises(UserError, match=message):
        jobs.make({**BASE, **change}, "job")


def test_a_pasted_secret_is_not_repeated():
    with pytest.raises(UserError) as caught:
        jobs.make({**BASE, "secrets": {"HF_TOKEN": "hf_abcdef"}}, "job")
    assert "hf_abcdef" not in str(caught.value) and "secrets.HF_TOKEN: write env:NAME" in str(caught.value)


@pytest.mark.parametrize("text, message", [("a = ", "Invalid value"), (None, "No such file")])
def test_files_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "job.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        jobs.load(str(path))


def test_topology_and_price_come_from_the_config(tmp_path):
    config = tmp_path / "c.py"
    config.write_text("import ml_collections\ndef get_config(arg=None):\n"
                      "  return ml_collections.ConfigDict({'hardware': {'topology': arg or 'v5e:4x4', 'price': 1.5}})\n")
    values = {key: value for key, value in BASE.items() if key != "topology"}
    found = jobs.make({**values, "train": {"config": str(config)}}, "job")
    assert (found.topology, found.dollars_per_hour) == ("v5e:4x4", 24.0)
    assert jobs.make({**values, "train": {"config": f"{config}:2*v5e:4x4"}}, "job").dollars_per_hour == 48.0
    over = {"config": str(config), "overrides": {"hardware.topology": "v6e:2x2", "hardware.price": 2}}
    assert jobs.make({**values, "train": over}, "job").dollars_per_hour == 8.0
    assert jobs.make({**values, "train": over, "topology": "v6e:1x1", "guard": {"max_hours": 1, "price_per_chip_hour": 3}},
                     "job").dollars_per_hour == 3.0


@pytest.mark.parametrize("topology, backend, hosts", [
    ("v5e:2x4", "tpu-vm", 1), ("v5e:2x4", "gke", 2), ("v6e:4x4", "tpu-vm", 4), ("2*v6e:2x4", "tpu-vm", 2),
    ("v5p:2x2x1", "tpu-vm", 1),
    ("v5p:8x8x8", "tpu-vm", 128), ("2*v6e:16x16", "gke", 128)])
def test_hosts(topology, backend, hosts):
    assert jobs.make({**BASE, "topology": topology, "backend": backend, "gke": GKE}, "job").hosts == hosts


@pytest.mark.parametrize("value", [1, 1e-3, True, None, [1, "a b"], "plain", "1e-3", "True", "none", "(1, 2)", "it's", 'a"b',
                                   ""])
def test_overrides_arrive_as_they_are_written(value):
    job = jobs.make({**BASE, "train": {"config": "c", "overrides": {"a.b": value}}}, "job")
    key, _, text = job.train_command()[-1].removeprefix("--config.").partition("=")
    assert key == "a.b" and configs.literal(text) == value


def test_hours_end_with_the_money():
    guard = {"max_hours": 10, "price_per_chip_hour": 1.0, "max_dollars": 32}
    assert jobs.make({**BASE, "guard": guard}, "job").hours == 2.0
    assert jobs.make({**BASE, "guard": {**guard, "max_dollars": 1000}}, "job").hours == 10.0


def test_a_ledger_counts_over_launchers_and_begins_anew_after_the_end(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("launch.ledger.time.time", lambda: now[0])
    monkeypatch.setattr("launch.ledger.time.clock_gettime", lambda _: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    ledger = Ledger.open(str(tmp_path), "run")
    later(5)
    ledger.add("held")
    later(100)
    ledger.add("gone")
    later(50)
    ledger.add("held")
    later(10)
    again = Ledger.open(str(tmp_path), "run")
    assert again.held and again.seconds() == 110
    later(1)
    again.add("gone")
    with open(again.path, "a") as f:
        f.write('{"event": "se')  # killed while it wrote
    third = Ledger.open(str(tmp_path), "run")
    assert not third.held and third.seconds() == 111
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [*third.events,
                                                                      {"event": "end", "time": 0}]))
    assert Ledger.open(str(tmp_path), "run").seconds() == 0


def test_hours_are_counted_by_a_clock_that_nobody_sets(monkeypatch):
    """Set back, or forward, between two events; over a start of the machine, which leaves the wall clock and a lower bound."""
    at = lambda wall, uptime, boot="a": {"time": float(wall), "uptime": float(uptime), "boot": boot}
    assert elapsed(at(1000, 50), at(-2600, 110)) == 60 == elapsed(at(1000, 50), at(10**6, 110))
    assert elapsed(at(1000, 50), at(1500, 30, "b")) == 500, "started again in between"
    assert elapsed(at(1000, 50), at(400, 30, "b")) == 30, "and the clock set back"
    assert elapsed({"time": 1000.0}, at(900, 5)) == 0 and elapsed({"time": 1000.0}, at(1900, 5)) == 900, "of an older version"
    assert elapsed(at(1000, 50, ""), at(1010, 70, "")) == 10, "no Linux"
    assert elapsed(at(1000, 50), {"time": 1010.0, "boot": "a"}) == 10, "damaged: the wall clock has to do"
    ledger = Ledger("unused", [{"event": "held", **at(5000, 50)}, {"event": "gone", **at(100, 3650)}])
    assert ledger.seconds() == 3600 and not ledger.held


@pytest.mark.parametrize("line", [
    "7", "[]", '{"event": "held"}', '{"event": 3, "time": 1}', '{"event": "held", "time": "now"}', '{"time": 3}', "{",
    "[" * 50_000,
    '{"event": "held", "time": NaN}', '{"event": "exit", "time": 1}', '{"event": "held", "time": ' + "9" * 5000 + "}", "\xff",
    '{"event": "held", "time": 1, "uptime": [2]}', '{"event": "held", "time": 1, "boot": {}}'])
def test_a_ledger_that_cannot_be_read_says_what_to_do(tmp_path, line):
    good = '{"event": "begin", "time": 1}\n'
    (tmp_path / "run.jsonl").write_bytes((good + line + "\n" + good).encode("latin-1"))
    with pytest.raises(UserError, match=r"run.jsonl line 2: .*whether run holds slices is not known: .*launch delete"):
        Ledger.open(str(tmp_path), "run")


@pytest.mark.parametrize("source", [
    {"files": ["--zone=evil"]}, {"files": ["host:/etc"]}, {"files": ["configs", "a:b"]}, {"wheel": "-x.whl"},
    {"wheel": "host:x.whl"}])
def test_paths_of_a_source_are_no_flags_and_no_hosts(source):
    with pytest.raises(UserError, match="is no path on this machine"):
        jobs.make({**BASE, "source": {"wheel": "x.whl", **source}}, "job")


@pytest.mark.parametrize("workdir", ["http://b/x", "memory://x", "-x://y", "ftp://h/x", "gs://", "gs:///x", "gs://b/a[1]", "s3://b/x"])
def test_work_dirs_that_no_checkpoint_can_be_restored_from(workdir):
    with pytest.raises(UserError, match="checkpoints go to gs://BUCKET/PATH"):
        jobs.make({**BASE, "workdir": workdir}, "job")


MINI = """
import ml_collections
def get_config(arg=None):
    c = ml_collections.ConfigDict(dict(steps=4, batch_size=16))
    c.model = dict(embed_dim=8, image=dict(width=8, depth=1, heads=1, patch_size=8, image_size=8),
                   text=dict(width=8, depth=1, heads=1))
    c.optimizer = dict(lr=1e-3, b2=0.95, weight_decay=0.2, schedule=dict(warmup=2))
    return c
"""


@pytest.fixture
def mini(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.py").write_text(MINI)
    return tmp_path


def toml(text: str) -> str:
    return f"""
name = "run"
project = "my-project"
zone = "us-central2-b"
topology = "v5e:4x4"
workdir = "gs://bucket/run"
source = {{ git = "https://example.com/mof.git", rev = "abc" }}
guard = {{ max_hours = 2 }}
train.config = "mini.py"
{text}
"""


@pytest.mark.parametrize("text", ["[train.overrides]\noptimizer.lr = 5e-4", '[train.overrides]\n"optimizer.lr" = 5e-4',
                                  "[train.overrides.optimizer]\nlr = 5e-4", "train.overrides.optimizer = { lr = 5e-4 }"])
def test_a_nested_table_sets_keys_and_replaces_no_section(mini, text):
    (mini / "job.toml").write_text(toml(text))
    job = jobs.load("job.toml")
    jobs.check(job, "job.toml")
    assert job.train_command()[-1] == "--config.optimizer.lr=0.0005"
    child = jobs.child(jobs.read("job.toml"), {"id": 1, "overrides": {"optimizer": {"lr": 1e-5}, "optimizer.b2": 0.9}}, "w")
    assert jobs.make(child, "w").train.overrides == {"optimizer.lr": 1e-5, "optimizer.b2": 0.9}


@pytest.mark.parametrize("text, message", [
    ("[train.overrides]\noptimzer.lr = 5e-4", r"mini.py: config.optimzer: unknown key \(did you mean 'optimizer'\?\)"),
    ('[train.overrides]\noptimizer.lr = "5e-4 "', "config.optimizer.lr: expected float, got '5e-4 '"),
    ("[train.overrides]\noptimizer.lr = inf", "config.optimizer.lr"),
    ("[train.overrides]\noptimizer.lr = -1.0", "not at least 0"),
    ("[train.overrides]\nbatch_size = 0", "config.batch_size: 0 is not at least 1"),
    ("[train.overrides]\nbatch_size = 7", "config.batch_size: 7 is not divisible by 16 batch shards"),
    ("[train.overrides]\nmesh.data = 3", "config.mesh: .*does not cover 16 devices"),
    ('[train.overrides]\nprecision = "highst"', "config.precision: 'highst' is not one of"),
    ("[train.overrides]\noptimizer.schedule.warmup = 100", "config.optimizer.schedule: warmup 100"),
    ('[train]\nconfig = "mini.py"\nallow_change = ["optimzer.lr"]', "--allow-change optimzer.lr: no such key"),
    ('[train]\nconfig = "mini.py"\nallow_change = [""]', "no such key"),
    ("[train.overrides]\nname = 2024-01-01", r"overrides.name: 2024-01-01 \(date\) is no value of a config; as text, quote it"),
    ("[train.overrides]\nx = [2024-01-01T00:00:00]", "is no value of a config"),
    ('[train.overrides]\n"a=b" = 1', "is no dotted key"), ('[train]\nconfig = "missing.py"', "missing.py is not here"),
    ('[train]\nconfig = "-x.py"', "begins with a dash"), ('[train]\nconfig = "mini.py"\nallow_change = ["--x"]', "is no key"),
    ("x = " + "[" * 5000, "job.toml: "), ("x = " + "9" * 5000, "job.toml: ")])
def test_a_job_is_resolved_before_anything_is_created(mini, text, message):
    (mini / "job.toml").write_text(toml(text) if "[train]" not in text else toml("").replace('train.config = "mini.py"', text))
    with pytest.raises(UserError, match=message) as caught:
        jobs.check(jobs.load("job.toml"), "job.toml")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name, text", [
    ("a.json", "[]"), ("a.json", "7"), ("a.json", '{"a": 1, "a": 2}'), ("a.json", "[" * 50_000), ("a.toml", "\xff"),
    ("a.json", "9" * 5000), ("a.json", '{"train": {"overrides": [1]}}'), ("a.json", '{"train": [1]}'),
    ("a.json", '{"guard": 3}')])
def test_whatever_a_job_file_holds_is_one_line(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        jobs.load(str(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1


def test_a_job_is_given_back_whatever_has_become_of_its_config(mini):
    (mini / "mini.py").write_text("raise ValueError('gone')")
    (mini / "job.toml").write_text(toml(""))
    job = jobs.load("job.toml")
    with pytest.raises(UserError, match="mini.py line 1: ValueError: gone"):
        jobs.check(job, "job.toml")


def test_keys_that_may_change_go_to_the_trainer():
    job = jobs.make({**BASE, "train": {"config": "c.py", "allow_change": ["optimizer.lr"]}}, "job")
    assert job.train_command()[-1] == "--allow-change=optimizer.lr"
