"""Which of several hosts keeps the others waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

KEY = "host_s"  # of a line of metrics.jsonl: seconds a step that each host was busy, in order of the processes
_FACTOR, _SHARE = 1.5, 0.1


def slow(line: dict[str, Any]) -> str:
    """Gathers every host's own seconds a step into a line of metrics, and names the one that stands out; "" for none.

    All hosts take the same time for a step, since they wait for each other in it; the one that they wait for is the one that is
    busy itself (loading data, swapping, paused) while its devices idle. With one process there is nothing to gather.
    """
    mine = line.pop(KEY)
    if jax.process_count() == 1:
        return ""
    from jax.experimental import multihost_utils

    gathered = np.asarray(multihost_utils.process_allgather(np.float32([mine, line["step_s"]])))
    line[KEY] = [round(float(x), 5) for x in gathered[:, 0]]
    return outlier(line[KEY], float(gathered[:, 1].max()))


def outlier(busy: Sequence[float], step: float) -> str:
    """The host whose own time is far above the median of all and a good share of a step of `step` seconds, in words."""
    worst, usual = int(np.argmax(busy)), float(np.median(busy))
    if len(busy) < 2 or busy[worst] < _FACTOR * usual or busy[worst] - usual < _SHARE * step:
        return ""
    return f"process {worst} is slow: busy for {busy[worst]:.3f} s of a step of {step:.3f} s, the median host for {usual:.3f} s"
