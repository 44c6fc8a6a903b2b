"""A user's own kinds: the file of CONTRIBUTING, trained, killed, resumed; and what is refused."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
from run_samples import environment

from mof_jax import config as configs
from mof_jax import plugins, run
from mof_jax.errors import UserError
from mof_jax.jsonl import read_lines
from mof_jax.objectives import OBJECTIVES
from mof_jax.train.start import open_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
import tiny_run

def get_config(arg=None):
    c = tiny_run.get_config()
    c.steps, c.plugins = 50, ["pull.py"]
    c.objective = dict(clip=dict(kind="softmax"), pull=dict(kind="pull", margin=0.5, weight=0.1))
    c.data.workers = 2
    c.checkpoint.every, c.compilation_cache = 10, None
    return c
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The plugin as CONTRIBUTING has it, a config that names it, and no plugin in this process."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"`pull.py`\n```python\n(.*?)```", text, re.S)[1]
    (tmp_path / "pull.py").write_text(code)
    (tmp_path / "mine.py").write_text(CONFIG.format(tests=str(ROOT / "tests")))
    monkeypatch.setenv(plugins.VARIABLE, "{}")
    return tmp_path


def train(folder, *more):
    command = [sys.executable, "-m", "mof_jax.cli", "train", "--config", f"{folder}/mine.py", "--workdir", f"{folder}/w", *more]
    return subprocess.Popen(command, env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_fifty_steps_with_two_loader_processes_killed_and_resumed(folder):
    first = train(folder)
    deadline = time.time() + 240
    while not list((folder / "w" / "checkpoints").glob("10/manifest.json")) and time.time() < deadline:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = train(folder)
    said = second.communicate(timeout=240)[0]
    assert second.returncode == 0, said
    lines = read_lines(str(folder / "w" / "metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, 51))
    assert lines[-1]["pull/distance"] < lines[0]["pull/distance"]
    total = lines[-1]["loss/clip"] + 0.1 * lines[-1]["loss/pull"]
    assert lines[-1]["loss"] == pytest.approx(total, rel=1e-5)

    meta = open_checkpoint(str(folder / "w"))[1]
    assert meta["config"]["plugins"][0]["sha256"] and meta["config"]["objective"]["pull"]["kind"] == "pull"
    with pytest.raises(UserError, match="config.plugins.0: .*pull.py is not imported, because no one named it here"):
        run.resolve(meta["config"])
    plugins.load_file(str(folder / "pull.py"))
    assert run.resolve(meta["config"]).objective["pull"].margin == 0.5

    (folder / "pull.py").write_text((folder / "pull.py").read_text() + "\n# another file\n")
    third = train(folder, "--config.steps=60")
    said = third.communicate(timeout=240)[0]
    assert third.returncode == 1 and "plugins.0.sha256" in said, said


def test_kinds_of_a_plugin_travel_to_other_processes_by_name(folder):
    found = plugins.load_file(str(folder / "pull.py"))
    kind = OBJECTIVES["pull"]
    assert kind.__module__ == f"mof_jax.plugins.p_{found.sha256[:16]}"
    data = folder / "object.pickle"
    data.write_bytes(pickle.dumps(kind(margin=0.25)))
    code = f"import pickle; print(pickle.load(open({str(data)!r}, 'rb')).margin)"
    env = environment(1) | {plugins.VARIABLE: os.environ[plugins.VARIABLE]}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout == "0.25\n"
    assert "pull" in OBJECTIVES and json.loads(os.environ[plugins.VARIABLE])


def test_mistakes_are_named(folder):
    loads = lambda entry: plugins.load({"plugins": [entry]}, str(folder))
    with pytest.raises(UserError, match=r"config.plugins.0: push.py: no such file beside the config"):
        loads("push.py")
    with pytest.raises(UserError, match=r"config.plugins.0: expected the path of a Python file, got 3"):
        loads(3)
    with pytest.raises(UserError, match=r"config.plugins: expected a list of files, got 'pull.py'"):
        plugins.load({"plugins": "pull.py"}, str(folder))
    with pytest.raises(UserError, match=r"pull.py is another file than the one of the hash abc"):
        loads(dict(path="pull.py", sha256="abc"))
    (folder / "broken.py").write_text("import nowhere\n")
    with pytest.raises(UserError, match=r"config.plugins.0: broken.py: ModuleNotFoundError: No module named 'nowhere'"):
        loads("broken.py")
    assert not any(path.endswith("broken.py") for path in plugins.loaded().values())


def test_two_classes_of_one_kind_are_refused_with_both_files(folder):
    plugins.load_file(str(folder / "pull.py"))
    (folder / "twin.py").write_text((folder / "pull.py").read_text().replace("margin: float = 0.0", "margin: float = 1.0"))
    plugins.load_file(str(folder / "twin.py"))
    with pytest.raises(UserError, match="two classes of objective kind 'pull': .*pull.py and .*twin.py|.*twin.py and .*pull.py"):
        len(OBJECTIVES)


def test_a_config_beside_its_plugin_is_checked_before_a_launch(folder):
    """As `launch up --dry-run` does, from another folder."""
    resolved = run.resolve(configs.override(configs.load(f"{folder}/mine.py"), ["objective.pull.margin=0.75"]))
    assert resolved.objective["pull"].margin == 0.75 and resolved.plugins[0].path == str(folder / "pull.py")
