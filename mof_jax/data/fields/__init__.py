"""What a batch is made of: named fields; a config names each by `kind`."""

from __future__ import annotations

from mof_jax.data.fields.field import Field
from mof_jax.registry import Registry

FIELDS: Registry[Field] = Registry(__name__, Field, "field")
