"""A few thousand cases of all readers: none raises what a user could not act on, hangs, or takes the machine along.

`make fuzz` runs a hundred thousand. A finding is repeated by the command that stands beside it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from .targets import SUITE

_CASES = 2000
_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, dict]:
    """The table, by target. In a process of its own: workers are forks, and this one may have started JAX."""
    out = tmp_path_factory.mktemp("fuzz") / "out.json"
    command = [sys.executable, "-m", "tests.fuzz", *SUITE, "--cases", str(_CASES), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    assert out.exists(), done.stderr[-2000:]
    return {row["target"]: row for row in json.loads(out.read_text())}


@pytest.mark.parametrize("target", SUITE)
def test_every_case_is_clean_or_one_line(target, rows):
    row = rows[target]
    assert not row["findings"], row["findings"]
    assert row["cases"] >= 30 and row["cases"] == row["clean"] + row["typed"]
