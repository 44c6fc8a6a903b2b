"""What a config's runs cost, by formula and without making an array.

    python -m mof_jax.plan.cost configs/mof/*.py
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import sys
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh
import ml_collections
from rich.table import Table

from mof_jax import config as configs
from mof_jax import console, tasks
from mof_jax.data.packing.sequence_pipeline import SequenceConfig
from mof_jax.mesh import MeshConfig, abstract_mesh, check_batch, param_shardings
from mof_jax.nn.module import Skeleton
from mof_jax.run import RunConfig, resolve, resolve_stages, step_flops
from mof_jax.task import Task
from mof_jax.train.optim import Decision, decide


class Vocabulary(NamedTuple):
    """What a model asks a tokenizer for."""

    vocab_size: int
    context_length: int
    pad_id: int = 0
    eos_id: int = 1
    end_id: int = 1


@dataclasses.dataclass(frozen=True)
class Sketch:
    """A run without arrays, data and devices.

    Attributes:
      decisions: what the optimizer's rules say, by path. mesh: as the config wants it, on the fewest devices.
    """

    config: RunConfig
    task: Task
    skeleton: Skeleton
    decisions: Mapping[str, Decision]
    mesh: AbstractMesh

    @property
    def flops(self) -> dict[str, float]:
        """Of one step, by part."""
        return step_flops(self.task, self.config.batch_size, self.decisions)

    def parameters(self, trained: bool | None = None) -> int:
        """How many there are: all, the trained or the frozen ones."""
        return sum(x.size for path, x in self.skeleton.shapes.items() if trained in (None, self.decisions[path].trained))


def stages(values: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, RunConfig]:
    """The resolved runs of a config by name; one that is not staged is called `run`."""
    values = values.to_dict() if isinstance(values, ml_collections.ConfigDict) else dict(values)
    return resolve_stages(values) if "stages" in values else {"run": resolve(values)}


def sketch(config: RunConfig) -> Sketch:
    """A run without arrays, every check made that needs no devices.

    Raises:
      UserError: a rule that matches nothing, a dimension or a batch that the mesh does not divide.
    """
    mesh = smallest_mesh(config.mesh)
    task = tasks.make(config, mesh, vocabulary(config))
    skeleton = Skeleton.of(task.build)
    decisions = decide(config.optimizer, skeleton)
    param_shardings(mesh, skeleton, config.mesh.rules)
    check_batch(mesh, config.batch_size, config.microbatches, task.rows)
    return Sketch(config, task, skeleton, decisions, mesh)


def smallest_mesh(config: MeshConfig) -> AbstractMesh:
    """The mesh of the fewest devices that a config fits on: what is left to the devices is 1."""
    return abstract_mesh(config, math.prod(max(1, size) for size in (config.data, config.fsdp, config.tensor)))


def vocabulary(config: RunConfig) -> Vocabulary:
    """A tokenizer's sizes without its file: 32,000 entries, as Llama's and SigLIP's, where only the file knows. Texts are taken
    to end with what the model pools."""
    words, end = config.tokenizer, getattr(getattr(config.model, "text", None), "eos_id", -1)
    sizes = {"clip": 49_408, "bpe": words.vocab_size, "wordlevel": words.vocab_size}
    end = end if end >= 0 else Vocabulary._field_defaults["eos_id"]
    return Vocabulary(sizes.get(words.kind, 32_000), words.resolved().context_length if words.kind != "run" else 77, eos_id=end,
                      end_id=end)


def rows(path: str) -> list[tuple[str, ...]]:
    """One row a stage of a config file."""
    found = []
    for name, config in stages(configs.load(path)).items():
        p = sketch(config)
        flops, data = sum(p.flops.values()), config.data
        positions = config.batch_size * data.context_length if isinstance(data, SequenceConfig) else 0
        pictures = config.batch_size // data.rows_per_stream * data.images_per_stream if positions else config.batch_size
        found.append((path, name, f"{p.parameters():,}", f"{p.parameters(True):,}", f"{config.steps:,}", f"{config.batch_size:,}",
                      f"{positions:,}", f"{pictures:,}", f"{flops:.3g}", f"{flops * config.steps:.3g}"))
    return found


def main(paths: list[str]) -> None:
    """Prints the costs of config files (`FILE.py[:arg]`)."""
    table = Table("config", "stage", "parameters", "trained", "steps", "rows", "positions", "pictures", "FLOPs/step", "FLOPs")
    for path in paths:
        for row in rows(path):
            table.add_row(*row)
    console.stdout().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
