"""Heads: further features made of a model's own; a config names each by `kind`, `model.heads.NAME = dict(kind=…, reads=…)`."""

from __future__ import annotations

from mof_jax.models.heads.head import Head
from mof_jax.registry import Registry

HEADS: Registry[Head] = Registry(__name__, Head, "head")
