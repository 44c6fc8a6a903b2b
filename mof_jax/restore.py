"""Models read back from checkpoints, for evaluation, generation and mining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from mof_jax.data.text.tokenizers import load as load_tokenizer
from mof_jax.decode.respond import Generator
from mof_jax.evals.embed.embedder import Embedder
from mof_jax.evals.model import Model
from mof_jax.nn.module import Params
from mof_jax.run import Run, RunConfig, resolve, set_up_jax
from mof_jax.train.start import open_checkpoint


@dataclasses.dataclass
class Restored:
    """A model read back: its config, its parameters, and what evaluators ask, which preprocesses as training did."""

    run: Run
    params: Params
    step: int
    model: Model

    @property
    def embedder(self) -> Embedder:
        """What embeds.

        Raises:
          UserError: it is one that only answers.
        """
        return self.model.embedder

    @property
    def generator(self) -> Generator:
        """What answers.

        Raises:
          UserError: it only embeds.
        """
        return self.model.generator


def restore(
    path: str, *, mesh: Mapping[str, Any] | None = None, workdir: str | None = None, ema: bool | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Restored:
    """Loads a checkpoint for evaluation, on this machine's devices.

    Args:
      path: work dir or `WORKDIR/checkpoints/STEP`.
      mesh: sizes of the mesh axes here; by default all devices along `data`, whatever the run had.
      ema: averaged parameters or not; None as the run's config says.
      on_batch: called before each batch that the model is asked, alike on all processes; may raise to stop.
    """
    reader, meta, step = open_checkpoint(path)
    # Programs are read from a cache and run as machine code: where it lies is this machine's business, not a checkpoint's.
    cache = RunConfig.compilation_cache
    values = {**meta["config"], "mesh": mesh or {}, "compilation_cache": cache}
    tokenizer = None if meta["tokenizer"] is None else load_tokenizer(meta["tokenizer"])
    run = Run(resolve(values), tokenizer, workdir)
    set_up_jax(run.config)
    params = reader.restore_params(step, run.shardings, run.config.eval_ema if ema is None else ema)
    return Restored(run, params, step, run.model(on_batch).bind(params))
