"""BERT (arXiv 1810.04805) as `transformers` stores it: a text tower. A sentence is the mean of its tokens, or what the files of
sentence-transformers beside it say (see `interop.sentences`); the pooler and the heads of its pretraining are left aside.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.families.clip import shape_of, their_shape
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.sentences import POOLS
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import MOST_WORDS, Values
from mof_jax.models.tower import Words, WordsConfig


def _table(prefix: str) -> Table:
    ours, layer, embed = "text/blocks/layers", f"{prefix}encoder.layer.{{}}", f"{prefix}embeddings"
    return (
        *links.plain("text/embed", f"{embed}.word_embeddings.weight"),
        *links.plain("text/pos_embed", f"{embed}.position_embeddings.weight"),
        *links.plain("text/type_embed", f"{embed}.token_type_embeddings.weight"),
        *links.norm("text/embed_norm", f"{embed}.LayerNorm"),
        *links.separate(f"{ours}/attn", [f"{layer}.attention.self.{x}" for x in ("query", "key", "value")],
                        f"{layer}.attention.output.dense"),
        *links.norm(f"{ours}/norm1", f"{layer}.attention.output.LayerNorm"),
        *links.linear(f"{ours}/mlp/up", f"{layer}.intermediate.dense"),
        *links.linear(f"{ours}/mlp/down", f"{layer}.output.dense"), *links.norm(f"{ours}/norm2", f"{layer}.output.LayerNorm"))


# A bare model, and one with a head.
TABLE: Table = (*_table(""), *_table("bert."))

_BESIDE = (
    Ignored(r"(bert\.)?embeddings\.position_ids", "a buffer: 0, 1, 2, …"),
    Ignored(r"(bert\.)?pooler\..*", "the pooler: it is behind the features", keep=True),
    Ignored(r"(cls|classifier)\..*", "a head: it is behind the features", keep=True))


def read(theirs: Mapping[str, Any] | Values) -> WordsConfig:
    values = Values.of(theirs)
    values.only("position_embedding_type", "absolute")
    values.free("classifier_dropout")
    values.free_like("pooler_.*|directionality")  # of the pooler, and of the first code's own
    vocabulary = values.count("vocab_size", 30522, most=MOST_WORDS)
    # What a tokenizer beside the model pads with goes before it: that is what its mask is made of.
    pad = values.count("pad_token_id", 0, least=0, most=vocabulary - 1) if values.get("pad_token_id", 0) is not None else 0
    text = shape_of(values, 768, 12, 12, 3072, 1e-12, "gelu") | dict(
        vocab_size=vocabulary, context_length=values.count("max_position_embeddings", 512),
        token_types=values.count("type_vocab_size", 2), pad_id=pad, causal=False, mask_padding=True, pool="gap", post_norm=True)
    values.close()
    return configs.build(WordsConfig, dict(text=text), values.where)


def write(config: WordsConfig) -> dict[str, Any]:
    text = config.text
    return their_shape(text) | dict(
        model_type="bert", architectures=["BertModel"], vocab_size=text.vocab_size, max_position_embeddings=text.context_length,
        type_vocab_size=text.token_types)  # padding is the tokenizer's affair, in its own files


def normal(config: WordsConfig) -> WordsConfig:
    """Without the way of pooling, which stands in files of its own."""
    pool = "gap" if config.text.pool in POOLS else config.text.pool
    return dataclasses.replace(config, text=dataclasses.replace(config.text, pool=pool))


BERT = Family("bert", "words", ("bert",), read, write, Words, lambda config: TABLE, lambda config: _BESIDE, normal=normal)
