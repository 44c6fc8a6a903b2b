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
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import Values
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


# What the library takes for a tower that its section leaves out: the large one, of 336 pixels.
_TOWER_DEFAULTS = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
                       image_size=336)


def read(theirs: Mapping[str, Any] | Values) -> MllmConfig:
    values = Values.of(theirs)
    values.only("projector_hidden_act", "gelu")
    values.only("vision_feature_select_strategy", "default")
    values.only("multimodal_projector_bias", True)
    # The id of an image token and how many stand for a picture are the words' affair: our sequences say both themselves.
    values.free("image_token_index", "image_token_id", "image_seq_length", "ignore_index", "vocab_size")
    values.transformers()
    vision, text = values.section("vision_config"), values.section("text_config")
    if values.get("vision_config") is None:
        vision = values.inside("vision_config", _TOWER_DEFAULTS)
    vision.only("model_type", "clip_vision_model")
    tower = clip.read_vision(vision)
    layer = values.get("vision_feature_layer", -2)
    if isinstance(layer, bool) or not isinstance(layer, int) or not -tower["depth"] <= layer <= tower["depth"] or layer == 0:
        raise values.wrong("vision_feature_layer", f"is not built here; features of one of {tower['depth']} layers are")
    # Their last hidden state has not seen the final norm.
    encoder = dict(name="clip", vit=tower, layer=layer if layer < 0 else layer - tower["depth"] - 1, norm=False)
    words = llama.read_words(text, text.choice("model_type", "llama", {kind: kind for kind in llama.KINDS}))
    if values.flag("tie_word_embeddings", words.tied) and not words.tied:
        raise values.wrong("tie_word_embeddings", "goes against text_config's; the head is either the embedding or not")
    values.close()
    return configs.build(MllmConfig, dict(encoders=[encoder], llm=configs.to_dict(words)), values.where)


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
