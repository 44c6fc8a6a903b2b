"""What a plan compiles is what training runs."""

from __future__ import annotations

import math

import jax
import pytest
from run_samples import ROOT  # noqa: F401  tests/ on the path
import tiny_dino
import tiny_mllm
import tiny_run

from mof_jax import run, trainer
from mof_jax.data.text.tokenizers import make as make_tokenizer
from mof_jax.mesh import batch_shards, make_mesh, put_batch
from mof_jax.plan import collectives, program
from mof_jax.plan.program import Memory
from mof_jax.run import Program, Run
from mof_jax.tasks import TASKS

CONFIGS = {"contrastive": tiny_run, "mllm": tiny_mllm, "dino": tiny_dino}


def resolved(kind: str, **changes):
    c = CONFIGS[kind].get_config()
    c.update(changes)
    return run.resolve(c)


def pipeline(config, tokenizer):
    return TASKS[config.task].pipeline(config.data, tokenizer, config.batch_size, config.seed)


def tokenizer_of(config):
    return None if TASKS[config.task].texts is None else trainer.first_tokenizer(config)


@pytest.mark.parametrize("kind", CONFIGS)
def test_batches_have_the_shapes_that_are_planned_for(kind):
    config = resolved(kind)
    tokenizer = tokenizer_of(config)
    found = pipeline(config, tokenizer).batch(0)
    context = 0 if tokenizer is None else tokenizer.context_length
    planned = TASKS[config.task].pipeline.shapes(config.data, config.batch_size, context)
    assert {k: (x.shape, x.dtype) for k, x in found.items()} == {k: (x.shape, x.dtype) for k, x in planned.items()}


def analysed(lowered):
    compiled = lowered.compile()
    m = compiled.memory_analysis()
    sent = [(c.kind, c.times, c.bytes, None if c.groups is None else c.groups.tolist())
            for c in collectives.read(compiled.as_text(), 8)]
    return Memory(m.argument_size_in_bytes, m.output_size_in_bytes, m.alias_size_in_bytes, m.temp_size_in_bytes), sorted(sent)


@pytest.fixture(scope="module")
def planned():
    """The two-tower run on data 2 × fsdp 2 × tensor 2."""
    config = resolved("contrastive", mesh=dict(data=2, fsdp=2, tensor=2))
    return config, *program.lower(config, make_mesh(config.mesh))


def test_a_plan_and_a_run_compile_the_same_program(planned):
    """From shapes alone, and from a real state and batch on eight devices: the same memory, the same collectives."""
    config, _, _, lowered = planned
    tokenizer = make_tokenizer(config.tokenizer, TASKS["contrastive"].texts(config.data, config.tokenizer.records))
    real = Run(config, tokenizer)
    if tokenizer.vocab_size != program.vocabulary(config).vocab_size:
        pytest.fail("the vocabulary that was trained has another size than the planned one")
    step = Program.of(real)
    state = jax.jit(step.init, out_shardings=step.shardings)(jax.random.key(0))
    batch = put_batch(real.mesh, pipeline(config, tokenizer).batch(0))
    assert analysed(step.step.lower(state, batch)) == analysed(lowered)


def test_the_state_takes_the_bytes_that_shapes_say(planned):
    config, planned_run, step, lowered = planned
    memory, _ = analysed(lowered)
    size = lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
    state = sum(map(size, jax.tree.leaves(step.state), jax.tree.leaves(step.shardings)))
    batch = TASKS["contrastive"].pipeline.shapes(config.data, config.batch_size, config.tokenizer.resolved().context_length)
    rows = sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) / batch_shards(planned_run.mesh)
    assert memory.arguments == state + rows
    assert memory.used == memory.arguments + memory.outputs - memory.aliased + memory.temporaries
    assert memory.aliased <= memory.outputs
