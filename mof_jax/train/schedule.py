"""Learning-rate schedules as a share of the peak."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.ranges import Count, Share, Whole


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then a shape.

    Attributes:
      kind: `cosine`; `rsqrt` (arXiv 2106.04560: √(t₀/(t₀+t)), with a linear cooldown); `wsd` (constant, then a linear
        cooldown); `constant`.
      warmup: steps of linear warm-up from 0.
      cooldown: steps of the linear cooldown at the end (`rsqrt`, `wsd`).
      timescale: t₀ of `rsqrt`, in steps.
      final: share of the peak at the last step.
    """

    kind: Literal["cosine", "rsqrt", "wsd", "constant"] = "cosine"
    warmup: Whole = 0
    cooldown: Whole = 0
    timescale: Count = 10_000
    final: Share = 0.0


def make_schedule(config: ScheduleConfig, steps: int) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Step (from 0) -> share of the peak learning rate, in float32."""
    if config.warmup + config.cooldown > steps:
        raise ValueError(f"warmup {config.warmup} + cooldown {config.cooldown} exceed {steps} steps")

    def schedule(step: Int[Array, ""]) -> Float[Array, ""]:
        t = jnp.asarray(step, jnp.float32)
        after = t - config.warmup
        if config.kind == "cosine":
            done = jnp.clip(after / max(1, steps - config.warmup), 0.0, 1.0)
            share = config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        elif config.kind == "rsqrt":
            share = jnp.sqrt(config.timescale / (config.timescale + jnp.maximum(after, 0.0)))
        else:
            share = jnp.ones_like(t)
        if config.cooldown and config.kind in ("rsqrt", "wsd"):
            left = jnp.clip((steps - t) / config.cooldown, 0.0, 1.0)
            share = share * (config.final + (1 - config.final) * left)
        if config.warmup:
            share = share * jnp.minimum(1.0, (t + 1) / config.warmup)
        return share

    return schedule
