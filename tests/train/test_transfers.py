"""Nothing moves between host and devices inside a step."""

from __future__ import annotations

import pytest
import tiny_run

from mof_jax import trainer


def test_a_step_that_has_to_fetch_its_batch_is_refused(monkeypatch, tmp_path):
    """A batch that stayed on the host would be copied in every step, unseen but for the time that it takes."""
    config = tiny_run.get_config()
    config.steps, config.checkpoint.every = 2, 0
    monkeypatch.setattr(trainer, "put_batch", lambda mesh, batch: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        trainer.train(config, str(tmp_path))
