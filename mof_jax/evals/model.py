"""A trained model as evaluators see it: what it can do, by capability."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from jaxtyping import Float, Shaped
import numpy as np

from mof_jax.decode.respond import Generator
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import Embedder
from mof_jax.evals.items import Items
from mof_jax.nn.module import Params


def _columns(values: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows columns"]:
    values = np.asarray(values, np.float64)
    return values[:, None] if values.ndim == 1 else values


@dataclasses.dataclass(frozen=True)
class Model:
    """One model may embed and answer; an evaluator takes what it requires. `bind` gives it parameters.

    Attributes:
      task: its name, for messages.
      embeds, generates: its parts, None for what it cannot do.
      output_dir: folder for what an evaluator wants to leave, None for none.
      kept: rows behind figures, by figure, where somebody asks for them; None where nobody does.
    """

    task: str
    embeds: Embedder | None = None
    generates: Generator | None = None
    output_dir: str | None = None
    kept: dict[str, Items] | None = None

    def bind(self, params: Params) -> Model:
        """This model with the given parameters (all of them, by path)."""
        bound = {name: None if part is None else part.bind(params)
                 for name, part in (("embeds", self.embeds), ("generates", self.generates))}
        return dataclasses.replace(self, **bound)

    def keep(
        self,
        figure: str,
        units: Sequence[str],
        values: Shaped[np.ndarray, "rows ..."],
        statistic: str = "mean",
    ) -> None:
        """Keeps the rows of a figure, if somebody asks for them.

        Args:
          units: what each row is about. values: [rows] or [rows, columns]; see `evals.items.Items`.
        """
        if self.kept is not None:
            self.kept[figure] = Items(list(units), _columns(values), statistic)

    @property
    def capabilities(self) -> frozenset[str]:
        """What evaluators may require of it: `embed/image`, `embed/text`, `tokens/image`, `generate`."""
        embeds = frozenset() if self.embeds is None else self.embeds.capabilities
        return embeds if self.generates is None else embeds | {"generate"}

    @property
    def embedder(self) -> Embedder:
        """What embeds.

        Raises:
          UserError: it cannot.
        """
        if self.embeds is None:
            raise UserError(f"a model of task {self.task!r} does not embed; {self._can}")
        return self.embeds

    @property
    def generator(self) -> Generator:
        """What answers prompts.

        Raises:
          UserError: it cannot.
        """
        if self.generates is None:
            raise UserError(f"a model of task {self.task!r} answers no questions; {self._can}")
        return self.generates

    @property
    def _can(self) -> str:
        return f"it can {', '.join(sorted(self.capabilities)) or 'do nothing that evaluators ask for'}"
