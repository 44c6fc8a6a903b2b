"""mof_jax: train, probe and mend the eyes of multimodal LLMs, in JAX and Flax NNX."""

from mof_jax.moved import install

__version__ = "0.1.0"

install()
