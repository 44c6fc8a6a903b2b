"""Every number of a config has a range beside its type, and values outside it are refused by key."""

import dataclasses
import typing

from ml_collections import ConfigDict
import pytest

from launch.job import Job
from mof_jax import config as configs
from mof_jax import run
from mof_jax.errors import UserError
from mof_jax.evals import EVALUATORS
from mof_jax.objectives import OBJECTIVES
from mof_jax.ranges import Count, Grey, NotNegative, PartOf, Positive, Range, Share, Whole
from mof_jax.tasks import TASKS

# Any number will do: places counted from the end, a bias, ids of -1 that a vocabulary fills in.
ANY = {"EncoderConfig.layer", "TwoTowerConfig.logit_bias_init", "TextConfig.eos_id", "TextConfig.pad_id"}


def sections(*roots: type) -> set[type]:
    """Dataclasses that a config is built from, those inside of them too."""
    found: set[type] = set()

    def walk(kind: typing.Any) -> None:
        if typing.get_origin(kind) is typing.Annotated:
            return walk(typing.get_args(kind)[0])
        if dataclasses.is_dataclass(kind) and kind not in found:
            found.add(kind)
            for inner in configs._hints(kind).values():
                walk(inner)
        for inner in typing.get_args(kind):
            walk(inner)

    for root in roots:
        walk(root)
    return found


ALL = sections(run.RunConfig, Job, *EVALUATORS.values(), *OBJECTIVES.values(),
               *(section for kind in TASKS.values() for section in (kind.model, kind.data)))


def bare(kind: typing.Any) -> bool:
    """Whether a type holds a number without a range."""
    if typing.get_origin(kind) is typing.Annotated:
        return not any(isinstance(x, Range) for x in typing.get_args(kind)[1:]) and bare(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return False
    return kind in (int, float) or any(bare(inner) for inner in typing.get_args(kind))


def test_every_number_of_every_section_has_a_range():
    found = {f"{section.__name__}.{name}" for section in ALL for name, kind in configs._hints(section).items() if bare(kind)}
    assert found == ANY


@pytest.mark.parametrize("kind, good, bad", [
    (Count, (1, 2**62), (0, -1)), (Whole, (0, 5), (-1,)), (Positive, (1e-300, 5.0), (0.0, -1.0)),
    (NotNegative, (0.0, 1.0), (-1e-9,)),
    (Share, (0.0, 1.0), (-0.1, 1.1)), (PartOf, (0.0, 0.999), (1.0, 2.0)), (Grey, (0, 255), (-1, 256))])
def test_ranges(kind, good, bad):
    section = dataclasses.make_dataclass("Section", [("x", kind), ("xs", tuple[kind, ...], ()), ("maybe", kind | None, None)])
    for value in good:
        built = configs.build(section, {"x": value, "xs": [value], "maybe": value})
        assert (built.x, built.xs, built.maybe) == (value, (value,), value)
    for value in bad:
        for values, where in (({"x": value}, "x"), ({"x": good[0], "xs": [value]}, "xs.0"),
                              ({"x": good[0], "maybe": value}, "maybe")):
            with pytest.raises(UserError, match=f"config.{where}: {value!r} is not (at least|above|at most|below) "):
                configs.build(section, values)


@pytest.mark.parametrize("change", [
    "batch_size=0", "batch_size=-8", "steps=-1", "seed=-1", "log_every=0", "eval_batch_size=0",
    "eval_every=-1", "optimizer.lr=-1", "optimizer.lr=1e999", "optimizer.ema=2", "optimizer.ema=1",
    "optimizer.weight_decay=-0.1", "optimizer.b1=1", "optimizer.b2=-0.1", "optimizer.grad_clip=0", "optimizer.eps=-1",
    "optimizer.schedule.warmup=-10", "optimizer.schedule.cooldown=-1", "optimizer.schedule.timescale=0",
    "optimizer.schedule.final=2", "checkpoint.keep=0", "checkpoint.every=-1", "checkpoint.at=[0]",
    "checkpoint.keep_every=0", "watchdog.dump=-1", "spikes.window=7", "spikes.back=0", "mesh.data=-2",
    "hardware.mfu=0", "hardware.price=-1", "objective.label_smoothing=1", "objective.block_size=0",
    "microbatches=0", "model.max_logit_scale=0.5", "data.threads=-1", "data.prefetch=0", "data.chunk=0",
    "data.image_size=0", "data.cache_gb=-1", "data.augment.flip=1.5", "data.augment.fill=300",
    "data.sources.0.weight=-1", "data.sources.0.skip=-1", "tokenizer.vocab_size=0", "tokenizer.context_length=0",
    "model.image.width=-8", "model.image.dropout=1", "model.image.norm_eps=-1", "model.text.dropout=-0.1",
    "model.logit_scale_init=0", "profile=(0,1)"])
def test_values_outside_are_refused_by_key(change):
    base = ConfigDict(dict(steps=4, data=dict(sources=[dict(kind="emoji5")]), model=dict(
        embed_dim=8, image=dict(width=8, depth=1, heads=1, patch_size=8, image_size=8), text=dict(width=8, depth=1, heads=1))))
    run.resolve(base)
    key = change.partition("=")[0]
    section, _, name = key.rpartition(".")
    with pytest.raises(UserError, match=f"config.{key}|config.{section or 'profile'}[.:] ?.*{name}"):
        run.resolve(configs.override(base, [change]))
