"""What is trained and compared: the arms, their controls, and how much of everything."""

from __future__ import annotations

import dataclasses
from typing import Any

from mof_jax.models.fusion.additive import Additive
from mof_jax.models.fusion.fusion import Fusion
from mof_jax.models.fusion.interleaved import Interleaved
from mof_jax.models.fusion.single import Single
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.train.optim import OptimizerConfig

SPLITS = ("dev", "known", "test")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One mixture.

    Attributes:
      title: in tables.
      towers: names of towers; `{s}` is the seed, `{t}` another seed.
      fusion: how their features are mixed.
      seeds: how many of the study's seeds it is trained with; 0 for all.
    """

    title: str
    towers: tuple[str, ...]
    fusion: Fusion = Single()
    seeds: int = 0


ARMS: dict[str, Arm] = {
    "clip": Arm("CLIP", ("clip-{s}",)),
    "ssl": Arm("SSL", ("ssl-{s}",)),
    "imof": Arm("I-MoF", ("clip-{s}", "ssl-{s}"), Interleaved()),
    "clip-twice": Arm("CLIP twice, two adapters", ("clip-{s}", "clip-{s}"), Interleaved()),
    "clip-clip": Arm("CLIP + a second CLIP", ("clip-{s}", "clip-{t}"), Interleaved()),
    "clip-random": Arm("CLIP + an untrained tower", ("clip-{s}", "random-{s}"), Interleaved()),
    **{f"amof-{ratio}": Arm(f"A-MoF, SSL ratio {ratio}", ("clip-{s}", "ssl-{s}"), Additive(ratio), seeds=1)
       for ratio in (0.25, 0.5, 0.625, 0.75, 0.875)},
    "amof-norm": Arm("A-MoF, SSL ratio 0.5, features normalised", ("clip-{s}", "ssl-{s}"), Additive(0.5, "layernorm"), seeds=1),
    "stated-clip": Arm("CLIP, captions always state the fact", ("stated-{s}",), seeds=1),
    "stated-imof": Arm("I-MoF, captions always state the fact", ("stated-{s}", "ssl-{s}"), Interleaved(), seeds=1),
    "other-ssl": Arm("the other SSL tower", ("other-{s}",), seeds=1),
    "other-imof": Arm("I-MoF with the other SSL tower", ("clip-{s}", "other-{s}"), Interleaved(), seeds=1),
}

CONTROLS = ("clip-twice", "clip-clip", "clip-random")  # as many tokens and adapters as I-MoF, without self-supervision


@dataclasses.dataclass(frozen=True)
class Study:
    """How much of everything.

    Attributes:
      seeds: of towers and readers alike: seed s reads the towers of seed s.
      pixels: side of the pictures. pictures: how many the readers learn from; towers see more, see their configs.
      pairs: of each pattern in `known` and `test`; dev_pairs: in `dev`.
      towers: name -> an ordinary run's config, as a function of the seed; "random" is the first CLIP's model, untrained.
      llm: of the readers. pretrain_steps: of the language model on the texts alone, once a seed.
      steps, batch_size, optimizer: of every reader.
      arms: names of `ARMS`.
      clip_above: least cosine of a CLIP-blind pair. ssl_below: largest cosine of the other tower, as a quantile of the cosines of
        the dev pairs.
    """

    towers: dict[str, Any]
    seeds: tuple[int, ...] = (0, 1, 2)
    pixels: int = 48
    pictures: int = 27_000
    pairs: int = 200
    dev_pairs: int = 100
    llm: LLMConfig = LLMConfig(width=128, depth=4, heads=4, mlp_dim=384, unroll=4)
    pretrain_steps: int = 300
    steps: int = 1000
    batch_size: int = 32
    optimizer: OptimizerConfig = OptimizerConfig()
    arms: tuple[str, ...] = tuple(ARMS)
    clip_above: float = 0.95
    ssl_below: float = 0.5

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds with which an arm is trained."""
        return self.seeds[: ARMS[arm].seeds or len(self.seeds)]

    def towers_of(self, arm: str, seed: int) -> tuple[str, ...]:
        """The towers of one reader, `KIND-SEED` each."""
        other = self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]
        return tuple(name.format(s=seed, t=other) for name in ARMS[arm].towers)

    @property
    def sweep(self) -> tuple[str, ...]:
        """The arms that differ in their SSL ratio alone; the one that does best on the dev world is trained with every seed."""
        return tuple(name for name in self.arms if isinstance(f := ARMS[name].fusion, Additive) and f.normalise == "none")

    @property
    def all_towers(self) -> tuple[str, ...]:
        """Every tower that some reader needs, without repetition."""
        names = [name for arm in self.arms for seed in self.seeds_of(arm) for name in self.towers_of(arm, seed)]
        return tuple(dict.fromkeys(names))

    def model(self, arm: str, tower: ViTConfig, vocabulary: int) -> MllmConfig:
        """The reader's model. Its encoders are called `a` and `b`, in the order of the arm's towers."""
        kind = ARMS[arm]
        encoders = tuple(EncoderConfig(name, dataclasses.replace(tower, pool="none", embed_dim=None))
                         for name, _ in zip("ab", kind.towers))
        return MllmConfig(encoders, dataclasses.replace(self.llm, vocab_size=vocabulary), kind.fusion)
