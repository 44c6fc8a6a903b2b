"""A run is a function of (config, seed, step): killed, preempted or moved to other hosts, it computes the same."""

from __future__ import annotations

import json
import signal
import time

import pytest
from run_samples import ROOT, finish, lines, mof, start_two, write_pool
from tiny_run import losses

from mof_jax.train.start import open_checkpoint

CONFIG = ROOT / "tiny_run.py"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, shared by the runs of this file."""
    return f"--config.compilation_cache={tmp_path_factory.mktemp('xla')}"


@pytest.fixture(scope="module")
def whole(pool, cache, tmp_path_factory):
    """An uninterrupted run's work dir."""
    workdir = tmp_path_factory.mktemp("whole")
    code, _, err = finish(mof("train", "--config", f"{CONFIG}:{pool}", "--workdir", workdir, cache))
    assert code == 0, err
    return workdir


def wait_for_step(process, workdir, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and any(f'"step": {step},' in text for text in path.read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {finish(process)}")


def test_a_killed_run_resumes_bit_for_bit(whole, pool, cache, tmp_path):
    args = ("train", "--config", f"{CONFIG}:{pool}", "--workdir", tmp_path, cache)
    process = mof(*args)
    wait_for_step(process, tmp_path, 9)  # the save after step 4 is on disk before the one after step 8 begins
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    code, out, err = finish(mof(*args))
    assert code == 0, err
    assert "resuming after step" in out
    assert losses(lines(tmp_path / "metrics.jsonl")) == losses(lines(whole / "metrics.jsonl"))
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 41))


def test_sigterm_saves_and_asks_to_be_run_again(whole, pool, cache, tmp_path):
    args = ("train", "--config", f"{CONFIG}:{pool}", "--workdir", tmp_path, cache, "--config.checkpoint.every=0")
    process = mof(*args)
    wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 75, err
    assert "run again to resume" in err and "Traceback" not in err
    code, out, err = finish(mof(*args))
    assert code == 0 and "resuming after step" in out, err
    assert losses(lines(tmp_path / "metrics.jsonl")) == losses(lines(whole / "metrics.jsonl"))


def test_two_processes_see_the_same_examples(whole, pool, cache, tmp_path):
    """One process of two devices against two of one: same order of examples, losses equal to f32 tolerance."""
    for process in start_two("train", "--config", f"{CONFIG}:{pool}", "--workdir", tmp_path, cache):
        code, _, err = finish(process)
        assert code == 0, err
    ours, theirs = lines(tmp_path / "metrics.jsonl"), lines(whole / "metrics.jsonl")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(losses(ours), losses(theirs)):
        assert a == pytest.approx(b, rel=2e-5, abs=2e-6)


def test_a_run_moves_from_one_process_to_another_mesh(whole, pool, cache, tmp_path):
    """Half of the run on two devices along data, the rest on four along fsdp."""
    args = ("train", "--config", f"{CONFIG}:{pool}", "--workdir", tmp_path, cache)
    process = mof(*args)
    wait_for_step(process, tmp_path, 9)
    process.send_signal(signal.SIGKILL)
    finish(process)
    code, out, err = finish(mof(*args, "--config.mesh.data=1", "--config.mesh.fsdp=4", devices=4))
    assert code == 0 and "resuming after step" in out, err
    for a, b in zip(losses(lines(tmp_path / "metrics.jsonl")), losses(lines(whole / "metrics.jsonl"))):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_a_teacher_resumes_with_its_student(cache, tmp_path):
    """Killed and resumed, a run of self-distillation ends with the same losses and, bit for bit, the same teacher."""
    args = ("train", "--config", ROOT / "tiny_dino.py", cache, "--workdir")
    code, _, err = finish(mof(*args, tmp_path / "whole"))
    assert code == 0, err
    process = mof(*args, tmp_path / "killed")
    wait_for_step(process, tmp_path / "killed", 9)
    process.send_signal(signal.SIGKILL)
    finish(process)
    code, out, err = finish(mof(*args, tmp_path / "killed"))
    assert code == 0 and "resuming after step" in out, err
    whole, killed = (losses(lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "killed"))
    assert whole == killed and [line["step"] for line in killed] == list(range(1, 17))
    prints = [open_checkpoint(str(tmp_path / name))[1]["fingerprints"] for name in ("whole", "killed")]
    teacher = {leaf for leaf in prints[0] if "teacher/" in leaf}
    assert prints[0] == prints[1] and teacher and not any(leaf.startswith(("opt", "params")) for leaf in teacher)


def test_the_work_dir_holds_the_resolved_config(whole):
    config = json.loads((whole / "config.json").read_text())
    assert config["optimizer"]["b1"] == 0.9  # a default that the file does not mention
    assert config["data"]["sources"][1]["filter"]["rules"]["dfn"]["fraction"] == 0.5
    assert "image/blocks/layers/attn/qkv" in (whole / "parameters.txt").read_text()
    assert any((whole / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_signal_at_one_of_two_processes_is_heard_in_an_evaluation(pool, cache, tmp_path):
    """JAX swallows it unless it is asked: both stop within the evaluation, which is done again, and the run goes on."""
    evals = "[{'kind': 'retrieval', 'name': 'long', 'source': {'kind': 'emoji5', 'split': 'twemoji'}}]"
    args = ("train", "--config", f"{CONFIG}:{pool}", "--workdir", tmp_path, cache, "--config.steps=6", "--config.eval_every=3",
            f"--config.evals={evals}", "--config.checkpoint.every=0")
    processes = start_two(*args, "--config.eval_batch_size=8")  # slow enough to be met
    wait_for_step(processes[0], tmp_path, 3)
    time.sleep(0.5)
    processes[1].send_signal(signal.SIGTERM)
    ends = [finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [75, 75], ends
    assert all("stopped after step 3 of 6; the state is saved" in err for _, _, err in ends)
    assert (tmp_path / "checkpoints" / "3").exists() and not (tmp_path / "evals.jsonl").exists()
    ends = [finish(process) for process in start_two(*args, "--config.eval_batch_size=128")]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "resuming after step 3" in ends[0][1] and "Goodput" in ends[0][1]
    assert [(line["step"], line["name"]) for line in lines(tmp_path / "evals.jsonl")] == [(3, "long"), (6, "long")]
    last = lines(tmp_path / "metrics.jsonl")[-1]
    assert len(last["host_s"]) == 2 and last["seconds"]["eval"] > 0 and last["seconds"]["start"] > 0
