"""Connectors: from a grid of vision features to the tokens that a language model reads; a config names each by `kind`.

    patches [B, L, C] ─ pool to k tokens? ─▶ [B, k, ·] ─ project ─▶ [B, k, d_llm]

`linear` and `mlp` keep every patch (LLaVA, LLaVA-1.5); `average`, `attention` and `c_abstractor` are MM1's three families
(arXiv 2403.09611, §3.1), the last as Honeybee defines it (arXiv 2312.06742).
"""

from __future__ import annotations

from mof_jax.models.connectors.connector import Connector
from mof_jax.registry import Registry

CONNECTORS: Registry[Connector] = Registry(__name__, Connector, "connector", default="mlp")
