"""The stacks of layers of a run's model, and what each works on in a step: what formulas of memory and time are made of."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mof_jax.errors import UserError
from mof_jax.models.llm import LLMConfig
from mof_jax.run import Run
from mof_jax.task import StackInfo


@dataclasses.dataclass(frozen=True)
class Tower:
    """A stack.

    Attributes:
      part: of the model, as `Task.flops` calls it. sequences: a step, on all devices. tokens: of one.
      width, depth, inner: of the residual stream, layers, and channels between the two ends of a layer (queries, keys, values,
        attention's output, the MLP's hidden ones), which the `tensor` axis splits.
      heads: of keys and values; `tensor` must divide them. scores: heads whose scores [tokens, tokens] a layer holds, 0 with a
        kernel that holds none.
      attention: forward FLOPs of one sequence that no weights are in.
      remat: see `nn.stack`. trained: its weights are. through: a gradient runs through it.
    """

    part: str
    sequences: int
    tokens: int
    width: int
    depth: int
    inner: int
    heads: int
    scores: int
    attention: float
    remat: str
    trained: bool
    through: bool

    @property
    def weights(self) -> str:
        """Where the paths of its layers' parameters begin."""
        return f"{self.part}/blocks/"


def towers(run: Run) -> list[Tower]:
    """Those of a run, the ones that work first in front.

    Raises:
      UserError: the task's model has no formula here.
    """
    found = run.task.stacks(run.config.batch_size)
    if not found:
        raise UserError(f"no formula for the memory of task {run.config.task!r}, which names no stacks of layers")
    return [_tower(run, stack) for stack in found]


def microbatches(run: Run) -> int:
    """Into how many parts a step splits its rows."""
    return run.config.microbatches


def _trained(run: Run, prefix: str) -> bool:
    return any(d.trained for path, d in run.decisions.items() if path.startswith(prefix))


def _tower(run: Run, stack: StackInfo) -> Tower:
    c, trained = stack.config, _trained(run, f"{stack.part}/")
    inner, attention = _layer(c, stack.tokens)
    heads = math.gcd(c.heads, getattr(c, "kv_heads", c.heads))
    scores = c.heads if c.kernel == "xla" else 0
    through = trained or any(_trained(run, prefix) for prefix in stack.upstream)
    return Tower(stack.part, stack.sequences, stack.tokens, c.width, c.depth, inner, heads, scores, attention, c.remat, trained,
                 through)


def _layer(c: Any, tokens: int) -> tuple[int, float]:
    """(channels inside of a layer, FLOPs of all layers' attention)."""
    if isinstance(c, LLMConfig):
        return (2 * c.heads + 2 * c.kv_heads) * c.head_dim + 3 * c.mlp_dim, c.attention_flops(tokens)
    mlp = (3 if c.block.swiglu else 2) * c.mlp_dim  # an activation's input and output
    share = 0.5 if c.block.causal else 1.0
    return 4 * c.width + mlp, c.depth * 4.0 * share * tokens**2 * c.width
