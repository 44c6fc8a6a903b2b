"""Mixed hard negatives (arXiv 2010.01028): MoCo without them, what a mixture is, the ring, gradients, devices, resuming."""

from __future__ import annotations

import dataclasses
import pathlib

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_cases import mesh_of

from mof_jax import config as configs
from mof_jax import run, trainer
from mof_jax.errors import Preempted, UserError
from mof_jax.objectives import following_steps
from mof_jax.objectives.loss import Context
from mof_jax.objectives.mochi import Mochi, mixtures_of
from mof_jax.restore import open_checkpoint
from mof_jax.train.reliability.preemption import Preemption

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "papers" / "mochi.py"
ROWS, DIM = 8, 6
PLAIN = Mochi(queue=20, hardest=5, mixed=0, with_query=0)
MIXED = dataclasses.replace(PLAIN, mixed=7, with_query=3)
KEY = jax.random.key(3)


def unit(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((*shape, DIM))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


IMAGE, TEACHER = unit(0, ROWS, 2), unit(1, ROWS, 2)


def own(term: Mochi):
    return term.build(nnx.Rngs(0), {"image": DIM})


def loss(term: Mochi, image=IMAGE, teacher=TEACHER, queue=None, context=Context(key=KEY)):
    with jax.default_matmul_precision("highest"):
        return term.loss(own(term) if queue is None else queue, {"image": image, "teacher/image": teacher}, context)


def textbook(negatives: np.ndarray, temperature: float = 0.2) -> float:
    """InfoNCE of each query, in double precision; `negatives` [rows, m, dim]."""
    q, k = IMAGE[:, 0].astype(np.float64), TEACHER[:, 1].astype(np.float64)
    scores = np.concatenate([(q * k).sum(-1, keepdims=True), np.einsum("rd,rmd->rm", q, negatives)], 1) / temperature
    return float((np.log(np.exp(scores).sum(1)) - scores[:, 0]).sum())


def test_without_mixtures_it_is_moco():
    entries = np.asarray(own(PLAIN).entries[...])
    assert float(loss(PLAIN).sum) == pytest.approx(textbook(np.broadcast_to(entries, (ROWS, *entries.shape))), rel=1e-5)
    assert loss(PLAIN).weight == PLAIN.count({"teacher/image": TEACHER}, Context()) == ROWS
    assert float(loss(MIXED, context=Context()).sum) == pytest.approx(float(loss(PLAIN).sum), rel=1e-6), "in an evaluation"
    late = dataclasses.replace(MIXED, begin=10)
    assert float(loss(late, context=Context(step=9, key=KEY)).sum) == pytest.approx(float(loss(PLAIN).sum), rel=1e-6)
    assert float(loss(late, context=Context(step=10, key=KEY)).sum) > float(loss(PLAIN).sum) + 0.1


def test_mixtures_are_further_negatives():
    entries = np.asarray(own(MIXED).entries[...])
    q = jnp.asarray(IMAGE[:, 0])
    mixtures = np.asarray(mixtures_of(KEY, q, jnp.asarray(entries), q @ entries.T, 5, 7, 3))
    all_of_them = np.concatenate([np.broadcast_to(entries, (ROWS, *entries.shape)), mixtures], 1)
    assert float(loss(MIXED).sum) == pytest.approx(textbook(all_of_them), rel=1e-5)


def test_what_is_mixed():
    """Of the hardest alone; on the arc between two of them, or between one and the query and nearer to the entry."""
    entries, q = unit(5, 30), unit(6, ROWS)
    cosines = q @ entries.T
    mixtures = np.asarray(mixtures_of(KEY, jnp.asarray(q), jnp.asarray(entries), jnp.asarray(cosines), 4, 50, 50))
    np.testing.assert_allclose(np.linalg.norm(mixtures, axis=-1), 1, atol=1e-5)
    hardest = np.argsort(-cosines, 1)[:, :4]
    for row in range(ROWS):
        parents = entries[hardest[row]]
        inside = lambda x, a, b: abs(np.arccos(np.clip(a @ x, -1, 1)) + np.arccos(np.clip(b @ x, -1, 1))
                                     - np.arccos(np.clip(a @ b, -1, 1))) < 5e-3
        assert all(any(inside(x, a, b) for a in parents for b in parents) for x in mixtures[row, :50])
        for x in mixtures[row, 50:]:
            (parent,) = [a for a in parents if inside(x, a, q[row])][:1]
            assert parent @ q[row] - 1e-5 <= x @ q[row] and x @ q[row] <= x @ parent + 1e-5
    assert len(np.unique(mixtures.round(4).reshape(-1, DIM), axis=0)) > 0.9 * mixtures.shape[0] * mixtures.shape[1]


def test_no_gradient_but_the_querys():
    """Nothing through a mixture (its query is a constant there), into the queue, or to the teacher."""
    slopes = jax.grad(lambda image, teacher: loss(MIXED, image, teacher).sum, (0, 1))(jnp.asarray(IMAGE), jnp.asarray(TEACHER))
    assert np.abs(slopes[0][:, 0]).max() > 0.1 and not np.asarray(slopes[0][:, 1]).any() and not np.asarray(slopes[1]).any()
    entries = own(MIXED).entries[...]
    q = jnp.asarray(IMAGE[:, 0])
    fixed = jax.lax.stop_gradient(mixtures_of(KEY, q, entries, q @ entries.T, 5, 7, 3))

    def plain(q):
        positive, mixed = (q * TEACHER[:, 1]).sum(-1, keepdims=True), jnp.einsum("rd,rmd->rm", q, fixed)
        scores = jnp.concatenate([positive, q @ entries.T, mixed], 1)
        return (jax.nn.logsumexp(scores / 0.2, -1) - scores[:, 0] / 0.2).sum()

    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(slopes[0][:, 0], jax.grad(plain)(q), rtol=1e-4, atol=1e-5)


def test_the_ring_keeps_the_newest():
    queue, rows = own(PLAIN), [unit(10 + i, ROWS) for i in range(4)]
    for some in rows:
        moved = queue.take(jnp.asarray(some))
        queue.entries[...], queue.at[...] = moved["entries"], moved["at"]
    newest = np.concatenate(rows)[-20:]
    assert int(queue.at[...]) == 4 * ROWS % 20
    np.testing.assert_array_equal(np.roll(np.asarray(queue.entries[...]), -int(queue.at[...]), 0), newest)
    assert loss(PLAIN, context=Context()).moved == {}, "an evaluation moves nothing"
    assert set(loss(PLAIN).moved) == {"entries", "at"}


def test_devices_change_nothing():
    mesh = mesh_of("4x2")["mesh"]
    both = [jax.jit(lambda image, teacher, context=context: jax.value_and_grad(
        lambda x: loss(MIXED, x, teacher, context=context).sum)(image))(IMAGE, TEACHER)
        for context in (Context(key=KEY), Context(key=KEY, mesh=mesh))]
    assert float(both[0][0]) == pytest.approx(float(both[1][0]), rel=1e-6)
    np.testing.assert_allclose(both[0][1], both[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("values, image, line", [
    (dict(), IMAGE[:, :1], "config.data.views: mochi compares two views"),
    (dict(queue=4, hardest=2), IMAGE, "a queue of 4 for a batch of 8; make it 8 or more"),
])
def test_mistakes(values, image, line):
    with pytest.raises(UserError, match=line):
        loss(dataclasses.replace(PLAIN, **values), image)
    with pytest.raises(ValueError, match=r"hardest: 30 is more than the queue holds \(20\)"):
        Mochi(queue=20, hardest=30)


def small():
    config = configs.load(str(CONFIG))
    config.steps, config.batch_size, config.evals, config.log_every = 6, 16, [], 1
    config.model.image.width = config.model.text.width = config.model.embed_dim = 16
    config.model.image.depth = 1
    config.objective.update(dict(queue=32, hardest=8, begin=2, mixed=8, with_query=4))
    config.optimizer.schedule.warmup = 0
    config.checkpoint = dict(every=3, keep=2)
    return config


def test_stopped_and_gone_on_with_the_queue_is_the_same(tmp_path, monkeypatch):
    """Through the config: the queue fills, and a run that stops at a step in the middle ends with the same one."""
    trainer.train(small(), str(tmp_path / "whole"))
    reached, calls = Preemption.reached, []
    monkeypatch.setattr(Preemption, "reached", lambda self: calls.append(0) or len(calls) == 3 or reached(self))
    with pytest.raises(Preempted):
        trainer.train(small(), str(tmp_path / "stopped"))
    monkeypatch.undo()
    trainer.train(small(), str(tmp_path / "stopped"))
    prints = [open_checkpoint(str(tmp_path / name))[1]["fingerprints"] for name in ("whole", "stopped")]
    queue = {name for name in prints[0] if name.endswith("/entries")}
    assert prints[0] == prints[1] and len(queue) == 1


def test_the_arms_differ_in_their_mixtures_alone():
    resolved = run.resolve(configs.load(str(CONFIG)).to_dict())
    assert following_steps(resolved.objective, resolved.model) == ["model.teacher"], "its momentum reaches 1 at the last step"
    moco, mochi = (run.resolve(configs.load(f"{CONFIG}:arm={arm}").to_dict()).objective for arm in ("moco", "mochi"))
    (moco,), (mochi,) = ((terms.values() if isinstance(terms, dict) else [terms]) for terms in (moco, mochi))
    assert dataclasses.replace(mochi, mixed=0, with_query=0) == moco and (mochi.mixed, mochi.with_query) == (256, 64)
