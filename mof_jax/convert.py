"""`mof convert`: models of other libraries as checkpoints of ours, and back. Parameter by parameter, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import functools
import json
import os
import shutil
import sys
from typing import Any

import jax
import ml_dtypes
import numpy as np
from rich import progress
from rich.console import Console

from mof_jax import config as configs
from mof_jax import console, run
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.text.tokenizers import load as load_tokenizer
from mof_jax.errors import UserError, lookup
from mof_jax.interop import big_vision, preprocess, sentences, transfer, weights, words
from mof_jax.interop import source as sources
from mof_jax.interop.families import FAMILIES, timm
from mof_jax.interop.family import Family, differences
from mof_jax.interop.preprocess import Processing
from mof_jax.interop.source import Source
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import MllmConfig
from mof_jax.models.tower import TowerConfig, WordsConfig
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.nn.module import Skeleton
from mof_jax.train.checkpoint.streamer import Later, Streamer
from mof_jax.train.start import open_checkpoint

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_MODELS: dict[str, type] = {
    "contrastive": TwoTowerConfig, "tower": TowerConfig, "words": WordsConfig, "llm": LLMConfig, "mllm": MllmConfig}


def convert(source: str, target: str, dtype: str | None = None) -> None:
    """From `hf:PATH_OR_ID` to a new work dir, or from a checkpoint to a new folder `hf:DIR`.

    Args:
      dtype: `f32`, `bf16` or `f16`; by default f32 for a checkpoint, and for a folder what its tensors came as.

    Raises:
      UserError: anything that does not fit; nothing has been written then.
    """
    kind = None if dtype is None else lookup(DTYPES, dtype, "--dtype")
    if sources.is_foreign(source) == sources.is_foreign(target):
        raise UserError("convert: write one of --from and --to as hf:PATH, the other names a checkpoint")
    if sources.is_foreign(source):
        to_checkpoint(Source.open(source), target, kind or "float32")
    else:
        to_folder(source, target.removeprefix(sources.PREFIX), kind)


def to_checkpoint(source: Source, workdir: str, dtype: str = "float32") -> None:
    """Writes an opened model as step 0 of a work dir that `mof eval`, `mof mine` and `init_from` read."""
    family, tokenizer = source.family, source.tokenizer
    if family.task == "parts":
        raise UserError(f"{source.where}: holds a language model and projectors without towers; name it in a config's init_from")
    if family.task in ("contrastive", "words", "mllm") and tokenizer is None:
        raise UserError(f"{source.where}: no tokenizer beside it (tokenizer.json or spiece.model); a model that reads needs one")
    try:
        sources.with_words(source.config, tokenizer)
    except UserError as error:  # words that its tower cannot hold, or whose texts lack the end that it pools
        raise UserError(f"{source.where}: its tokenizer and its config do not belong together ({error})") from None
    meta = {"tokenizer": tokenizer and tokenizer.save(), "interop": source.travel()}
    if family.task == "llm":
        meta |= {"config": {"task": "llm", "model": configs.to_dict(source.config), "steps": 0}, "preprocess": None}
    else:
        resolved = run.resolve(_run_config(source))
        meta |= {"config": configs.to_dict(resolved), "preprocess": configs.to_dict(resolved.data.preprocess)}
    with new_folder(workdir) as folder:
        checkpointer = Streamer(f"{folder}/checkpoints")
        try:
            checkpointer.save(0, _leaves(source, dtype), meta)
        finally:
            checkpointer.close()
        with open(f"{folder}/config.json", "w") as f:
            json.dump(meta["config"], f, indent=1)
    report(source, workdir, dtype)


def _leaves(source: Source, dtype: str) -> dict[str, dict[str, Later]]:
    """The state of a checkpoint, nothing of it read yet."""
    reading, theirs = source.reading, source.weights
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    steps = iter(track(reading.paths, "written"))

    def read(path: str) -> np.ndarray:
        next(steps, None)
        return reading.read(path, kind)

    params = {path: Later(reading.shapes[path].shape, kind, functools.partial(read, path)) for path in reading.paths}
    # Tensors of theirs that we have no parameter for lie beside the parameters; nothing but `to_folder` reads them.
    kept = {name: Later(theirs.shape(name), theirs.dtype(name), functools.partial(theirs.read, name)) for name in reading.kept}
    return {"params": params, "frozen": {}} | ({"kept": kept} if kept else {})


def to_folder(checkpoint: str, target: str, dtype: str | None = None) -> None:
    """Writes a checkpoint's model in the format it came from, or in the one that holds it.

    Args:
      target: a new folder; or a `.npz` in one, for a SigLIP as big_vision stores it.
    """
    reader, meta, step = open_checkpoint(checkpoint)
    travel = meta.get("interop") or {}
    config = _model_of(meta, checkpoint)
    npz = target.endswith(big_vision.SUFFIX)
    family = FAMILIES["siglip"] if npz else _format(meta["config"]["task"], config, travel.get("family"))
    if meta["config"]["task"] != family.task:
        raise UserError(f"{checkpoint}: a checkpoint of task {meta['config']['task']!r}; of ours, SigLIPs go into a "
                        f"{big_vision.SUFFIX}")
    family.check(config)
    shapes = Skeleton.of(lambda rngs: family.build(config, rngs)).shapes
    table, kept = family.table(config), jax.tree.map(np.asarray, reader.restore_parts(step, ("kept",)))
    kind = lambda name: np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)
    type_of = lambda name: kind(dtype or travel.get("dtypes", {}).get(name) or travel.get("dtype", "float32"))
    spelling = travel.get("spelling", {}) if travel.get("family") == family.name else {}
    tensors = {name: (shape, type_of(name)) for name, shape in
               transfer.announce(table, shapes, spelling).items()}
    extra = {name: kept.get(name, np.zeros(shape, type_of(name))) for name, shape in family.constants(config).items()} | kept
    read = _by_the_handful(lambda paths: reader.restore_params(step, ema=True, only=paths), shapes)
    with new_folder(os.path.dirname(target) if npz else target) as new:
        parts = transfer.export(table, shapes, read, spelling)
        arrays = ((name, x.astype(tensors[name][1])) for name, x in track(parts, "written", len(tensors)))
        announced = tensors | {name: (x.shape, x.dtype) for name, x in extra.items()}
        small = _small_files(family, config, meta, travel, type_of("").name)
        if npz:
            written = [os.path.basename(target)]
            layout = big_vision.Layout(**travel.get("layout", {}))
            big_vision.save(os.path.join(new, *written), family.write(config), arrays, layout)
            del small[family.config_file]  # the arrays say it
        else:
            written = weights.save(new, announced, _chain(arrays, extra.items()), family.weights_file)
        for name, data in small.items():
            os.makedirs(os.path.dirname(os.path.join(new, name)), exist_ok=True)
            with open(os.path.join(new, name), "wb") as f:
                f.write(data)
    console.show(f"{target}: {len(announced):,} tensors as {family.name!r}, {', '.join(written[:3])}{'…' * (len(written) > 3)}")


def _by_the_handful(
    restore: Callable[[set[str]], Mapping[str, Any]], shapes: Mapping[str, jax.ShapeDtypeStruct], room: int = 64 << 20
) -> Callable[[str], np.ndarray]:
    """Parameters by path, read together with those after them that fit into `room` values: opening a checkpoint takes longer
    than reading a small array, and a large one is held alone."""
    order, held = list(shapes), {}

    def read(path: str) -> np.ndarray:
        if path not in held:
            held.clear()
            chosen, size = [path], shapes[path].size
            for other in order[order.index(path) + 1:]:
                size += shapes[other].size
                if size > room:
                    break
                chosen.append(other)
            held.update(restore(set(chosen)))
        return np.asarray(held[path])

    return read


def _chain(first: Iterable, second: Iterable) -> Iterator:
    yield from first
    yield from second


def _run_config(source: Source) -> dict[str, Any]:
    """The config of a run that could have made this model."""
    config, p = source.config, source.processing
    data: dict[str, Any] = {} if p is None else p.section()
    data |= {} if p is None or isinstance(config, MllmConfig) else {"augment": {"fill": data.pop("fill")}}
    values: dict[str, Any] = dict(task=source.family.task, steps=0, model=configs.to_dict(config), data=data)
    if isinstance(config, MllmConfig):
        data |= dict(kinds=dict(chat=dict(kind="chat", template="vicuna_v1")), context_length=4096)
    if isinstance(config, TwoTowerConfig):
        values["objective"] = dict(loss="softmax" if config.logit_bias_init is None else "sigmoid")
    return values


def _model_of(meta: Mapping[str, Any], where: str) -> Any:
    """The config of a checkpoint's model, with what its tokenizer decides."""
    task = meta["config"]["task"]
    if task not in _MODELS:
        raise UserError(f"{where}: a checkpoint of task {task!r} has no counterpart in another library yet; of tasks "
                        f"{', '.join(_MODELS)} it has")
    config = configs.build(_MODELS[task], meta["config"]["model"], f"{where}: config.model")
    return sources.with_words(config, meta["tokenizer"] and load_tokenizer(meta["tokenizer"]))


def _format(task: str, config: Any, came_as: str | None) -> Family:
    """The format to write: the one a model came in, else the first that can hold it."""
    if came_as is not None:
        return lookup(FAMILIES, came_as, "format")
    candidates, errors = [family for family in FAMILIES.values() if family.task == task], []
    for family in candidates:
        try:
            family.check(config)
            return family
        except UserError as error:
            errors.append(str(error))
    raise UserError(min(errors, key=len) if errors else f"no format holds a model of task {task!r}")


def _small_files(
    family: Family, config: Any, meta: Mapping[str, Any], travel: Mapping[str, Any], dtype: str
) -> dict[str, bytes]:
    """Config, preprocessing and tokenizer files: what came with the model, brought up to date."""
    values = _named_as_before(family, config, travel.get("config", {}))
    files: dict[str, Any] = {}
    tower = sources.eyes(config)
    if tower is not None:
        p = Preprocess(**meta["preprocess"])
        now = Processing.of(p, tower.mean, tower.std)
        if family.name == "open_clip":
            values["preprocess_cfg"] = merge(values.get("preprocess_cfg") or {}, preprocess.write_open_clip(now))
        elif family.name == "timm":
            if timm.read_processing(values, p.image_size) != now:
                values["pretrained_cfg"] |= timm.write_processing(now)
        else:
            files |= _processor(family, now, travel.get("files", {}))
    if family.name not in ("open_clip", "timm"):
        values |= {"torch_dtype": dtype} if "torch_dtype" in values else {"dtype": dtype}
    files[family.config_file] = values
    vocabulary: dict[str, bytes] = {}
    if meta["tokenizer"] is not None:
        tokenizer = load_tokenizer(meta["tokenizer"])
        vocabulary = words.tokenizer_files(tokenizer, family.name, travel.get("files", {}))
        if family.name == "open_clip":
            _name_words(values["model_cfg"]["text_cfg"], bool(vocabulary))
        if family.name == "bert":
            files |= sentences.files(config.text.pool, config.text.width, tokenizer.context_length)
    return {name: json.dumps(x, indent=2, ensure_ascii=False).encode() for name, x in files.items()} | vocabulary


def _name_words(text: dict[str, Any], own: bool) -> None:
    """Has OpenCLIP read with the tokenizer in the folder, or with its own: by this name alone, which it looks up on the hub when
    the model lies there."""
    if own and not text.get("hf_tokenizer_name"):
        text["hf_tokenizer_name"] = "tokenizer.json"
    elif not own and text.get("hf_tokenizer_name"):
        text["hf_tokenizer_name"] = None


def _named_as_before(family: Family, config: Any, came_with: Mapping[str, Any]) -> dict[str, Any]:
    """The config file, under the names of the model it came with where these still mean the same (Mistral is a Llama)."""
    written = family.write(config)
    values = merge(came_with, written)
    single = {key: value for key, value in values.items() if not key.endswith("_config_dict")}  # of CLIP, where it would win
    for candidate in (merge(values, _names(came_with)), values, merge(single, _names(came_with)), single):
        if _says(family, candidate, config):
            return candidate
    if came_with:
        console.show("note: the config that the model came with says what this one does not compute; a new one is written")
    return written


def _says(family: Family, theirs: Mapping[str, Any], config: Any) -> bool:
    """Whether a config file is that of this model, read as any other."""
    try:
        return not any(differences(family.normal(config), family.normal(family.parse(theirs, family.config_file))))
    except UserError:  # an older version of this package passed over keys that are refused now
        return False


def _names(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What a config file calls its model and that model's parts, and what stands behind them."""
    own = {key: theirs[key] for key in ("model_type", "architectures", "architecture", "num_classes") if key in theirs}
    return own | {key: _names(value) for key, value in theirs.items() if isinstance(value, Mapping)}


def _processor(family: Family, now: Processing, files: Mapping[str, Any]) -> dict[str, Any]:
    """The processor file that came with the model where it still says what we do, else a new one."""
    for name in sources.PROCESSORS:
        try:
            if name in files and preprocess.read_hf(files[name], name, family.name)._replace(
                    pixels=now.pixels, fill=now.fill) == now:
                return {name: files[name]}
        except UserError:  # an older version of this package passed over keys that are refused now
            continue
    kind = {"siglip": "SiglipImageProcessor", "dinov2": "BitImageProcessor"}.get(family.name, "CLIPImageProcessor")
    return {sources.PROCESSORS[0]: preprocess.write_hf(now, kind)}


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, sections merged."""
    both = dict(old)
    for key, value in new.items():
        inner = both.get(key)
        both[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """A folder that appears at `path` once all of it is written, or not at all."""
    if "://" in path:
        raise UserError(f"{path}: conversions are written to a local folder; copy it from there")
    path = os.path.abspath(path)
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UserError(f"{path}: there already, and not an empty folder; give a new one")
    partial = f"{path}.partial-{os.getpid()}"
    os.makedirs(partial)
    try:
        yield partial
        if os.path.isdir(path):
            os.rmdir(path)
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def track(items: Iterable, what: str, total: int | None = None) -> Iterator:
    """The items, with a bar on a terminal."""
    if jax.process_index() or not sys.stderr.isatty():
        yield from items
        return
    total = len(items) if total is None else total
    yield from progress.track(items, what, total=total, console=Console(stderr=True), transient=True)


def report(source: Source, workdir: str, dtype: str) -> None:
    """What was read, what was left aside and why, and what to know."""
    parts: dict[str, list[int]] = {}
    for path, shape in source.shapes.items():
        parts.setdefault(path.split("/")[0], []).append(shape.size)
    rows = [(part, len(sizes), f"{sum(sizes):,}") for part, sizes in parts.items()]
    console.show(f"{source.where}: a model of kind {source.family.name!r}")
    console.show(console.table(f"As {dtype}", ("part", "arrays", "parameters"), rows))
    reasons: dict[str, list[str]] = {}
    for name, reason in source.reading.ignored:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        console.show(f"left aside: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({reason})")
    for note in source.notes:
        console.show(f"note: {note}")
    console.show(f"{workdir}: written; use it as a checkpoint, or in a config: init_from=dict(path={workdir!r})")
