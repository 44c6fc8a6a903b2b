"""Every config file: it resolves, its rules find what they name, its arrays fit its mesh, its docstring says what it costs."""

from __future__ import annotations

import ast
import functools
import json
import math
import pathlib
import re

import jax
from jax.sharding import AbstractMesh
import pytest

from mof_jax import config as configs
from mof_jax import trainer
from mof_jax.data.packing.sequence_pipeline import SequencePipeline
from mof_jax.data.text.tokenizers import TokenizerConfig, train
from mof_jax.hardware import Topology
from mof_jax.mesh import AXES, batch_shards, check_batch
from mof_jax.plan import cost
from mof_jax.plan.cost import Sketch, sketch, stages
from mof_jax.train.optim import make_optimizer
from mof_jax.train.start import renamed
from mof_jax.train.state import init_fn
from mof_jax.train.step import make_step

ROOT = pathlib.Path(__file__).parent.parent / "configs"
NO_RUNS = ("common.py", "against.py", "reproduce.py")  # what runs share; evaluators alone; a study of many runs
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.py") if path.name not in NO_RUNS)
VARIANTS = {"mof/imof.py": ["px=336", "px=336,size=7b,parity=False"], "mof/amof.py": ["ssl_ratio=0.5,normalise=l2"],
            "mm1/study.py": ["size=9m", "size=85m", "size=302m"], "mm1/sft.py": ["px=672,size=30b", "size=7b"],
            "mm1/pretrain_3b.py": ["encoder_lr_scale=0.1", "encoder_lr_scale=0"]}
SPECS = [*FILES, *(f"{name}:{arg}" for name, args in VARIANTS.items() for arg in args)]
PLANS = [f"{name}:{arg}" for name in FILES for arg in getattr(configs.load_module(f"{ROOT}/{name}"), "PLANS", ()) if arg]
SPECS += [spec for spec in PLANS if spec not in SPECS]
POD = [spec for spec in SPECS if spec.startswith(("mof/", "mm1/"))]


@functools.cache
def plans(spec: str) -> dict[str, Sketch]:
    """Every check that `plan` makes: sections, rules, shapes against the mesh, the batch against it."""
    return {name: sketch(config) for name, config in stages(configs.load(f"{ROOT}/{spec}")).items()}


@pytest.mark.parametrize("spec", SPECS)
def test_every_config_resolves_and_fits_its_mesh(spec):
    for p in plans(spec).values():
        # Warm-up and cooldown inside the run, options the optimizer knows.
        make_optimizer(p.config.optimizer, p.config.steps, p.decisions, p.skeleton.matrices)
        assert sum(p.flops.values()) > 0 and p.parameters(True) > 0


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not re.search("quickstart|/lit|study|sweeps/|papers/", spec)])
def test_a_config_for_a_pod_names_slices_that_its_mesh_covers(spec):
    for p in plans(spec).values():
        devices, mesh = Topology.parse(p.config.hardware.topology).devices, p.config.mesh
        assert devices % (mesh.fsdp * mesh.tensor) == 0 and mesh.data == -1
        sizes = (devices // mesh.fsdp // mesh.tensor, mesh.fsdp, mesh.tensor)
        check_batch(AbstractMesh(sizes, AXES), p.config.batch_size, p.config.microbatches, p.task.rows)


@pytest.mark.parametrize("spec", [spec for spec in POD if spec.startswith("mof/")])
def test_mof_trains_adapters_then_the_language_model_too(spec):
    align, tune = plans(spec).values()
    assert list(plans(spec)) == ["align", "tune"]
    parts = lambda p, trained: {path.split("/")[0] for path, d in p.decisions.items() if d.trained == trained}
    assert (parts(align, True), parts(align, False)) == ({"adapters"}, {"encoders", "llm"})
    assert (parts(tune, True), parts(tune, False)) == ({"adapters", "llm"}, {"encoders"})
    assert (align.config.optimizer.lr, tune.config.optimizer.lr) == (1e-3, 2e-5)
    assert {d.decay * p.config.optimizer.weight_decay for p in (align, tune) for d in p.decisions.values()} == {0.0}
    assert tune.config.init_from[0].path == "stage:align" and tune.config.tokenizer.path == "stage:align"
    batches = (128, 128) if "amof" in spec else (256, 128)
    for p, batch, template in zip((align, tune), batches, ("plain", "vicuna_v1")):
        data, streams = p.config.data, p.config.batch_size // p.config.data.rows_per_stream
        assert streams * data.images_per_stream == batch and data.kinds["chat"].template == template
        assert p.config.optimizer.schedule.warmup == math.ceil(0.03 * p.config.steps)
        model = p.config.model
        assert model.dtype == "bfloat16" and model.llm.kernel == model.encoders[0].vit.kernel == "splash"
    assert tune.config.data.context_length >= 2048 + tune.config.model.tokens_per_image


@pytest.mark.parametrize("spec", [spec for spec in POD if spec.startswith("mm1/")])
def test_mm1_trains_everything_but_what_it_is_told_to_freeze(spec):
    p = plans(spec)["run"]
    scale = float((re.search(r"encoder_lr_scale=([\d.]+)", spec) or [0, 1])[1])
    for path, d in p.decisions.items():
        encoder = path.startswith("encoders/")
        assert d.trained == (scale > 0 or not encoder)
        assert not d.trained or d.lr_factor == (scale if encoder else 1.0)
    assert p.config.data.context_length % 512 == 0, "whole blocks of the attention kernel"
    sft = "sft" in spec
    assert (p.config.steps, p.config.batch_size, p.config.optimizer.name) == (
        (10_000, 256, "adafactor") if sft else (200_000, 512, "adamw"))
    assert p.config.optimizer.weight_decay == (0.0 if sft else 0.1)
    per_row = p.config.data.images_per_stream / p.config.data.rows_per_stream
    assert per_row == (8 if sft else 16)


@pytest.mark.parametrize("spec, tokens", [
    ("mof/llava15_7b.py", 576), ("mof/llava15_13b.py", 576), ("mof/imof.py", 512), ("mof/imof.py:px=336", 1152),
    ("mof/amof.py", 256), ("mm1/pretrain_3b.py", 144), ("mm1/pretrain_30b.py", 144), ("mm1/sft.py:px=672,size=30b", 144),
    ("mm1/study.py", 144),
])
def test_tokens_a_picture(spec, tokens):
    for p in plans(spec).values():
        assert p.config.model.tokens_per_image == p.config.data.tokens_per_image == tokens


def test_the_released_interleaving_is_a_flag():
    """arXiv 2401.06209's code: DINOv2 reads pixels normalised for CLIP, and its final norm is left out."""
    for arg, parity in (("", True), (":parity=False", False)):
        clip, dino = plans(f"mof/imof.py{arg}")["tune"].config.model.encoders
        assert (dino.pixels_of, dino.norm, dino.tower.final_norm) == (("clip", False, False) if parity else (None, True, True))
        assert clip.layer == -2 and clip.tower.depth == 23 and dino.tower.depth == 24 and not clip.tower.final_norm


def test_mm1s_learning_rates():
    """The law's table (our arithmetic), and the paper's own rounding of it."""
    lr = lambda spec: plans(spec)["run"].config.optimizer.lr
    for size, want in (("9m", 6.6e-4), ("85m", 2.62e-4), ("302m", 1.535e-4), ("1.2b", 8.56e-5)):
        assert lr(f"mm1/study.py:size={size}") == pytest.approx(want, rel=5e-3)
    for size, parameters in (("3b", 2.944e9), ("7b", 6.442e9), ("30b", 29.6e9)):
        law = math.exp(-0.4214 * math.log(parameters) - 0.5535)
        assert lr(f"mm1/pretrain_{size}.py") == pytest.approx(law, rel=0.2)
    study = configs.load_module(f"{ROOT}/mm1/study.py")
    rates = [override["optimizer.lr"] for override in study.sweep("size=85m")]
    assert rates == sorted(rates) and rates[len(rates) // 2] == lr("mm1/study.py:size=85m")


def test_parts_come_from_the_runs_that_the_argument_names():
    """Every parameter of an encoder or a language model is one of the run it is to come from, by its name there."""
    sources = {"CLIP": plans("clip/vit_l14.py")["run"], "DINO": plans("ssl/dino_vit_l14.py")["run"],
               "LLM": plans("mof/llava15_13b.py")["tune"]}
    align = plans("mof/imof.py:clip=CLIP,dino=DINO,llm=LLM")["align"]
    mm1 = plans("mm1/study.py:size=9m,clip=CLIP")["run"]
    for p, names in ((align, ("CLIP", "DINO", "LLM")), (mm1, ("CLIP",))):
        assert tuple(init.path for init in p.config.init_from) == names
        for init in p.config.init_from:
            taken = {path: renamed(path, init.rename, "") for path in p.skeleton.shapes if re.fullmatch(init.rename[0][0], path)}
            part = {"CLIP": "encoders/clip/", "DINO": "encoders/dino/", "LLM": "llm/"}[init.path]
            assert set(taken) == {path for path in p.skeleton.shapes if path.startswith(part)}
            assert set(taken.values()) <= set(sources[init.path].skeleton.shapes)


COST = re.compile(r"^\s+(?:(\w+=\S+)\s+)?(align|tune|run)\s+([\d,]+)\s+([\d,]+)\s+(\d\.\d+e\+\d+)\s*$", re.M)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("mof/", "mm1/"))])
def test_docstrings_say_what_it_costs(name):
    text = ast.get_docstring(ast.parse((ROOT / name).read_text()), clean=False)
    rows = COST.findall(text)
    assert {stage for _, stage, *_ in rows} == set(plans(name)) and "Not trained by us" in text and "mof train --config" in text
    for arg, stage, steps, batch, flops in rows:
        p = plans(f"{name}:{arg}" if arg else name)[stage]
        assert (steps, batch) == (f"{p.config.steps:,}", f"{p.config.batch_size:,}")
        assert float(flops) == pytest.approx(sum(p.flops.values()) * p.config.steps, rel=0.005)


@functools.cache
def words():
    return train(["a red apple. Q: what? USER: ASSISTANT: </s>"] * 3,
                 config=TokenizerConfig(kind="bpe", vocab_size=400, lowercase=False))


@pytest.mark.parametrize("spec", ["mof/llava15_7b.py", "mof/imof.py:px=336", "mof/amof.py", "mm1/pretrain_3b.py", "mm1/sft.py"])
def test_a_step_on_the_embedded_data_traces(spec):
    """One stream of real pictures and words, and the whole training step of the full-sized model on it, without arrays."""
    for name, p in plans(spec).items():
        data, rows = p.config.data, p.config.data.rows_per_stream
        batch = SequencePipeline(data, words(), rows).batch()
        assert batch["fill_tokens"].min() > 0.7 and batch["fill_images"].min() > 0.9, name
        assert batch["images"].shape[1] == p.config.model.image_size
        tx = make_optimizer(p.config.optimizer, p.config.steps, p.decisions, p.skeleton.matrices)
        trained = {path: d.trained for path, d in p.decisions.items()}
        init = init_fn(p.task.build, trained, tx, False, batch["cursor"])
        state = jax.eval_shape(init, jax.random.key(0))
        kept = " ".join(jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(state.opt))
        assert all((part in kept) == (part in " ".join(state.params)) for part in ("encoders/", "adapters/", "llm/")), name
        shards = batch_shards(p.mesh)
        wide = {key: jax.ShapeDtypeStruct((x.shape[0] * shards, *x.shape[1:]), x.dtype) for key, x in batch.items()}
        new, metrics = jax.eval_shape(make_step(p.task, p.skeleton, tx, 0, steps=p.config.steps), state, wide)
        assert metrics["loss"].shape == () and new.params.keys() == state.params.keys()


def test_the_costs_are_printed(capsys):
    cost.main([f"{ROOT}/mof/amof.py:ssl_ratio=0.5"])
    out = capsys.readouterr().out
    assert "align" in out and "4,648" in out and "1.03e+19" in out


def test_a_mof_config_runs_in_small(tmp_path):
    """Both stages on eight devices, with everything of the config but its sizes."""
    vit = dict(width=16, depth=2, heads=2, mlp_dim=32, patch_size=14, image_size=28, kernel="splash")
    small = dict(
        steps=2, batch_size=8, log_every=1, compilation_cache=None, mesh=dict(fsdp=8, tensor=1), tokenizer=dict(vocab_size=500),
        data=dict(context_length=192, rows_per_stream=1, images_per_stream=1, max_images=1, threads=1, prefetch=1,
                  kinds=dict(chat=dict(sources=[dict(size=200)]))),
        optimizer=dict(schedule=dict(warmup=0)),
        model=dict(llm=dict(variant=None, width=16, depth=1, heads=2, vocab_size=504), encoders=[dict(vit=vit), dict(vit=vit)]))
    c = configs.override(configs.load(f"{ROOT}/mof/imof.py:px=28"), [
        f"stages.{i}.{key}={value}" for i in range(2) for key, value in assignments(small)])
    trainer.train(c, str(tmp_path))
    for stage in ("align", "tune"):
        lines = [json.loads(text) for text in (tmp_path / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2] and all(0 < line["loss"] < 10 for line in lines)


def assignments(values: dict, where: str = "") -> list[tuple[str, object]]:
    """`(a.b.0.c, value)` of nested sections."""
    found = []
    for key, value in values.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        found += assignments(value, f"{where}{key}.") if isinstance(value, dict) else [(f"{where}{key}", value)]
    return found
