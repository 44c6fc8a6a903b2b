"""Checkpoints of states that do not fit into memory: read, written and forgotten leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer, Manager, about
from mof_jax.train.checkpoint.fingerprints import fingerprints, named


@dataclasses.dataclass
class Later:
    """A leaf that is read when it is written, see `Streamer`.

    Attributes:
      shape, dtype: of what `read` gives; its memory may be taken over.
      fingerprint: of what was written.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    fingerprint: int | None = None


class Streamer(Checkpointer):
    """Saves a state that does not fit into memory, or should not: its leaves are `Later`, read and written one after the other.

    What it wrote is restored by a `Checkpointer`. A step killed half-way is not complete: what it holds is told last.
    """

    def __init__(self, directory: str):
        super().__init__(directory, CheckpointConfig(asynchronous=False))

    def save(self, step: int, state: Mapping[str, Mapping[str, Later]], meta: Mapping[str, Any]) -> None:
        """Saves `state`.

        Raises:
          UserError: the disk is full or not writable.
        """
        self._pending = step
        self._guard(lambda: self._clear(step))
        self._guard(lambda: self._stream(step, state, {**meta, **about(step, state)}))
        self._pending = None

    def _stream(self, step: int, state: Mapping[str, Mapping[str, Later]], meta: Mapping[str, Any]) -> None:
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)), force=True)
        folder = self._root(step) / "meta"
        folder.mkdir()
        prints = {name: leaf.fingerprint for name, leaf in named(state).items()}  # known only now
        ocp.JsonCheckpointHandler().save(folder, args=ocp.args.JsonSave({**meta, "fingerprints": prints}))
        self._seal(step)

    def _open(self) -> ocp.CheckpointManager:
        # Arrays have a handler too because Orbax asks theirs about the list that `_OneByOne` leaves out.
        registry = ocp.type_handlers.create_type_handler_registry(
            (Later, _OneByOne()), (jax.Array, ocp.type_handlers.ArrayHandler(array_metadata_store=None)))
        handlers = {"state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry)}
        return Manager(self.directory, options=self._options, item_handlers=handlers)


class _OneByOne(ocp.type_handlers.ArrayHandler):
    """Writes leaves as arrays, each before the next is read: Orbax holds all of those it is given, compressed as well.

    The list of how arrays are laid out, which Orbax writes with every batch and would write for the last leaf alone, is left out.
    """

    def __init__(self):
        super().__init__(array_metadata_store=None)

    async def serialize(self, values: Sequence[Later], infos: Sequence[Any], args: Sequence[Any] | None = None) -> Sequence[Any]:
        for i, leaf in enumerate(values):
            # Taken over where it is: on a CPU a copy would double the largest one.
            array = jax.device_put(leaf.read(), may_alias=True)
            leaf.fingerprint = int(fingerprints({"": array})[""])
            for written in await super().serialize([array], infos[i : i + 1], args and args[i : i + 1]):
                written.result()
        return []
