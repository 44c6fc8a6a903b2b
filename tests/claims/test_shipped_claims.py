"""The rows of this repository stand."""

from __future__ import annotations

import pathlib

import pytest

from mof_jax.claims import rows

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no history to check against")
def test_every_claim_stands():
    assert rows.check(str(ROOT / "docs")) == []
