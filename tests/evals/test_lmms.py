"""The lmms-eval adapter: on stand-ins of lmms-eval's classes, and on the package itself where it is installed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import pathlib
import sys
import types

from fake_generator import FakeGenerator
import numpy as np
from PIL import Image
import pytest

from mof_jax.decode.sample import SampleConfig
from mof_jax.errors import UserError

INSTALLED = importlib.util.find_spec("lmms_eval") is not None
SHADES = (10, 20, 30)


@dataclasses.dataclass
class Instance:
    """As in lmms-eval 0.7.3: `args` is what a task's `construct_requests` made."""

    request_type: str
    arguments: tuple
    idx: int = 0

    @property
    def args(self) -> tuple:
        return self.arguments if isinstance(self.arguments, tuple) else (self.arguments,)


class Lmms:
    """As in lmms-eval 0.7.3: what a model inherits."""

    is_simple = True

    def __init__(self):
        self.task_dict, self.kept = {}, []
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *entry: self.kept.append(entry))


@dataclasses.dataclass
class GenerationResult:
    """As in lmms-eval 0.7.3, which hands `text` on to the task."""

    text: object


@dataclasses.dataclass
class Manifest:
    model_id: str
    simple_class_path: str | None = None


@pytest.fixture
def lmms(monkeypatch):
    """The adapter's module, over stand-ins of the modules of lmms-eval that it imports."""
    stand_ins = {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.models": {}, "lmms_eval.api.model": {"lmms": Lmms},
                 "lmms_eval.api.instance": {"Instance": Instance, "GenerationResult": GenerationResult},
                 "lmms_eval.models.registry_v2": {"ModelManifest": Manifest}}
    for name, attributes in stand_ins.items():
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules.pop("mof_jax.commands.lmms", None)
    yield importlib.import_module("mof_jax.commands.lmms")
    sys.modules.pop("mof_jax.commands.lmms", None)


def model(lmms, generator):
    made = lmms.MofJax(generator=generator, batch_size="1", device="cuda:0", max_batch_size=None)
    made.task_dict = {"toy": {"test": [{"shade": shade, "answer": f" shade {shade}"} for shade in SHADES]}}
    return made


def visual(doc):
    return [Image.new("RGB", (8, 6), (doc["shade"],) * 3)]


def shade(asked):
    return int(asked.images[0][0, 0, 0])


def request(doc_id, context="What shade?", kwargs=None, doc_to_visual=visual):
    return Instance("generate_until", (context, dict(kwargs or {}), doc_to_visual, doc_id, "toy", "test"))


def test_generate_until(lmms):
    generator = FakeGenerator(lambda asked: f"shade {shade(asked)}\n\nand more")
    made = model(lmms, generator)
    kwargs = {"until": ["\n\n"], "max_new_tokens": 5, "do_sample": False, "temperature": 0, "top_p": 1.0, "num_beams": 1}
    assert made.generate_until([request(i, kwargs=kwargs) for i in (2, 0, 1)]) == ["shade 30", "shade 10", "shade 20"]
    asked = generator.asked[0]
    assert asked.text == "<image>\nWhat shade?" and asked.id == "toy:test:2" and not asked.plain
    assert asked.images[0].shape == (6, 8, 3) and asked.images[0].dtype == np.uint8
    assert generator.calls == [{"count": 3, "max_tokens": 5, "sample": SampleConfig(), "stop": ("\n\n",)}]
    assert made.kept[0] == ("generate_until", ("What shade?", kwargs), "shade 30")


def test_requests_of_unlike_decoding_are_asked_apart_and_keep_their_places(lmms):
    generator = FakeGenerator(lambda asked: f"{shade(asked)} one two three")
    kinds = [{"max_new_tokens": 2}, {"max_new_tokens": 1}, {"max_new_tokens": 2}]
    found = model(lmms, generator).generate_until([request(i, kwargs=kwargs) for i, kwargs in enumerate(kinds)])
    assert found == ["10 one", "20", "30 one"] and sorted(call["count"] for call in generator.calls) == [1, 2]


def test_blocks(lmms, monkeypatch):
    monkeypatch.setattr(lmms, "_BLOCK", 2)
    generator = FakeGenerator(lambda asked: str(shade(asked)), log_prob=lambda asked, answer: -shade(asked))
    assert model(lmms, generator).generate_until([request(i) for i in range(3)]) == ["10", "20", "30"]
    assert [call["count"] for call in generator.calls] == [2, 1]
    asked = [Instance("loglikelihood", ("c", " a", visual, i, "toy", "test")) for i in range(3)]
    assert [found.text[0] for found in model(lmms, generator).loglikelihood(asked)] == [10.0, 20.0, 30.0]


def test_where_pictures_stand(lmms):
    generator = FakeGenerator()
    two = lambda doc: [visual(doc), visual(doc)]
    model(lmms, generator).generate_until([request(0, "<image> or <image>?", doc_to_visual=two), request(0, doc_to_visual=two),
                                           request(0, "no picture", doc_to_visual=lambda doc: None)])
    assert [a.text for a in generator.asked] == ["<image> or <image>?", "<image>\n<image>\nWhat shade?", "no picture"]


@pytest.mark.parametrize("kwargs, expected", [
    ({}, (1024, SampleConfig(), ())),
    ({"until": "stop", "max_new_tokens": 7}, (7, SampleConfig(), ("stop",))),
    ({"temperature": 0.5, "top_p": 0.9}, (1024, SampleConfig(0.5, 0.9), ())),
    ({"temperature": 0.5, "do_sample": False}, (1024, SampleConfig(), ())),
    ({"do_sample": True, "top_k": 4, "top_p": None}, (1024, SampleConfig(1.0, 1.0, 4), ())),
    ({"temperature": None, "num_beams": None}, (1024, SampleConfig(), ())),
])
def test_decoding(lmms, kwargs, expected):
    assert lmms.decoding(kwargs) == expected


def test_loglikelihood_is_a_loss(lmms):
    """The least loss is the likeliest answer, as lmms-eval's multiple_choice reads it; targets are texts or functions."""
    likes = lambda asked, answer: -1.0 if answer == f" shade {shade(asked)}" else -8.0
    generator = FakeGenerator(lambda asked: f"shade {shade(asked)}", likes)
    targets = [" shade 10", " shade 1", " other", lambda doc: doc["answer"]]
    asked = [Instance("loglikelihood", ("Q", target, visual, 0, "toy", "test")) for target in targets]
    found = [result.text for result in model(lmms, generator).loglikelihood(asked)]
    assert found == [(0.5, True), (4.0, False), (8.0, False), (0.5, True)]
    assert np.argmin([loss for loss, _ in found]) == 0 and generator.asked[0].text == "<image>\nQ"


def test_refusals(lmms):
    made = model(lmms, FakeGenerator())
    with pytest.raises(UserError, match="num_beams=4"):
        made.generate_until([request(0, kwargs={"num_beams": 4})])
    with pytest.raises(UserError, match="toy:test:1: a str where a picture is expected"):
        made.generate_until([request(1, doc_to_visual=lambda doc: ["film.mp4"])])
    with pytest.raises(UserError, match="acc_mutual_info"):
        made.loglikelihood([Instance("loglikelihood", ("", "choice"))])
    with pytest.raises(UserError, match="one round"):
        made.generate_until_multi_round([])
    with pytest.raises(UserError, match="pretrained: unknown; mof_jax takes checkpoint=WORKDIR"):
        lmms.MofJax(pretrained="x")
    with pytest.raises(UserError, match="checkpoint=WORKDIR is missing"):
        lmms.MofJax(batch_size=1)


def test_the_checkpoint_is_restored(lmms, monkeypatch):
    generator = FakeGenerator()
    monkeypatch.setattr("mof_jax.restore.restore", lambda path: types.SimpleNamespace(generator=(generator, path)))
    assert lmms.MofJax(checkpoint="runs/x").generator == (generator, "runs/x")


def test_the_entry_point_names_the_adapter(lmms):
    setup = ast.parse((pathlib.Path(__file__).parents[2] / "setup.py").read_text())
    points = next(ast.literal_eval(k.value) for node in ast.walk(setup) if isinstance(node, ast.Call) for k in node.keywords
                  if k.arg == "entry_points")
    name, _, target = points["lmms_eval.models"][0].partition("=")
    module, _, function = target.partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    module, _, cls = manifest.simple_class_path.rpartition(".")
    assert manifest.model_id == name == "mof_jax" and getattr(importlib.import_module(module), cls) is lmms.MofJax


TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {folder}/toy.parquet}}}}
test_split: test
output_type: {output_type}
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed; pip install 'mof_jax[lmms]'")
def test_live(tmp_path):
    """Tasks of lmms-eval itself, from the registry to the score, on three pictures of which the model knows two."""
    import datasets
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import get_model
    from lmms_eval.tasks import TaskManager

    docs = [{"image": Image.new("RGB", (8, 6), (s,) * 3), "question": "What shade?", "answer": f"shade {s}"} for s in SHADES]
    words = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "question": words, "answer": words})
    datasets.Dataset.from_list(docs, features=features).to_parquet(tmp_path / "toy.parquet")
    (tmp_path / "utils.py").write_text("def visual(doc):\n    return [doc['image'].convert('RGB')]\n")
    generate = TASK.format(name="toy", folder=tmp_path, output_type="generate_until", metric="exact_match")
    choose = TASK.format(name="toy_choice", folder=tmp_path, output_type="multiple_choice", metric="acc")
    (tmp_path / "toy.yaml").write_text(generate + "generation_kwargs: {max_new_tokens: 4, until: ['\\n']}\n")
    (tmp_path / "toy_choice.yaml").write_text(choose + f"doc_to_choice: {[f'shade {s}' for s in SHADES]}\n")
    knows = lambda asked: f"shade {min(shade(asked), 20)}"
    generator = FakeGenerator(knows, lambda asked, answer: -1.0 if answer.strip() == knows(asked) else -5.0)
    found = simple_evaluate(get_model("mof_jax")(generator=generator), tasks=["toy", "toy_choice"], bootstrap_iters=0,
                            task_manager=TaskManager(include_path=str(tmp_path)))["results"]
    assert found["toy"]["exact_match,none"] == found["toy_choice"]["acc,none"] == pytest.approx(2 / 3)
