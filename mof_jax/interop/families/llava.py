"""LLaVA-1.5 (arXiv 2310.03744) as `transformers` stores it: a CLIP tower, an MLP and a language model of Llama's kind.

The tower's last layers are behind the features that the model reads. They are not built here; they travel in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.families import clip, llama
from mof_jax.interop.family import Family, section
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.models.mllm import Mllm, MllmConfig

# (tower, projector, language model, head): the names of the hub's files, of those that the library's fifth version writes, and
# of that version in memory.
_SPELLINGS = (
    ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.model.", "language_model.lm_head."),
    ("vision_tower.", "multi_modal_projector.", "language_model.model.", "language_model.lm_head."),
    ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.", "lm_head."))
_TOWER = r"(model\.)?vision_tower\.(vision_model\.)?"


def table(config: MllmConfig) -> Table:
    name = config.encoders[0].name
    return tuple(link for spelling in _SPELLINGS for link in _table(name, *spelling))


def _table(name: str, tower: str, projector: str, words: str, head: str) -> Table:
    language = lambda theirs, prefix: links.renamed(llama.TABLE, theirs=(theirs, prefix))
    return (
        *links.renamed(clip.TABLE, ("image/", f"encoders/{name}/"), ("vision_model.", tower)),
        *links.linear(f"adapters/{name}/fc1", f"{projector}linear_1"),
        *links.linear(f"adapters/{name}/fc2", f"{projector}linear_2"),
        *language("model.", words), *language("lm_head.", head))


def ignored(config: MllmConfig) -> tuple[Ignored, ...]:
    encoder = config.encoders[0]
    behind = "|".join(str(layer) for layer in range(encoder.tower.depth, encoder.vit.depth))
    above = rf"{_TOWER}(encoder\.layers\.({behind})\..*|post_layernorm\..*)" if behind else rf"{_TOWER}post_layernorm\..*"
    return (Ignored(above, "behind the features that the model reads", keep=True),
            Ignored(rf"{_TOWER}embeddings\.position_ids", "a buffer: 0, 1, 2, …"),
            Ignored(r".*\.rotary_emb\.inv_freq", "a buffer: the rotary frequencies"))


def read(theirs: Mapping[str, Any]) -> MllmConfig:
    vision, text = section(theirs, "vision_config"), section(theirs, "text_config")
    for key, built in (("projector_hidden_act", "gelu"), ("vision_feature_select_strategy", "default")):
        if theirs.get(key, built) != built:
            raise UserError(f"config.json: {key} {theirs[key]!r} is not built here; {built!r} is")
    if vision.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise UserError(f"config.json: a tower of kind {vision['model_type']!r}; LLaVA's is CLIP's here")
    layer = theirs.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise UserError(f"config.json: vision_feature_layer {layer!r}; features of one layer are built here")
    tower = clip.read_vision(vision)
    # Their last hidden state has not seen the final norm.
    encoder = dict(name="clip", vit=tower, layer=layer if layer < 0 else layer - tower["depth"] - 1, norm=False)
    words = llama.read({"model_type": "llama"} | dict(text))
    return configs.build(MllmConfig, dict(encoders=[encoder], llm=configs.to_dict(words)), "config.json")


def write(config: MllmConfig) -> dict[str, Any]:
    if len(config.encoders) != 1:
        raise UserError(f"LLaVA has one encoder, this model {len(config.encoders)}")
    encoder = config.encoders[0]
    return dict(
        model_type="llava", architectures=["LlavaForConditionalGeneration"], vision_config=clip.write_vision(encoder.vit),
        text_config=llama.write(config.llm), vision_feature_layer=encoder.layer, vision_feature_select_strategy="default",
        projector_hidden_act="gelu", image_seq_length=encoder.vit.grid**2)


def normal(config: MllmConfig) -> MllmConfig:
    """Without the parts of the tower that no feature passes through."""
    return configs.build(MllmConfig, configs.to_dict(config) | dict(encoders=[
        configs.to_dict(e) | dict(vit=configs.to_dict(e.tower) | dict(depth=e.vit.depth), norm=e.norm and e.layer == -1)
        for e in config.encoders]), "config")


LLAVA = Family("llava", "mllm", ("llava",), read, write, Mllm, table, ignored, normal=normal)
