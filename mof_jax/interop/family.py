"""What a family of foreign models is: how its config and its tensors correspond to ours, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any, Literal

from flax import nnx

from mof_jax.config import to_dict
from mof_jax.errors import UserError
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import Values
from mof_jax.interop.weights import Weights
from mof_jax.parsing import reason

# Theirs by ours; the first name is the one that is written.
ACTIVATIONS = {"gelu": ("gelu",), "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), "quick_gelu": ("quick_gelu",),
               "silu": ("silu", "swish")}
ACTIVATION_NAMES = {name: ours for ours, names in ACTIVATIONS.items() for name in names}

# Fields that change how a model trains or starts, not what its weights compute; the tokenizer and the preprocessing have
# files of their own.
_FREE = {"variant", "dropout", "patch_dropout", "kernel", "remat", "unroll", "pos_init", "dtype", "pad_id", "mean", "std",
         "name", "pos_antialias", "max_logit_scale"}
_INITIAL = {"logit_scale_init", "logit_bias_init", "layer_scale"}  # only whether there is such a parameter


@dataclasses.dataclass(frozen=True)
class Family:
    """One format of one kind of model.

    Attributes:
      name: in reports and checkpoints.
      task: of the checkpoint it becomes; `parts` are no model of their own and can only be taken by `init_from`.
      model_types: of the config.json it reads.
      read: their config → ours, through `Values`: no key is passed over. write: ours → theirs; what `read` would not give back
        is refused.
      build: the model of our config.
      table: the tensors of a model of that config. ignored: those of no use to us.
      constants: (name, shape of our config) of tensors that an export needs and we have no parameter for; zeros.
      normal: a config of ours without what its model does not read; `check` compares these.
      settle: our config with what only the names of the tensors say.
      recognise: the config file of weights that came without one; None if they are of another family.
      notes: what a user should know about a config, a line each.
      config_file, weights_file: names in a folder of this format.
    """

    name: str
    task: Literal["contrastive", "tower", "words", "llm", "mllm", "parts"]
    model_types: tuple[str, ...]
    read: Callable[[Mapping[str, Any] | Values], Any]
    write: Callable[[Any], dict[str, Any]]
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    table: Callable[[Any], Table]
    ignored: Callable[[Any], tuple[Ignored, ...]] = lambda config: ()
    constants: Callable[[Any], dict[str, tuple[int, ...]]] = lambda config: {}
    normal: Callable[[Any], Any] = lambda config: config
    settle: Callable[[Any, Weights], Any] = lambda config, weights: config
    recognise: Callable[[Weights], dict[str, Any] | None] = lambda weights: None
    notes: Callable[[Mapping[str, Any]], list[str]] = lambda theirs: []
    config_file: str = "config.json"
    weights_file: str = "model.safetensors"

    def parse(self, theirs: Mapping[str, Any], where: str) -> Any:
        """`read`, of a file from outside.

        Raises:
          UserError: a value is missing, of another type, or not built here; or a key is not known.
        """
        try:
            return self.read(Values(theirs, where))
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{where}: does not describe a model of kind {self.name!r} ({reason(error)})") from None

    def check(self, config: Any) -> None:
        """Refuses a model of ours that this format cannot hold.

        Raises:
          UserError: naming every field that the format would lose.
        """
        try:
            again = self.read(self.write(config))
        except UserError as error:
            raise UserError(f"format {self.name!r} cannot hold this model ({error})") from None
        lost = [f"{key}: {have} here, {want} there" for key, have, want in
                differences(self.normal(config), self.normal(again))]
        if lost:
            raise UserError(f"format {self.name!r} cannot hold this model ({'; '.join(lost)})")


def differences(ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """(field, ours, theirs) where two configs of one type compute different things of equal weights."""
    first, second = dict(_leaves(to_dict(ours))), dict(_leaves(to_dict(theirs)))
    for key in dict.fromkeys([*first, *second]):
        name = key.rstrip(".0123456789").rpartition(".")[2]  # of the list that an entry is in
        have, want = first.get(key), second.get(key)
        if name in _INITIAL:
            have, want = have is not None, want is not None
        unread = name == "eos_id" and first.get(key.replace("eos_id", "pool")) != "eos"
        if name not in _FREE and have != want and not unread:
            yield key, have, want


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, (dict, list)) or not values:
        yield prefix, values
        return
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield from _leaves(value, f"{prefix}.{key}" if prefix else key)


def activation(values: Values, default: str) -> str:
    """Our name of the activation that a section says."""
    return values.choice("hidden_act", default, ACTIVATION_NAMES, "activations")


def their_activation(ours: str) -> str:
    """The name of ours in a config.json."""
    return ACTIVATIONS[ours][0]
