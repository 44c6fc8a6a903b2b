"""Whether weights taken over compute here what they computed where they come from.

Shapes do not tell an activation, an epsilon, the number of heads or the normalisation of pixels: with a wrong one a model
loads without a word and is a few points worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from typing import Any

from flax import nnx

# Fields of any module's config that change what given weights compute.
FIELDS = ("activation", "heads", "kv_heads", "head_dim", "norm_eps", "causal", "swiglu", "qk_norm", "rope_theta", "window",
          "mean", "std", "post_norm", "norm_after_pool", "width_factor", "pool")


def settings(build: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, Any]:
    """The configs of a model's modules by path, `image/blocks/layers`, without computing a parameter."""
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    found = {"/".join(map(str, path)): getattr(module, "config", None) for path, module in nnx.iter_modules(model)}
    return {path: config for path, config in found.items() if dataclasses.is_dataclass(config)}


def disagreements(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], taken: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str, Any, Any]]:
    """(our module, field, our value, theirs) for the modules whose parameters are taken, each once.

    Args:
      ours, theirs: `settings` of both models.
      taken: (our path, their path) of each parameter.
    """
    done: set[str] = set()
    for path, other in taken:
        parts, others = path.split("/"), other.split("/")
        for cut in range(1, min(len(parts), len(others)) + 1):
            if parts[-cut:] != others[-cut:]:
                break
            module, their_module = "/".join(parts[:-cut]), "/".join(others[:-cut])
            mine, given = ours.get(module), theirs.get(their_module)
            if module in done or type(mine) is not type(given) or mine is None:
                continue
            done.add(module)
            for field in FIELDS:
                have, want = getattr(mine, field, None), getattr(given, field, None)
                if field == "pool" and have == "none":
                    continue  # its tokens are taken before they are pooled
                if have != want:
                    yield module, field, have, want
