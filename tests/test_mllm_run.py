"""A packed multimodal run resumes exactly, from the cursor in its checkpoint."""

from __future__ import annotations

import shutil

from run_samples import lines
import tiny_mllm
from tiny_run import losses

from mof_jax import run


def test_a_packed_run_resumes_from_its_cursor(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run.train(tiny_mllm.get_config(), str(whole))
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "6")
    run.train(tiny_mllm.get_config(), str(resumed))
    first, second = losses(lines(whole / "metrics.jsonl")), losses(lines(resumed / "metrics.jsonl"))
    assert [line["step"] for line in second] == [1, 2, 3, 4, 5, 6]
    assert first == second
    assert len({line["loss"] for line in first}) == 6
