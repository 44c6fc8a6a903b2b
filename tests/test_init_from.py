"""Starting from another run: LiT's frozen tower, and position embeddings at another resolution."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_run

from mof_jax import run, trainer
from mof_jax.errors import UserError
from mof_jax.models.vit import resample_pos_embed
from mof_jax.restore import restore
from mof_jax.train.start import InitConfig, open_checkpoint


def config(**optimizer):
    c = tiny_run.get_config()
    c.steps, c.checkpoint.every, c.compilation_cache = 3, 0, None
    c.optimizer = dict(name="adamw", lr=1e-2, ema=0.5) | optimizer
    return c


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("first"))
    trainer.train(config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def lit(first, tmp_path_factory):
    """A run that takes the image tower and keeps it frozen."""
    workdir = str(tmp_path_factory.mktemp("lit"))
    c = config(freeze=[("image/.*", True)])
    c.init_from = dict(path=first, take=[("image/.*", True), (".*", False)])
    trainer.train(c, workdir)
    return workdir


def test_lit_keeps_the_tower_it_took(first, lit):
    theirs, ours = restore(first, ema=True).params, restore(lit, ema=False).params
    image = [path for path in ours if path.startswith("image/")]
    assert image and all(np.array_equal(ours[path], theirs[path]) for path in image)
    assert not np.array_equal(ours["text/embed"], theirs["text/embed"])


def test_a_frozen_tower_has_no_optimizer_state(lit):
    _, meta, _ = open_checkpoint(lit)
    assert not [name for name in meta["leaves"] if name.startswith(("opt:", "ema:")) and "image/" in name]
    assert [name for name in meta["leaves"] if name.startswith("opt:") and "text/" in name]


def test_a_resumed_run_does_not_start_over(lit, first):
    """`init_from` speaks of new runs only: a finished one keeps its text tower, and says no other than it had unasked."""
    before = restore(lit, ema=False).params["text/embed"]
    c = config(freeze=[("image/.*", True)])
    c.init_from = first
    with pytest.raises(UserError, match="config.init_from.0.take.0.0: .* was trained with 'image/"):
        trainer.train(c, lit)
    trainer.train(c, lit, ["init_from"])
    assert np.array_equal(restore(lit, ema=False).params["text/embed"], before)


def test_another_resolution_resamples_the_positions(first, tmp_path):
    c = config(freeze=[(".*", False)])
    c.model.image.image_size, c.steps = 32, 1
    c.optimizer.lr = 0.0
    c.init_from = dict(path=first)
    trainer.train(c, str(tmp_path))
    small, large = restore(first, ema=True).params, restore(str(tmp_path), ema=False).params
    expected = resample_pos_embed(small["image/pos_embed"], (4, 4))
    np.testing.assert_allclose(large["image/pos_embed"], expected, atol=1e-6)
    np.testing.assert_array_equal(large["text/embed"], small["text/embed"])


def test_a_string_is_the_path(first):
    """`init_from` may be one path, one section, or a list of either."""
    for given in (first, dict(path=first), [first], [dict(path=first)]):
        c = config()
        c.init_from = given
        assert run.resolve(c).init_from == (InitConfig(first),)


def test_what_does_not_fit_is_named(first, tmp_path):
    c = config()
    c.model.text.width, c.init_from = 24, dict(path=first)
    with pytest.raises(UserError, match=r"text/.* is of shape .* here"):
        trainer.train(c, str(tmp_path / "a"))
    c = config()
    c.init_from = dict(path=first, take=[("imge/.*", True)])
    with pytest.raises(UserError, match="matches no parameter"):
        trainer.train(c, str(tmp_path / "b"))
