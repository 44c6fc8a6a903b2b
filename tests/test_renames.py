"""Old names of config keys: translated wherever they stand, told, and never guessed at."""

from __future__ import annotations

import ml_collections
import pytest

from mof_jax import config as configs
from mof_jax import renames, run
from mof_jax.errors import UserError

OLD = dict(task="contrastive", objective=dict(
    loss="sigmoid", label_smoothing=0.0, microbatches=4, strip=64, max_logit_scale=None))


def test_every_old_key_is_what_it_is_called_now():
    told = []
    found = renames.translate(OLD, told.append)
    assert found["objective"] == dict(kind="sigmoid", block_size=64)
    assert found["microbatches"] == 4 and found["model"] == dict(max_logit_scale=None)
    assert OLD["objective"]["loss"] == "sigmoid", "what was given stays as it was"
    assert told == ["config.objective.loss is called config.objective.kind now",
                    "config.objective.microbatches is called config.microbatches now",
                    "config.objective.max_logit_scale is called config.model.max_logit_scale now",
                    "config.objective.strip is called config.objective.block_size now"]
    assert renames.translate(found, told.append) == found and len(told) == 4
    staged = renames.translate(dict(stages=[dict(OLD, name="a")]))
    assert staged["stages"][0] == dict(found, name="a")


def test_both_names_are_refused_unless_they_agree():
    with pytest.raises(UserError, match="config.objective.loss is called config.objective.kind now, and both are there"):
        renames.translate(dict(objective=dict(loss="sigmoid", kind="softmax")))
    assert renames.translate(dict(objective=dict(loss="dcl", kind="dcl"))) == dict(objective=dict(kind="dcl"))


def test_what_a_loss_never_used_is_dropped_only_where_it_did_nothing():
    objective = lambda **values: renames.translate(dict(objective=values))["objective"]
    assert objective(kind="dcl", label_smoothing=0.0) == dict(kind="dcl")
    assert objective(kind="dcl", label_smoothing=0.1) == dict(kind="dcl", label_smoothing=0.1), "and then refused by name"
    assert objective(kind="decoupled", multi_positive=True) == dict(kind="decoupled")
    assert objective(kind="softmax", label_smoothing=0.0) == dict(kind="softmax", label_smoothing=0.0)


def test_what_a_connector_or_a_fusion_never_used_is_dropped_only_where_it_did_nothing():
    """What every kind's section was written out with before kinds had keys of their own."""
    written = dict(connector=dict(kind="mlp", tokens=None, width=0, depth=0, heads=16),
                   fusion=dict(kind="interleaved", ssl_ratio=0.5, normalise="none"))
    assert renames.translate(dict(model=written))["model"] == dict(connector=dict(kind="mlp"), fusion=dict(kind="interleaved"))
    used = dict(connector=dict(kind="attention", tokens=4, width=0, depth=1, heads=16),
                fusion=dict(kind="additive", ssl_ratio=0.5, normalise="none"))
    assert renames.translate(dict(model=used))["model"] == used
    pooled = renames.translate(dict(model=dict(connector=dict(kind="c_abstractor", tokens=4, width=8, depth=1, heads=16))))
    assert pooled["model"]["connector"] == dict(kind="c_abstractor", tokens=4, width=8, depth=1)
    meant = dict(fusion=dict(kind="single", ssl_ratio=0.7))
    assert renames.translate(dict(model=meant))["model"] == meant, "and then refused by name"


def test_files_and_overrides_say_old_names(capsys):
    """An override wins over the file, under whichever name either says it."""
    for given in (dict(OLD), dict(task="contrastive", objective=dict(kind="softmax"), microbatches=1)):
        renames._TOLD.clear()
        found = configs.override(ml_collections.ConfigDict(given), ["objective.loss=dcl", "objective.microbatches=8"])
        assert (found.objective.kind, found.microbatches) == ("dcl", 8)
        assert "config.objective.loss is called config.objective.kind now" in capsys.readouterr().out
    staged = configs.override(ml_collections.ConfigDict(dict(stages=[dict(OLD)])), ["stages.0.objective.loss=dcl"])
    assert staged.stages[0]["objective"]["kind"] == "dcl"
    assert renames.key("stages.3.objective.loss") == "stages.3.objective.kind" and renames.key("steps") == "steps"


def test_an_unknown_key_of_another_kind_is_refused_with_the_nearest():
    base = dict(model=dict(image=dict(variant="Ti/16", embed_dim=8), text=dict(variant="Ti", embed_dim=8)), steps=1)
    with pytest.raises(UserError, match="config.objective.label_smoothing: unknown key"):
        run.resolve(dict(base, objective=dict(kind="sigmoid", label_smoothing=0.1)))
    with pytest.raises(UserError, match="config.objective.kind: unknown objective kind 'sigmoit'.*sigmoid"):
        run.resolve(dict(base, objective=dict(kind="sigmoit")))
    with pytest.raises(UserError, match="config.objective.clip.strop: unknown key"):
        run.resolve(dict(base, objective=dict(clip=dict(kind="softmax", strop=1))))
    with pytest.raises(UserError, match="config.objective: every term has weight 0"):
        run.resolve(dict(base, objective=dict(kind="softmax", weight=0.0)))
    ramp = dict(start=0.0, end=1.0, steps=5)
    two = run.resolve(dict(base, objective=dict(a=dict(kind="softmax"), b=dict(kind="sigmoid", weight=ramp))))
    assert list(two.objective) == ["a", "b"] and two.objective["b"].weight.steps == 5
    again = run.resolve(configs.to_dict(two))
    assert again.objective == two.objective, "what a checkpoint holds says the same"
