"""A model that a test makes up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from mof_jax.evals.items import Items


class FakeModel:
    """A model, what embeds in it and what answers, in one; it keeps the rows of all figures."""

    output_dir: str | None = None

    def keep(self, figure, units, values, statistic="mean"):
        values = np.asarray(values, np.float64)
        assert len(units) == len(values)
        kept = Items(list(units), values[:, None] if values.ndim == 1 else values, statistic)
        self.kept = {**getattr(self, "kept", {}), figure: kept}

    def agrees(self, found: Mapping[str, float], *figures: str) -> bool:
        """Whether these figures were kept, and all that were are those of a result."""
        assert set(figures) <= set(self.kept)
        return {key: kept.figure() for key, kept in self.kept.items()} == pytest.approx(
            {key: found[key] for key in self.kept}, rel=1e-5)

    @property
    def embedder(self):
        return self

    @property
    def generator(self):
        return self
