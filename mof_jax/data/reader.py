"""One reader under every pipeline: from a place in the stream to an example, bad ones replaced and reported.

    place (source, index)  ->  record  ->  `load` of the pipeline  ->  example
                                 ^ another of the source, where it is bad and `on_error` says `skip`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
from typing import Literal, TypeVar

from mof_jax.data import filter as filters
from mof_jax.data import keyed
from mof_jax.data.identity import content
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import BadExample, UserError

log = logging.getLogger("mof_jax.data")

T = TypeVar("T")

OnError = Literal["raise", "skip"]
Replaced = list[tuple[str, str]]  # (`SOURCE:RECORD`, reason) of bad examples

_ATTEMPTS = 32
_REPLACE = 3  # what a key is for


class Reader:
    """The opened sources of a mixture.

    Args:
      configs: what to open. seed: of the run.
      on_error: `raise` stops at a bad example; `skip` takes another of the same source, so that positions
        never shift.
      key: integers that tell the replacements of this reader from another's. prefix: in front of the names of
        its sources.

    Attributes:
      whole, sources: the sources, without and with their filters.
      another: which record takes the place of one that is bad, `(source, index, attempt)` to an index, or
        None for any of the source; an order puts its own here, so that what it promises of a batch holds for
        replacements.

    Raises:
      UserError: a source that cannot be opened.
    """

    def __init__(
        self, configs: Sequence[SourceConfig], seed: int, on_error: OnError, *, key: tuple[int, ...] = (),
        prefix: str = "",
    ):
        self.configs, self.on_error, self.prefix = configs, on_error, prefix
        self._key = (seed, _REPLACE, *key)
        self.whole: list[Source] = [open_source(config) for config in configs]
        self.sources: list[Source] = [
            source if c.filter is None else filters.apply(source, c.filter, c.cache_dir)
            for source, c in zip(self.whole, configs)
        ]
        self.another: Callable[[int, int, int], int | None] = any_other

    def label(self, source: int) -> str:
        """Name of a source in ids, tables and messages."""
        return f"{self.prefix}{self.configs[source].label}"

    def record(self, source: int, index: int) -> Record:
        """One record.

        Raises:
          BadExample: it cannot be read.
        """
        return self.sources[source][index]

    def id(self, source: int, index: int) -> str:
        """`SOURCE:RECORD`, unique in the run; the record is read only if its source cannot name it
        otherwise."""
        try:
            record = filters.record_id(self.sources[source], index)
        except BadExample as error:
            record = error.record
        return f"{self.label(source)}:{record}"

    def example(self, source: int, index: int, load: Callable[[int], T], replaced: Replaced) -> T:
        """What `load` makes of record `index`; under `skip` of the first good one of the sequence that starts
        at it.

        Args:
          replaced: takes the bad ones.

        Raises:
          BadExample: under `raise`. UserError: under `skip`, where replacements keep being bad.
        """
        at = index
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return load(at)
            except BadExample as error:
                if self.on_error == "raise":
                    raise
                replaced.append((f"{self.label(source)}:{error.record}", error.reason))
                reason = str(error)
            found = self.another(source, index, attempt)
            at = self._hashed(source, index, attempt) if found is None else found
        raise UserError(f"{self.label(source)}: {_ATTEMPTS} bad examples in a row, the last one: {reason}")

    def describe(self, shares: Sequence[float]) -> list[dict[str, object]]:
        """One row a source: its name, how many records it has and keeps, its weight, and its share of the
        stream."""
        rows = enumerate(zip(self.configs, self.whole, self.sources, shares))
        return [{"name": self.label(k), "records": len(whole), "kept": len(kept), "weight": config.weight,
                 "share": float(share)}
                for k, (config, whole, kept, share) in rows]

    def content(self) -> dict[str, object]:
        """What the sources hold, in the form of the config's section, see `data.identity`."""
        rows = zip(self.configs, self.whole, self.sources)
        return {"sources": [{"content": content(*row)} for row in rows]}

    def _hashed(self, source: int, index: int, attempt: int) -> int:
        """Any record of the source."""
        return keyed.hash64(*self._key, source, index, attempt) % len(self.sources[source])


def any_other(source: int, index: int, attempt: int) -> None:
    """Any record of the source may take the place of a bad one."""


def report(replaced: Replaced, counts: dict[str, int]) -> None:
    """Counts bad examples by id, and logs each the first time that it is met."""
    for name, reason in replaced:
        if name not in counts:
            log.warning("replaced bad example %s: %s", name, reason)
        counts[name] = counts.get(name, 0) + 1
