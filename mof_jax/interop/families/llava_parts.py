"""What LLaVA's own code saves, the released Interleaved-MoF too (arXiv 2401.06209): a language model and projectors, no towers.

    model.mm_projector.{0,2} ─▶ adapters/clip/{fc1,fc2}        model.dino_mm_projector.{0,2} ─▶ adapters/dino/{fc1,fc2}

Both projectors are matched by their whole names: code that looks for names which contain `mm_projector` finds DINOv2's, too, and
starts CLIP's from it. A run takes the parts with `init_from`; the towers come from their own models.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.families import llama
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import Values
from mof_jax.interop.weights import Weights
from mof_jax.models.connectors.projector import MlpConnector
from mof_jax.models.llm import LLM, LLMConfig
from mof_jax.parsing import show

_PROJECTORS = {"clip": "model.mm_projector", "dino": "model.dino_mm_projector"}


@dataclasses.dataclass(frozen=True)
class PartsConfig:
    """A language model, and adapters for encoders of these names and this width."""

    llm: LLMConfig
    adapters: tuple[str, ...] = ("clip",)
    width: int = 1024


class Parts(nnx.Module):
    """`adapters/<name>/…` and `llm/…`, as in a whole model."""

    def __init__(self, config: PartsConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.adapters = nnx.Dict({
            name: MlpConnector().build(rngs, 1, c.width, c.llm.width) for name in c.adapters})
        self.llm = LLM(c.llm, rngs)


TABLE: Table = (
    *llama.TABLE,
    *(link for ours, theirs in _PROJECTORS.items() for fc, number in (("fc1", 0), ("fc2", 2))
      for link in links.linear(f"adapters/{ours}/{fc}", f"{theirs}.{number}")))

_TOWERS = Ignored(r"model\.(vision|dino)_tower\..*", "a tower: take it from its own model")
_FREQUENCIES = Ignored(r".*\.rotary_emb\.inv_freq", "a buffer: the rotary frequencies")


# Of the whole model (its tower, its pictures, its words) and of how it was trained; a run's own config says these.
_WHOLE = "(mm|dino|tune|freeze|unfreeze|image|pretrain|use_mm|tokenizer)_.*|max_sequence_length"


def read(theirs: Mapping[str, Any] | Values) -> PartsConfig:
    values = Values.of(theirs)
    values.choice("mm_projector_type", "linear", {"mlp2x_gelu": None})
    width = values.count("mm_hidden_size", 1024)
    words = llama.read_words(values, "llama")
    values.free_like(_WHOLE)
    values.close()
    return configs.build(PartsConfig, dict(llm=configs.to_dict(words), width=width), values.where)


def notes(theirs: Mapping[str, Any]) -> list[str]:
    """What a config has to say so that the whole is the model they come from."""
    said = {key: theirs[key] for key in ("mm_vision_select_layer", "mm_vision_select_feature", "image_aspect_ratio",
                                         "mm_use_im_start_end", "mm_use_im_patch_token", "mm_patch_merge_type") if key in theirs}
    shown = ", ".join(f"{key} {show(value)}" for key, value in said.items())
    return [f"its whole model was made with {shown}; a config that takes the parts has to say the same"] if said else []


def settle(config: PartsConfig, weights: Weights) -> PartsConfig:
    """The config file does not say how many projectors there are."""
    return dataclasses.replace(config, adapters=tuple(
        ours for ours, theirs in _PROJECTORS.items() if f"{theirs}.0.weight" in weights))


def write(config: PartsConfig) -> dict[str, Any]:
    raise UserError("LLaVA's own format is read here and not written; export a whole model as 'llava'")


LLAVA_PARTS = Family("llava_parts", "parts", (), read, write, Parts, lambda config: TABLE, lambda config: (_TOWERS, _FREQUENCIES),
                     settle=settle, notes=notes)
