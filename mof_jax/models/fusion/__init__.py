"""Mixture of Features: how the patches of several encoders become one sequence of tokens; a config names each by `kind`.

    kind           tokens        adapters        source
    single         K             one             -
    additive       K             one, shared     A-MoF: (1 - r)·F₁ + r·F₂, patch by patch (arXiv 2401.06209, §5.1)
    channel        K             one, wider      features side by side (Prismatic, arXiv 2402.07865; Eagle, arXiv 2408.15998)
    interleaved    n·K           one an encoder  I-MoF: token n·k + i is patch k of encoder i (arXiv 2401.06209, §5.2)
"""

from __future__ import annotations

from mof_jax.models.fusion.fusion import Fusion
from mof_jax.registry import Registry

FUSIONS: Registry[Fusion] = Registry(__name__, Fusion, "fusion", default="single")
