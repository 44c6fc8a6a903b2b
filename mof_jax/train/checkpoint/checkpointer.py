"""Checkpoints: Orbax writes them (asynchronously, atomically); we decide which one can be trusted.

A step directory holds `state`, `meta` (JSON: step, config, preprocessing, tokenizer, shapes, fingerprints) and, written last,
`manifest.json` with the size and checksum of every file. A fingerprint is an integer a leaf computed on the devices, the same on
any mesh. Restoring checks both: Orbax alone restores a file with a flipped byte without a word, and takes an empty directory for
the newest step. A step that fails is passed over, with a line that says why, for the newest one that verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import dataclasses
import logging
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jaxtyping import Array
import numpy as np
import orbax.checkpoint as ocp

from mof_jax import renames, storage
from mof_jax.errors import UserError
from mof_jax.parsing import is_count
from mof_jax.ranges import Count, Whole
from mof_jax.train.checkpoint import manifest, place, renamed
from mof_jax.train.checkpoint.fingerprints import fingerprints, named

SCHEMA = 2  # 1 had no manifest
_LEAST_PART = 1 << 20  # bytes of a replicated array that one host writes of it

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
      every: steps between checkpoints, 0 for the last step only.
      keep: newest whole checkpoints kept, and as many of the multiples of `every`: what a signal had saved between them takes
        no place of theirs. keep_every: steps whose multiples are kept forever, None for none.
      at: further steps that are saved and kept forever, for others to start from (`branch_from`).
      asynchronous: write in the background while training goes on.
    """

    every: Whole = 1000
    keep: Count = 3
    keep_every: Count | None = None
    at: tuple[Count, ...] = ()
    asynchronous: bool = True

    def due(self, step: int) -> bool:
        """Whether a checkpoint is saved after this step, the last one of the run apart."""
        return step in self.at or bool(self.every and step % self.every == 0)

    def forever(self, step: int) -> bool:
        """Whether the checkpoint of a step outlives newer ones."""
        return step in self.at or bool(self.keep_every and step % self.keep_every == 0)


class Damaged(UserError):
    """What lies beside a state is not what was written there."""


class Checkpointer:
    """Saves and restores states under one directory; with `read_only`, beside a run that writes there."""

    def __init__(self, directory: str, config: CheckpointConfig = CheckpointConfig(), *, read_only: bool = False):
        if not read_only:
            place.check(directory)
        self.directory = directory if storage.is_remote(directory) else os.path.abspath(directory)
        if read_only and not storage.exists(directory):
            raise UserError(f"{directory}: no such checkpoint directory")
        # What to keep is our choice: Orbax would count an empty folder as the newest step and delete a whole one for it.
        self._options = ocp.CheckpointManagerOptions(read_only=True) if read_only else ocp.CheckpointManagerOptions(
            create=True, enable_async_checkpointing=config.asynchronous,
            cleanup_tmp_directories=jax.process_count() == 1)  # what a kill left half-written
        self._config = config
        with storage.explained(directory):
            self._opened: ocp.CheckpointManager | None = self._open()
        self._pending: int | None = None
        self._whole: int | None = None  # the newest step that was seen whole
        self._sealing = ThreadPoolExecutor(1)
        self._sealed: Future[None] | None = None
        self._seen: dict[int, str] = {}  # what `newest` found wrong with a step, for the restore that follows
        self._told: set[tuple[int, str]] = set()

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts saving `state`; a failure of an earlier save surfaces here.

        Raises:
          UserError: the disk is full or not writable; earlier checkpoints are intact.
        """
        self.wait()
        prints = {name: int(x) for name, x in jax.device_get(fingerprints(state)).items()}
        meta = {**meta, **about(step, state), "fingerprints": prints}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta))
        self._pending = step
        self._guard(lambda: self._clear(step))
        self._guard(lambda: self._manager.save(step, args=args, force=True))
        self._sealed = self._sealing.submit(self._seal, step)
        if not self._config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Until the save in progress is on disk, and sealed."""
        sealed, self._sealed = self._sealed, None
        if sealed is not None:
            self._guard(sealed.result)
            self._whole, self._pending = self._pending, None

    def steps(self) -> list[int]:
        """Steps that look complete, newest first (an empty or half-written directory does not)."""
        return [step for step in self._all_steps() if self._complete(step)]

    def newest(self, among: Callable[[int], bool] = lambda step: True) -> int | None:
        """The newest step (`among` those) whose files are what was written, None if there is none at all; says which it passes
        over, and why.

        Every process of a job has to call, and they share the reading.

        Raises:
          UserError: there are checkpoints, and none is whole; or the store does not answer, which says nothing about a step.
        """
        steps = list(filter(among, self._all_steps()))
        for step in steps:
            self._seen[step] = self.damage(step)
            if not self._seen[step]:
                self._whole = step
                return step
            self._pass_over(step, self._seen[step])
        self._nothing_left(steps)
        return None

    def damage(self, step: int, arrays: bool = True) -> str:
        """What is wrong with the files of a step, in words, "" for nothing.

        Args:
          arrays: look also at the files that hold them; the processes of a job share that reading, and all have to call.
        """
        if not self._complete(step):
            return "not complete (half-written or empty)"
        folder = str(self._root(step))
        if not self._holds(step, manifest.NAME):
            return ""  # an old one: its fingerprints have to do
        try:
            found = manifest.read(folder)
            if reason := manifest.damage(folder, found, lambda names: [name for name in names if name.startswith("meta/")]):
                return reason
            self.meta(step)
        except storage.Unavailable:
            raise
        except Damaged as error:  # sealed anew after an edit
            return str(error).removeprefix(f"{folder}: ").removesuffix("; take another step")
        except UserError as error:
            return str(error)
        wanted = lambda names: [name for name in names if arrays or "/d/" not in name]
        if not arrays or jax.process_count() == 1:
            return manifest.damage(folder, found, wanted)
        from jax.experimental import multihost_utils

        reason = manifest.damage(folder, found, lambda names: wanted(names)[jax.process_index() :: jax.process_count()])
        text = np.frombuffer(reason.encode()[:200].ljust(200), np.uint8)
        return next((line for line in (bytes(row).decode(errors="ignore").strip()
                                       for row in multihost_utils.process_allgather(text)) if line), "")

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        where = f"{self.directory}/{step}"
        try:
            with storage.explained(where):
                found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        except UserError:
            raise
        except Exception as error:  # Orbax's, of many kinds
            raise Damaged(f"{where}: its meta cannot be read: {storage.reason(error)}; take another step") from None
        return _meta(found, where)

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """The newest state that verifies (or exactly `step`), laid out as `abstract` says; None if there is none at all.

        Raises:
          UserError: the model of the config differs from the saved one, or no checkpoint verifies.
        """
        steps = self._all_steps() if step is None else [step]
        for candidate in steps:
            reason = self._seen.pop(candidate) if candidate in self._seen else self.damage(candidate)
            if reason:
                self._pass_over(candidate, reason)
                continue
            try:
                meta = self.meta(candidate)
                as_saved = renamed.as_saved(abstract, meta["leaves"])
                _check_leaves(meta["leaves"], as_saved, f"{self.directory}/{candidate}")
                args = ocp.args.Composite(state=ocp.args.PyTreeRestore(
                    as_saved, restore_args=ocp.checkpoint_utils.construct_restore_args(as_saved)))
                with storage.explained(f"{self.directory}/{candidate}"):
                    state = self._manager.restore(candidate, args=args).state
            except Damaged as error:
                self._pass_over(candidate, str(error))
                continue
            except UserError:
                raise
            except Exception as error:  # Orbax wraps what it met while reading in plain Exceptions
                self._pass_over(candidate, storage.reason(error))
                continue
            prints = jax.device_get(fingerprints(state))
            wrong = [name for name, value in prints.items() if int(value) != meta["fingerprints"].get(name)]
            if not wrong:
                return renamed.as_today(state, abstract), meta
            self._pass_over(candidate, f"{wrong[0]} does not match its fingerprint (damaged file)")
        self._nothing_left(steps)
        return None

    def restore_params(
        self, step: int, shardings: Mapping[str, Any] | None = None, ema: bool = False, only: Collection[str] | None = None
    ) -> dict[str, Array]:
        """Parameters by path of one checkpoint, trained and frozen, averaged if asked for and kept; `only` some of them."""
        part = "ema" if ema and any(name.startswith("ema:") for name in self.meta(step)["leaves"]) else "params"
        return self.restore_parts(step, ("frozen", part), shardings, only)

    def restore_parts(
        self, step: int, names: Sequence[str], shardings: Mapping[str, Any] | None = None, only: Collection[str] | None = None
    ) -> dict[str, Array]:
        """What one checkpoint holds under `names`, by path as it is called now.

        Only what is asked for is read, and checked by its fingerprints; for the files around the arrays see `damage`.

        Raises:
          UserError: it is damaged, or cannot be read.
        """
        meta = self.meta(step)
        place = lambda path: None if shardings is None else shardings.get(renames.parameter(path))
        parts: dict[str, dict[str, Any]] = {}
        for name, (shape, dtype) in meta["leaves"].items():
            part, _, path = name.partition(":")
            now = renames.parameter(path)
            if part in names and now is not None and (only is None or now in only):
                parts.setdefault(part, {})[path] = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=place(path))
        wanted = {name: parts.get(name, {}) for name in names}
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(
            wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True))
        handlers, options = {"state": ocp.PyTreeCheckpointHandler()}, ocp.CheckpointManagerOptions(read_only=True)
        with storage.explained(self.directory), \
                ocp.CheckpointManager(self.directory, item_handlers=handlers, options=options) as reader:
            try:
                state = reader.restore(step, args=args).state
            except Exception as error:  # as in `restore`
                raise UserError(f"{self.directory}/{step}: cannot be read: {storage.reason(error)}; take another step") from None
        for part in wanted:
            for path, x in state[part].items():
                if isinstance(x, jax.ShapeDtypeStruct):
                    raise UserError(f"{self.directory}/{step}: {path} is named in its meta, and there is no such array; take "
                                    "another step")
            prints = jax.device_get(fingerprints(state[part]))
            for path, value in prints.items():
                if int(value) != meta["fingerprints"].get(f"{part}:{path}"):
                    raise UserError(f"{self.directory}/{step}: {path} does not match its fingerprint (damaged file)")
        return {renames.parameter(path): x for part in wanted for path, x in state[part].items()}

    def settle(self) -> None:
        """Waits until the save in progress is on disk and sealed, and every process sees it. All have to call."""
        self.wait()
        _together("settle")

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, which the run will do again. Every process of a job has to call."""
        self.settle()
        if jax.process_index() == 0:
            for later in filter(lambda s: s > step, self._all_steps()):
                _remove(self._root(later))
        _together("drop")
        self._seen = {s: reason for s, reason in self._seen.items() if s <= step}
        self._manager.reload()

    def close(self) -> None:
        """Waits for the save in progress, and lets go."""
        self.wait()
        self._sealing.shutdown()
        if self._opened is not None:
            self._opened.close()

    @property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's: a new one if the last has been let go."""
        if self._opened is None:
            with storage.explained(self.directory):
                self._opened = self._open()
        return self._opened

    def _open(self) -> ocp.CheckpointManager:
        # Of what every host has, each writes a part, but no part so small that cutting it out costs more than writing it.
        arrays = ocp.type_handlers.ArrayHandler(array_metadata_store=None, min_slice_bytes_for_replica_parallel=_LEAST_PART)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        handlers = {"state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry), "meta": ocp.JsonCheckpointHandler()}
        return Manager(self.directory, options=self._options, item_handlers=handlers)

    def _let_go(self) -> None:
        """A manager whose save failed keeps the writers' errors and raises them again at any later call."""
        opened, self._opened = self._opened, None
        with contextlib.suppress(Exception):
            if opened is not None:
                opened.close()

    def _all_steps(self) -> list[int]:
        with storage.explained(self.directory):
            self._manager.reload()
            return sorted(self._manager.all_steps(), reverse=True)

    def _clear(self, step: int) -> None:
        """Makes room for a step where something that is no checkpoint stands: what a kill or a damage left behind."""
        if jax.process_index() == 0 and self._root(step).exists():
            self._root(step).rmtree()
        _together("clear")
        self._seen.pop(step, None)
        self._manager.reload()

    def _seal(self, step: int) -> None:
        """Once the files of a step are all there: its manifest, and then the steps that are no longer needed go."""
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            _check_merged(self._root(step) / "state")
            manifest.write(str(self._root(step)), step)
            self._prune()

    def _prune(self) -> None:
        """Deletes what the policy does not keep. Steps that are not whole count for nothing, and stay for whoever looks."""
        roots = {int(path.name): path for path in epath.Path(self.directory).iterdir() if path.name.isdigit()}
        whole = sorted((step for step, path in roots.items() if (path / manifest.NAME).exists()), reverse=True)
        rhythm = [step for step in whole if self._config.every and step % self._config.every == 0]
        for step in whole[self._config.keep:]:
            if step not in rhythm[: self._config.keep] and not self._config.forever(step):
                _remove(roots[step])

    def _complete(self, step: int) -> bool:
        if not (self._holds(step, "state") and self._holds(step, "meta")):
            return False
        if self._holds(step, manifest.NAME):
            return True
        try:
            return self.meta(step)["schema"] < 2
        except storage.Unavailable:
            raise
        except Exception:  # Orbax's, of many kinds
            return False

    def _nothing_left(self, tried: Sequence[int]) -> None:
        """Refuses to begin from nothing where something is that once was whole."""
        if any(map(self._complete, tried)):
            raise UserError(f"{self.directory}: no checkpoint verifies (tried {', '.join(map(str, tried))}); "
                            "the lines above say why")

    def _root(self, step: int) -> epath.Path:
        """The folder of a step, there or not."""
        return epath.Path(self.directory) / str(step)

    def _holds(self, step: int, name: str) -> bool:
        return storage.exists(storage.join(self.directory, str(step), name))

    def _pass_over(self, step: int, reason: str) -> None:
        if jax.process_index() == 0 and (step, reason) not in self._told:
            logger.warning("checkpoint %s/%d passed over: %s", self.directory, step, reason)
        self._told.add((step, reason))

    def _guard(self, action: Any) -> None:
        """Runs `action`; a storage failure becomes one line that says what is still good."""
        try:
            action()
        except Exception as error:  # Orbax re-raises whatever its writers met: OSError, ValueError, XlaRuntimeError
            reason = storage.failure(error)
            if not reason:
                raise
            self._let_go()
            good = self._still_good()
            intact = "; there is no earlier checkpoint" if good is None else f"; the checkpoint of step {good} is intact"
            failed, self._pending = self._pending, None
            raise UserError(f"{self.directory}: saving step {failed} failed: {reason}{intact}") from None

    def _still_good(self) -> int | None:
        """The newest whole step but the one being saved; what was seen last if the store does not even say that."""
        try:
            return next((step for step in self.steps() if step != self._pending), None)
        except storage.Unavailable:
            return self._whole


def _check_merged(state: epath.Path) -> None:
    """Of what Orbax has written: the processes' parts are joined by a manifest of the whole, which a restore begins with.

    Raises:
      UserError: they are not, and a seal would promise what no restore can keep.
    """
    if not (state / "manifest.ocdbt").exists():
        raise UserError(f"{state}: Orbax has left no manifest.ocdbt there; it could not be restored, and is not sealed")


def _meta(found: Any, where: str) -> dict[str, Any]:
    """What lies beside a state, of the form that is written there; a newer version's is refused.

    Raises:
      UserError: saying what is wrong.
    """
    if not isinstance(found, Mapping):
        raise Damaged(f"{where}: its meta is damaged; take another step")
    schema, leaves, prints = found.get("schema", 0), found.get("leaves"), found.get("fingerprints")
    if is_count(schema) and schema > SCHEMA:
        raise UserError(f"{where}: written by a newer version (schema {schema} > {SCHEMA})")
    wrong = [key for key, right in (
        ("schema", is_count(schema)), ("config", isinstance(found.get("config", {}), Mapping)),
        ("leaves", isinstance(leaves, Mapping) and all(map(_is_leaf, leaves.values()))),
        ("fingerprints", isinstance(prints, Mapping) and all(is_count(x, 1 << 64) for x in prints.values()))) if not right]
    if wrong:
        raise Damaged(f"{where}: {wrong[0]} of its meta is damaged; take another step")
    return dict(found)


def _is_leaf(value: Any) -> bool:
    """Whether a value is [shape, dtype] of an array."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not isinstance(value[0], (list, tuple)):
        return False
    try:
        return all(map(is_count, value[0])) and isinstance(value[1], str) and bool(jnp.dtype(value[1]).itemsize)
    except (TypeError, ValueError):
        return False


def _remove(root: epath.Path) -> None:
    """Deletes a step."""
    (root / manifest.NAME).unlink(missing_ok=True)  # first: a folder half deleted must not look whole
    root.rmtree()


def _together(what: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"checkpoint: {what}")


class Manager(ocp.CheckpointManager):
    """One that leaves the preemption service alone.

    Orbax asks it about each step it saves, from threads of its own; the numbers of those calls would mix with the polls of
    `Preemption`, and a signal could be agreed on for a poll that has been.
    """

    def reached_preemption(self, step: int) -> bool:
        """Not its business."""
        return False


def about(step: int, state: Any) -> dict[str, Any]:
    """What `meta` says of a state itself, but for its fingerprints."""
    return {"schema": SCHEMA, "step": step, "leaves": {name: [list(x.shape), str(x.dtype)] for name, x in named(state).items()}}


def _check_leaves(saved: Mapping[str, Any], abstract: Any, where: str) -> None:
    """Same leaves, shapes and dtypes, or a line naming the first that differs (Orbax would cast dtypes silently)."""
    wanted = {name: [list(x.shape), str(x.dtype)] for name, x in named(abstract).items()}
    for name in sorted(set(saved) | set(wanted)):
        if saved.get(name) != wanted.get(name):
            show = lambda v: "absent" if v is None else f"{v[1]}{v[0]}"
            raise UserError(
                f"{where}: {name} is {show(saved.get(name))} in the checkpoint and {show(wanted.get(name))} by the config; "
                "use the config it was made with, or another workdir")
