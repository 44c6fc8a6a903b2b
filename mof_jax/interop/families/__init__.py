"""Every family by name: the one registry of foreign formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax.errors import UserError
from mof_jax.interop.families.bert import BERT
from mof_jax.interop.families.clip import CLIP
from mof_jax.interop.families.dinov2 import DINOV2
from mof_jax.interop.families.efficientnet import EFFICIENTNET
from mof_jax.interop.families.llama import LLAMA
from mof_jax.interop.families.llava import LLAVA
from mof_jax.interop.families.llava_parts import LLAVA_PARTS
from mof_jax.interop.families.open_clip import OPEN_CLIP
from mof_jax.interop.families.siglip import SIGLIP
from mof_jax.interop.families.timm import TIMM
from mof_jax.interop.families.vit import VIT
from mof_jax.interop.family import Family
from mof_jax.interop.weights import Weights
from mof_jax.parsing import show

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (CLIP, OPEN_CLIP, SIGLIP, DINOV2, VIT, TIMM, EFFICIENTNET, BERT, LLAMA, LLAVA, LLAVA_PARTS)}


def family_of(theirs: Mapping[str, Any], where: str) -> Family:
    """The family that reads a config.json.

    Raises:
      UserError: none does.
    """
    if "mm_vision_tower" in theirs:  # its model_type is that of the whole model, or the language model's
        return LLAVA_PARTS
    if "architecture" in theirs and "model_type" not in theirs:
        return TIMM
    kind = theirs.get("model_type")
    known = {kind: family for family in FAMILIES.values() for kind in family.model_types}
    if not isinstance(kind, str) or kind not in known:  # without a guess: the nearest name is another model
        raise UserError(f"{where}: model_type {show(kind)} is not read here; {', '.join(sorted(known))} are")
    return known[kind]


def recognise(weights: Weights) -> tuple[Family, dict[str, Any]] | None:
    """The family of weights that came without a config.json, and the config that they imply."""
    found = ((family, family.recognise(weights)) for family in FAMILIES.values())
    return next(((family, theirs) for family, theirs in found if theirs is not None), None)
