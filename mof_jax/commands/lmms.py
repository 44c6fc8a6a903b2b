"""A model of this package inside lmms-eval, with its tasks and scorers:

    pip install 'mof_jax[lmms]'
    python -m lmms_eval --model mof_jax --model_args checkpoint=runs/mllm --tasks mme,pope

lmms-eval finds it by the entry point `lmms_eval.models`. Import this module only where lmms-eval is installed. Tested with
lmms-eval 0.7.3: a task of questions and one of choices, from its registry to its score, on pictures made for the test with
a model whose answers are known, and through the command above with a tiny checkpoint. Its published benchmarks were not run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any

from jaxtyping import UInt8
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
import numpy as np
from PIL import Image

from mof_jax.decode.respond import Generator, Prompt
from mof_jax.decode.sample import SampleConfig
from mof_jax.errors import UserError

_MAX_TOKENS = 1024  # of an answer, where a task sets no limit: what lmms-eval's own models take
_BLOCK = 256  # requests whose pictures are in memory at once


def manifest():
    """What lmms-eval's registry asks the entry point for."""
    from lmms_eval.models.registry_v2 import ModelManifest  # at this moment half of lmms_eval.models is being imported

    return ModelManifest(model_id="mof_jax", simple_class_path=f"{__name__}.MofJax")


class MofJax(lmms):
    """Greedy or sampled answers, and likelihoods of given ones, of a checkpoint of task `mllm`.

    Args:
      checkpoint: WORKDIR or WORKDIR/checkpoints/STEP. generator: a bound one instead, for use from Python.
      ignored: what lmms-eval hands to every model (batch_size, device, max_batch_size). The checkpoint's config says the
        batch size and JAX finds the devices.

    Raises:
      UserError: no such checkpoint, one that answers no questions, or neither of the two given.
    """

    is_simple = True

    def __init__(self, checkpoint: str = "", generator: Generator | None = None, **ignored: Any):
        super().__init__()
        unknown = set(ignored) - {"batch_size", "max_batch_size", "device"}
        if unknown:
            raise UserError(f"--model_args {', '.join(sorted(unknown))}: unknown; mof_jax takes checkpoint=WORKDIR")
        if generator is None and not checkpoint:
            raise UserError("--model_args checkpoint=WORKDIR is missing")
        if generator is None:
            from mof_jax.restore import restore  # a floor above this one: here lmms-eval is the command line

            generator = restore(checkpoint).generator
        self.generator = generator

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """One answer a request, whose args are (context, generation kwargs, doc_to_visual, doc id, task, split).

        Raises:
          UserError: a picture that is none (a video), or a way to search that the model does not know (beams).
        """
        answers = [""] * len(requests)
        groups = defaultdict(list)
        for place, request in enumerate(requests):
            groups[decoding(request.args[1])].append(place)
        for (max_tokens, sample, stop), places in groups.items():
            for block in _blocks(places):
                prompts = [self._prompt(requests[place].args[0], *requests[place].args[2:6]) for place in block]
                found = self.generator.answer(prompts, max_tokens=max_tokens, sample=sample, stop=stop)
                for place, answer in zip(block, found):
                    answers[place] = answer
                    self.cache_hook.add_partial("generate_until", tuple(requests[place].args[:2]), answer)
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """(mean loss of a token of the continuation in nats, whether the greedy answer begins with the continuation) a request.

        The args are (context, continuation or doc_to_target, doc_to_visual, doc id, task, split). A loss and not a
        log-likelihood, against the method's name, is what lmms-eval's models return: its `multiple_choice` tasks take the
        least.

        Raises:
          UserError: as `generate_until`, or a request without a document.
        """
        found: list[GenerationResult] = []
        for block in _blocks(requests):
            prompts, wanted = [], []
            for request in block:
                if len(request.args) < 6:
                    raise UserError("likelihoods without a document, as acc_mutual_info asks for, are not offered")
                context, target, *where = request.args[:6]
                prompts.append(self._prompt(context, *where))
                wanted.append(target(self._doc(*where[1:])) if callable(target) else target)
            sums, counts = self.generator.log_probs(prompts, wanted)
            said = self.generator.answer(prompts, max_tokens=int(max(counts)))
            greedy = [re.match(rf"{re.escape(want.strip())}(?!\w)", answer) is not None for want, answer in zip(wanted, said)]
            losses = [-float(total) / max(int(count), 1) for total, count in zip(sums, counts)]
            # Wrapped, because lmms-eval 0.7.3 turns a bare pair into a string and then cannot score it.
            found += [GenerationResult((loss, same)) for loss, same in zip(losses, greedy)]
        return found

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered.

        Raises:
          UserError: always.
        """
        raise UserError("mof_jax answers tasks of one round; leave out those of output_type generate_until_multi_round")

    def _doc(self, doc_id: int, task: str, split: str) -> Mapping[str, Any]:
        return self.task_dict[task][split][doc_id]

    def _prompt(self, context: str, doc_to_visual: Any, doc_id: int, task: str, split: str) -> Prompt:
        """The context in the checkpoint's chat template; pictures come first unless it says where they stand."""
        name = f"{task}:{split}:{doc_id}"
        pictures = [pixels(visual, name) for visual in flat(doc_to_visual(self._doc(doc_id, task, split)))]
        if "<image>" not in context:
            context = "<image>\n" * len(pictures) + context
        return self.generator.chat(({"role": "user", "content": context},), pictures, name)


def decoding(kwargs: Mapping[str, Any]) -> tuple[int, SampleConfig, tuple[str, ...]]:
    """(tokens at most, how to draw them, stop strings) of a task's generation kwargs.

    Raises:
      UserError: several beams.
    """
    if (kwargs.get("num_beams") or 1) != 1:
        raise UserError(f"num_beams={kwargs['num_beams']}: beams are not searched; set it to 1 with --gen_kwargs num_beams=1")
    until = kwargs.get("until") or ()
    temperature = float(kwargs.get("temperature") or 0.0)
    if kwargs.get("do_sample", temperature > 0):
        sample = SampleConfig(temperature or 1.0, float(kwargs.get("top_p") or 1.0), int(kwargs.get("top_k") or 0))
    else:
        sample = SampleConfig()
    return int(kwargs.get("max_new_tokens") or _MAX_TOKENS), sample, (until,) if isinstance(until, str) else tuple(until)


def pixels(visual: Any, record: str) -> UInt8[np.ndarray, "height width 3"]:
    """A task's picture.

    Raises:
      UserError: something else.
    """
    if not isinstance(visual, Image.Image):
        raise UserError(f"{record}: a {type(visual).__name__} where a picture is expected; videos and sound are not read")
    return np.asarray(visual.convert("RGB"))


def flat(visuals: Any) -> list[Any]:
    """Whatever `doc_to_visual` returns (nothing, one, a list, lists of lists) as one list."""
    if visuals is None:
        return []
    if isinstance(visuals, (list, tuple)):
        return [one for visual in visuals for one in flat(visual)]
    return [visuals]


def _blocks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _BLOCK] for start in range(0, len(items), _BLOCK))
