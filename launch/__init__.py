"""Starts runs of mof_jax on Cloud TPU and brings them through: `python -m launch --help`.

It stands outside the package: it reads job files and JSONL of runs, and talks to `gcloud` and `kubectl` only.
"""
