"""A model that a test makes up."""

from __future__ import annotations


class FakeModel:
    """A model, what embeds in it and what answers, in one."""

    output_dir: str | None = None

    def keep(self, figure, units, values, statistic="mean"):
        assert len(units) == len(values)

    @property
    def embedder(self):
        return self

    @property
    def generator(self):
        return self
