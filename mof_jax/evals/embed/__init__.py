"""Evaluators of embeddings: retrieval, zero-shot, neighbours, probes."""
