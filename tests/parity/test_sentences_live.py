"""A BERT as sentence-transformers runs it: pooled as its files say, over the tokens that its tokenizer does not pad with."""

from __future__ import annotations

import json

import foreign
import jax
import numpy as np
from parity_cases import CONTEXT, VOCAB
from parity_torch import randomise
import parity_transformers
import pytest
import torch
import transformers

from mof_jax import convert
from mof_jax.interop.source import Source
from mof_jax.nn.module import Skeleton

pytestmark = pytest.mark.parity
TEXTS = ["w1 w2 w3", "w9", "w30 w31 w32 w33 w34 w35 w36 w37 w38", ""]
WAYS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


def pooled(way: str, hidden: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """As that library's Pooling and Normalize do."""
    weight = mask[..., None].to(hidden.dtype)
    found = {"cls_token": lambda: hidden[:, 0], "mean_tokens": lambda: (hidden * weight).sum(1) / weight.sum(1),
             "mean_sqrt_len_tokens": lambda: (hidden * weight).sum(1) / weight.sum(1).sqrt(),
             "max_tokens": lambda: hidden.masked_fill(weight == 0, float("-inf")).max(1).values}[way]()
    return torch.nn.functional.normalize(found, dim=-1).numpy()


@pytest.mark.parametrize("way", WAYS)
def test_pooling_and_padding(way, tmp_path):
    """Padded with another id than config.json's, and there and back."""
    model = randomise(parity_transformers.MODELS["bert"](), seed=4)
    assert model.config.pad_token_id == VOCAB - 1
    model.save_pretrained(tmp_path / "hf")
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=foreign.vocabulary(), pad_token="w7", eos_token="</s>",
                                                 model_max_length=CONTEXT)
    words.save_pretrained(tmp_path / "hf")
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    (tmp_path / "hf" / "modules.json").write_text(json.dumps(
        [dict(idx=i, name=str(i), path=path, type=f"sentence_transformers.models.{kind}")
         for i, (kind, path) in enumerate(kinds)]))
    (tmp_path / "hf" / "1_Pooling").mkdir()
    (tmp_path / "hf" / "1_Pooling" / "config.json").write_text(json.dumps(
        {"word_embedding_dimension": foreign.WIDTH} | {f"pooling_mode_{other}": other == way for other in WAYS}))
    convert.convert(f"hf:{tmp_path}/hf", str(tmp_path / "ours"))
    convert.convert(str(tmp_path / "ours"), f"hf:{tmp_path}/back")
    given = words(TEXTS, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    mask = given["attention_mask"]
    with torch.no_grad():
        want = pooled(way, model(input_ids=given["input_ids"], attention_mask=mask).last_hidden_state, mask)
    for name in ("hf", "back"):
        source = Source.open(f"hf:{tmp_path}/{name}")
        skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
        ours = skeleton.merge({path: source.reading.read(path) for path in source.reading.paths})
        with jax.default_matmul_precision("highest"):
            got = np.asarray(ours.embed_text(source.tokenizer(TEXTS)))
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), name
    others = [pooled(other, model(**given).last_hidden_state.detach(), mask) for other in WAYS[:3]]
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(others, others[1:])), "ways that give the same prove nothing"
