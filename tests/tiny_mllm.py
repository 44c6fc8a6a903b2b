"""A multimodal run small enough for a test: captions and questions about embedded pictures, packed."""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """One run; `arg="staged"`: adapters first, then the language model too, each long enough to be killed in its middle;
    `arg="words"`: without pictures."""
    c = ConfigDict()
    c.task, c.seed, c.steps, c.batch_size = "mllm", 3, 6, 16
    vit = dict(width=16, depth=1, heads=2, patch_size=8, image_size=16)
    c.model = dict(
        encoders=[dict(name="clip", vit=vit), dict(name="ssl", vit=vit)], fusion=dict(kind="interleaved"),
        llm=dict(width=16, depth=1, heads=2))
    c.tokenizer = dict(kind="bpe", vocab_size=400)
    c.data = dict(
        kinds=dict(caption=dict(weight=1.0, sources=[dict(kind="emoji5")]),
                   questions=dict(kind="chat", template="simple", weight=1.0, sources=[dict(kind="scenes", size=200)])),
        context_length=96, rows_per_stream=2, images_per_stream=12, max_images=2, threads=1)
    c.optimizer = dict(lr=1e-3, freeze=[("encoders/.*", True)])
    c.checkpoint, c.log_every, c.eval_every = dict(every=3, keep=2), 1, None
    c.compilation_cache = None
    return {None: lambda c: c, "staged": staged, "words": words}[arg](c)


def staged(c: ConfigDict) -> ConfigDict:
    c.steps, c.checkpoint, c.precision = 30, dict(every=5, keep=10), "highest"
    align, tune = c.to_dict() | dict(name="align"), c.to_dict() | dict(name="tune", seed=4)
    align["optimizer"] = dict(lr=1e-2, freeze=[("encoders/.*", True), ("llm/.*", True)])
    tune |= dict(init_from=dict(path="stage:align"), tokenizer=dict(kind="run", path="stage:align"))
    return ConfigDict(dict(stages=[align, tune]))


def words(c: ConfigDict) -> ConfigDict:
    """The same without eyes: a language model on definitions."""
    c.model = dict(encoders=[], llm=dict(width=16, depth=1, heads=2))
    c.data = dict(kinds=dict(text=dict(weight=1.0, sources=[dict(kind="glossary", size=200)])), context_length=96,
                  rows_per_stream=2, on_long="truncate", threads=1)
    c.optimizer = dict(lr=1e-3)
    return c
