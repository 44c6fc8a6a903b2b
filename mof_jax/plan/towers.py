"""The stacks of layers of a run's model, and what each works on in a step: what formulas of memory and time are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any

from mof_jax.errors import UserError
from mof_jax.models.llm import LLMConfig
from mof_jax.models.text import TextConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.run import Run


@dataclasses.dataclass(frozen=True)
class Tower:
    """A stack.

    Attributes:
      part: of the model, as `Task.flops` calls it. sequences: a step, on all devices. tokens: of one.
      width, depth, inner: of the residual stream, layers, and channels between the two ends of a layer (queries, keys, values,
        attention's output, the MLP's hidden ones), which the `tensor` axis splits.
      heads: of keys and values; `tensor` must divide them. scores: heads whose scores [tokens, tokens] a layer holds, 0 with a
        kernel that holds none.
      attention: forward FLOPs of one sequence that no weights are in.
      remat: see `nn.stack`. trained: its weights are. through: a gradient runs through it.
    """

    part: str
    sequences: int
    tokens: int
    width: int
    depth: int
    inner: int
    heads: int
    scores: int
    attention: float
    remat: str
    trained: bool
    through: bool

    @property
    def weights(self) -> str:
        """Where the paths of its layers' parameters begin."""
        return f"{self.part}/blocks/"


def towers(run: Run) -> list[Tower]:
    """Those of a run, the ones that work first in front.

    Raises:
      UserError: the task's model has no formula here.
    """
    kinds: dict[str, Callable[[Run], Iterator[Tower]]] = {"contrastive": _contrastive, "mllm": _mllm, "mae": _mae, "dino": _dino}
    if run.config.task not in kinds:
        raise UserError(f"no formula for the memory of task {run.config.task!r}; it has {', '.join(kinds)}")
    return list(kinds[run.config.task](run))


def microbatches(run: Run) -> int:
    """Into how many parts a step splits its rows."""
    return run.config.microbatches


def _trained(run: Run, prefix: str) -> bool:
    return any(d.trained for path, d in run.decisions.items() if path.startswith(prefix))


def _contrastive(run: Run) -> Iterator[Tower]:
    model, data, rows = run.task.model, run.config.data, run.config.batch_size
    if not isinstance(model.image, ViTConfig):
        raise UserError(f"no formula for the memory of an image tower of kind {model.image.kind!r}")
    kept = max(1, round(model.image.grid**2 * (1 - model.image.patch_dropout)))
    yield _tower(run, "image", model.image, rows * data.views, kept + model.image.prefix)
    yield _tower(run, "text", model.text, rows * data.captions, model.text.context_length)


def _mllm(run: Run) -> Iterator[Tower]:
    model, data, rows = run.task.model, run.config.data, run.config.batch_size
    for encoder in model.encoders:
        pictures = rows // data.rows_per_stream * data.images_per_stream
        yield _tower(run, f"encoders/{encoder.name}", encoder.tower, pictures, encoder.tower.grid**2 + encoder.tower.prefix)
    upstream = any(map(lambda part: _trained(run, part), ("encoders/", "adapters/")))
    yield _tower(run, "llm", model.llm, rows, data.context_length, upstream)


def _mae(run: Run) -> Iterator[Tower]:
    model, e, pictures = run.task.model, run.task.model.encoder, run.config.batch_size * run.config.data.views
    yield _tower(run, "encoder", e, pictures, model.kept + e.prefix)
    decoder = dataclasses.replace(e, variant=None, width=model.decoder_width, depth=model.decoder_depth,
                                  heads=model.decoder_heads, mlp_dim=model.decoder.mlp_dim)
    yield _tower(run, "decoder", decoder, pictures, e.grid**2 + e.prefix, _trained(run, "encoder/"))


def _dino(run: Run) -> Iterator[Tower]:
    e, data, rows = run.task.model.encoder, run.config.data, run.config.batch_size
    large, kept = e.grid**2, 1 - e.patch_dropout
    yield _tower(run, "teacher/encoder", e, rows * data.views, large + e.prefix)
    yield _tower(run, "student/encoder", e, rows * data.views, max(1, round(large * kept)) + e.prefix)
    if data.local:
        small = (data.local.image_size // e.patch_size) ** 2
        yield _tower(run, "student/encoder", e, rows * data.local.views, max(1, round(small * kept)) + e.prefix)


def _tower(run: Run, part: str, config: ViTConfig | TextConfig | LLMConfig, sequences: int, tokens: int,
           upstream: bool = False) -> Tower:
    trained = _trained(run, f"{part}/")
    inner, attention = _layer(config, tokens)
    heads = math.gcd(config.heads, getattr(config, "kv_heads", config.heads))
    scores = config.heads if config.kernel == "xla" else 0
    return Tower(part, sequences, tokens, config.width, config.depth, inner, heads, scores, attention, config.remat, trained,
                 trained or upstream)


def _layer(c: Any, tokens: int) -> tuple[int, float]:
    """(channels inside of a layer, FLOPs of all layers' attention)."""
    if isinstance(c, LLMConfig):
        return (2 * c.heads + 2 * c.kv_heads) * c.head_dim + 3 * c.mlp_dim, c.attention_flops(tokens)
    mlp = (3 if c.block.swiglu else 2) * c.mlp_dim  # an activation's input and output
    share = 0.5 if c.block.causal else 1.0
    return 4 * c.width + mlp, c.depth * 4.0 * share * tokens**2 * c.width
