"""A model that a test makes up."""

from __future__ import annotations


class FakeModel:
    """A model, what embeds in it and what answers, in one."""

    output_dir: str | None = None

    @property
    def embedder(self):
        return self

    @property
    def generator(self):
        return self
