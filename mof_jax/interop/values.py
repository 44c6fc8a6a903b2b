"""Config files of other libraries, key by key: each is read by name, type and range, declared free, or refused by name.

A key that a reader passes over may change what equal tensors compute, and nothing would tell. So a section is read through
`Values`: a reader asks for what it builds, names what computes nothing, and `close` refuses the rest, nested sections too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import re
from typing import Any, TypeVar

from mof_jax.errors import UserError
from mof_jax.parsing import is_count, is_number, kind, show

T = TypeVar("T")

MOST = 1 << 20  # of a width, a depth or a length: beyond any model, and still harmless to build the shapes of
MOST_WORDS = 1 << 24
MOST_PIXELS = 1 << 14

# What the base class of `transformers` writes into every section and no forward pass reads: names, versions, generation.
_FREE = frozenset("""
    _name_or_path _commit_hash architectures model_type transformers_version torch_dtype dtype use_bfloat16 torchscript xla_device
    attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal _experts_implementation
    output_attentions output_hidden_states return_dict use_return_dict output_past use_cache gradient_checkpointing
    id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params tokenizer_class prefix
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id chunk_size_feed_forward tie_encoder_decoder
    cross_attention_hidden_size tf_legacy_loss initializer_range initializer_factor
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    """.split())


class Values:
    """A section of a config file from outside.

    Attributes:
      where: the file, for messages. known: what became of each key so far, `read` or `free`, by its dotted path.
    """

    def __init__(self, theirs: Mapping[str, Any], where: str, path: str = "", known: dict[str, str] | None = None):
        self.where, self.known = where, {} if known is None else known
        self._theirs, self._path = theirs, path
        self._sections: list[Values] = []

    @classmethod
    def of(cls, theirs: Mapping[str, Any] | Values, where: str = "config.json") -> Values:
        """`theirs` itself, or its values."""
        return theirs if isinstance(theirs, Values) else cls(theirs, where)

    def __contains__(self, key: str) -> bool:
        return key in self._theirs

    def get(self, key: str, default: Any = None) -> Any:
        """A value of any kind; its type is the caller's to check."""
        self.known[self._path + key] = "read"
        return self._theirs.get(key, default)

    def wrong(self, key: str, why: str) -> UserError:
        """The error of one value: `raise values.wrong(key, "…")`."""
        return UserError(f"{self.where}: {self._path}{key} {show(self._theirs.get(key))} {why}")

    def count(self, key: str, default: int, least: int = 1, most: int = MOST) -> int:
        """A whole number from `least` to `most`."""
        value = self.get(key, default)
        if not is_count(value) or not least <= value <= most:
            raise self.wrong(key, f"is no whole number from {least} to {most:,}")
        return value

    def number(self, key: str, default: float, least: float = 0.0, most: float = 1e9) -> float:
        """A finite number from `least` to `most`."""
        value = self.get(key, default)
        if not is_number(value) or not least <= value <= most:
            raise self.wrong(key, f"is no number from {least:g} to {most:g}")
        return value

    def hidden(self, key: str, default: float, width: Callable[[float], int]) -> int:
        """A hidden width that is given as a share of another: what `width` makes of it."""
        found = width(self.number(key, default))
        if not 0 < found <= MOST:
            raise self.wrong(key, f"makes a hidden width of {found:,}; 1 to {MOST:,} are built")
        return found

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "is neither true nor false")
        return value

    def choice(self, key: str, default: str, table: Mapping[str, T], what: str | None = None) -> T:
        """What a name stands for."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in table:
            raise self.wrong(key, f"is not built here; of {what or key}, {', '.join(map(repr, table))} are")
        return table[value]

    def only(self, key: str, *built: Any) -> None:
        """Refuses all values but these (and null, which stands for a value that is off); a key that is absent is the first."""
        value = self.get(key, built[0])
        off = value is None and any(not x for x in built)
        if not off and not any(same(value, x) for x in built):
            raise self.wrong(key, f"is not built here, {' or '.join(map(show, built))} is")

    def free(self, *keys: str) -> None:
        """Keys that compute nothing, whatever their values, unless they were read."""
        for key in keys:
            if key in self._theirs:
                self.known.setdefault(self._path + key, "free")

    def free_like(self, pattern: str) -> None:
        """Keys whose whole name matches a regular expression, likewise."""
        self.free(*(key for key in self._theirs if re.fullmatch(pattern, key)))

    def transformers(self, *free: str) -> None:
        """What every section of that library may hold, and further keys that are free."""
        for key in ("is_encoder_decoder", "is_decoder", "add_cross_attention"):
            self.only(key, False)
        self.only("pruned_heads", {})
        for key in ("quantization_config", "auto_map"):  # a model of another code
            self.only(key, None)
        self.free(*_FREE, *free)

    def section(self, key: str) -> Values:
        """A section inside this one; empty if it is left out or null, as all of its values may be."""
        found = self.get(key)
        if found is not None and not isinstance(found, Mapping):
            raise UserError(f"{self.where}: {self._path}{key} is no section, but {kind(found)}")
        return self.inside(key, found or {})

    def inside(self, key: str, theirs: Mapping[str, Any]) -> Values:
        """Values that stand for the section `key`."""
        self.known[self._path + key] = "read"
        self._sections.append(Values(theirs, self.where, f"{self._path}{key}.", self.known))
        return self._sections[-1]

    def close(self) -> None:
        """Refuses what nobody asked for, here and in the sections.

        Raises:
          UserError: naming it.
        """
        left = [f"{self._path}{show_key(key)} ({show(value)})" for key, value in self._theirs.items()
                if self._path + key not in self.known]
        if left:
            more = f" and {len(left) - 3} more keys" if len(left) > 3 else ""
            verb = "is" if len(left) == 1 else "are"
            raise UserError(f"{self.where}: {', '.join(left[:3])}{more} {verb} not known here, and may change what the model "
                            "computes; take out of the file what does not")
        for section in self._sections:
            section.close()


def same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def show_key(key: str) -> str:
    """A key as it is, or quoted where it is no plain word."""
    return key if key.isidentifier() else show(key)


def triple(values: Any, what: str, least: float | None = None) -> tuple[float, float, float]:
    """Three numbers, one a channel, of at least `least`.

    Raises:
      UserError: naming `what` they are.
    """
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(is_number, values)):
        raise UserError(f"{what} {show(values)}: three numbers are read here, one for each channel")
    if least is not None and min(values) < least:
        raise UserError(f"{what} {show(values)}: what pixels are divided by is positive")
    return tuple(float(x) for x in values)
