"""The readers, by name.

`KNOWN` lists those that are left out of the suite, and why; empty is right.
"""

from ..harness import Target
from . import benchmarks, data, jobs, runs, weights, words

TARGETS: dict[str, Target] = {
    target.name: target for part in (data, words, weights, benchmarks, jobs, runs) for target in part.TARGETS
}
KNOWN: dict[str, str] = {}
SUITE = [name for name, target in TARGETS.items() if name not in KNOWN and not target.long]
