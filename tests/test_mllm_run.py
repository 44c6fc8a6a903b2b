"""A packed multimodal run resumes exactly, from the cursor in its checkpoint, in every stage and on other hosts."""

from __future__ import annotations

import shutil
import signal
import socket
import time

import numpy as np
import pytest
from run_samples import ROOT, finish, lines, mof
import tiny_mllm
from tiny_run import losses

from mof_jax import cli, trainer
from mof_jax.data.image import images
from mof_jax.data.worlds import pattern_world as world
from mof_jax.evals.mmvp.mmvp_files import write_mmvp
from mof_jax.restore import restore
from mof_jax.train.start import InitConfig, open_checkpoint, take_params

STEPS = list(range(1, 31))


def test_a_packed_run_resumes_from_its_cursor(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    trainer.train(tiny_mllm.get_config(), str(whole))
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "6")
    trainer.train(tiny_mllm.get_config(), str(resumed))
    first, second = losses(lines(whole / "metrics.jsonl")), losses(lines(resumed / "metrics.jsonl"))
    assert [line["step"] for line in second] == [1, 2, 3, 4, 5, 6]
    assert first == second
    assert len({line["loss"] for line in first}) == 6


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The staged run's command line; compiled programs are shared by the runs of this file."""
    cache = tmp_path_factory.mktemp("xla")
    stages = [f"--config.stages.{i}.compilation_cache={cache}" for i in range(2)]
    return "train", "--config", f"{ROOT}/tiny_mllm.py:staged", *stages, "--workdir"


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """An undisturbed run of both stages."""
    workdir = tmp_path_factory.mktemp("whole")
    code, _, err = finish(mof(*command, workdir))
    assert code == 0, err
    return workdir


def kill_after(process, log, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and f'"step": {step},' in log.read_text():
            process.send_signal(signal.SIGKILL)
            assert finish(process)[0] == -signal.SIGKILL
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {finish(process)}")


def test_killed_in_each_stage_it_computes_the_same(command, whole, tmp_path):
    """Packing and a mixture on: losses and shares bit for bit, with the adapters alone and with the language model."""
    for stage in ("align", "tune"):
        log = tmp_path / stage / "metrics.jsonl"
        kill_after(mof(*command, tmp_path), log, 12)  # the save after step 5 is on disk before the one after step 10 begins
        assert len(lines(log)) < len(STEPS), "killed in the middle"
    code, out, err = finish(mof(*command, tmp_path))
    assert code == 0, err
    assert "stage align: done before" in out and "resuming after step" in out
    for stage in ("align", "tune"):
        ours, theirs = (losses(lines(folder / stage / "metrics.jsonl")) for folder in (tmp_path, whole))
        assert [line["step"] for line in ours] == STEPS and ours == theirs
        assert len({line["loss"] for line in ours}) == len(STEPS) and all(0 < line["fill_tokens"] <= 1 for line in ours)
    prints = [open_checkpoint(str(folder))[1]["fingerprints"] for folder in (tmp_path, whole)]
    assert prints[0] == prints[1] and "cursor" in " ".join(prints[0])


def test_each_stage_moves_what_it_should(whole):
    align, tune = (restore(f"{whole}/{stage}").params for stage in ("align", "tune"))
    first = restore(f"{whole}/align/checkpoints/5").params
    moved = lambda a, b: {path.split("/")[0] for path in a if not np.array_equal(a[path], b[path])}
    assert moved(first, align) == {"adapters"} and moved(align, tune) == {"adapters", "llm"}


def test_both_adapters_go_from_stage_to_stage_under_their_own_names(whole):
    """The released I-MoF code starts its second stage with one adapter's weights in both (tsb0601/MMVP's mm_projector)."""
    tune, align = restore(f"{whole}/tune").run, restore(f"{whole}/align").params
    taken = take_params([InitConfig(f"{whole}/align")], tune.skeleton, tune.shardings, tune.adapt)
    for layer in ("fc1/kernel", "fc2/kernel"):
        clip, ssl = (f"adapters/{name}/{layer}" for name in ("clip", "ssl"))
        assert np.array_equal(taken[clip], align[clip]) and np.array_equal(taken[ssl], align[ssl])
        assert not np.array_equal(taken[clip], taken[ssl])


@pytest.mark.slow
def test_two_processes_go_on_where_one_stood(command, whole, tmp_path):
    """From one process of two devices, in the middle of the second stage, to two of one: the cursor names the same documents."""
    shutil.copytree(whole, tmp_path / "w")
    for later in (20, 25, 30):
        shutil.rmtree(tmp_path / "w" / "tune" / "checkpoints" / str(later))
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    together = ("--coordinator", f"localhost:{port}", "--processes", "2", "--process-id")
    processes = [mof(*command, tmp_path / "w", *together, i, devices=1) for i in range(2)]
    ends = [finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "stage align: done before" in ends[0][1] and "resuming after step 15" in ends[0][1]
    ours, theirs = (losses(lines(folder / "tune" / "metrics.jsonl")) for folder in (tmp_path / "w", whole))
    assert [line["step"] for line in ours] == STEPS
    for a, b in zip(ours, theirs):
        assert a == pytest.approx(b, rel=2e-5, abs=2e-6)


def test_the_command_answers_as_the_library_does(whole, tmp_path, capsys):
    picture, model = tmp_path / "x.png", restore(str(whole)).generator
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    picture.write_bytes(images.encode(pixels))
    ask = ("generate", "--checkpoint", str(whole), "--prompt", "How many?", "--image", str(picture))
    assert cli.main([*ask, "--max-tokens", "5"]) == 0
    answer = capsys.readouterr().out.removesuffix("\n")
    assert answer == model.answer([model.ask("How many?", [pixels])], 5)[0]
    assert cli.main([*ask, "--score", "one", "--score", "two dogs"]) == 0
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert scores == pytest.approx(model.log_probs([model.ask("How many?", [pixels])] * 2, ["one", "two dogs"])[0], abs=1e-3)
    for more, line in ((("--image", str(picture), "--prompt", "<image>?"), "1 <image> placeholders for 2 images"),
                       (("--temperature", "-1"), "temperature must not be negative"),
                       (("--image", str(tmp_path / "y.png")), "y.png"), (("--max-tokens", "0"), "--max-tokens 0: at least 1")):
        assert cli.main([*ask, *more]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and line in error
    picture.write_text("junk")
    assert cli.main(list(ask)) == 1 and "x.png: record picture: not a PNG" in capsys.readouterr().err


def test_a_model_of_text_alone_trains_and_answers(tmp_path, capsys):
    config = tiny_mllm.get_config("words")
    config.batch_size, config.microbatches = 32, 2
    trainer.train(config, str(tmp_path / "w"))
    found = lines(tmp_path / "w" / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(1, 7)) and "fill_images" not in found[-1]
    model = restore(str(tmp_path / "w")).generator
    assert len(model.answer([model.ask("a word", [])], 5)) == 1
    capsys.readouterr()
    picture = tmp_path / "x.png"
    picture.write_bytes(images.encode(np.zeros((8, 8, 3), np.uint8)))
    ask = ["generate", "--checkpoint", str(tmp_path / "w"), "--prompt", "a word"]
    assert cli.main([*ask, "--max-tokens", "3"]) == 0
    assert cli.main([*ask, "--image", str(picture)]) == 1
    assert "this model only reads text" in capsys.readouterr().err.splitlines()[-1]


def test_mmvp_is_asked_of_a_checkpoint_from_its_files(whole, tmp_path, capsys):
    pairs = [world.pair(pattern, n, "known", 16) for pattern in world.PATTERNS for n in range(2)]
    write_mmvp(str(tmp_path / "MMVP"), pairs)
    shutil.copytree(whole, tmp_path / "run")
    assert cli.main(["eval", "--checkpoint", str(tmp_path / "run"), "--task", "mmvp", "--data-dir", str(tmp_path / "MMVP")]) == 0
    shown = capsys.readouterr().out
    assert "pair_accuracy" in shown and "question_accuracy" in shown and "labels original" in shown
    line = lines(tmp_path / "run/tune/evals.jsonl")[-1]
    assert line["name"] == "mmvp" and line["pairs"] == 18 and "pair_accuracy_text" in line and "letters/2" in line["version"]
    answers = lines(tmp_path / "run/tune/answers/mmvp.jsonl")
    assert len(answers) == 36 and {answer["pattern"] for answer in answers} == set(world.PATTERNS)
    exported = str(tmp_path / "run/tune/answers/mmvp.jsonl")
    assert cli.main(["eval", "--task", "mmvp", "--data-dir", str(tmp_path / "MMVP"), "--answers", exported]) == 0
    assert f"{line['pair_accuracy']:.2f}" in capsys.readouterr().out
