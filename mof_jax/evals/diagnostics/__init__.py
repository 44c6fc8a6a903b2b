"""Evaluators that look at embeddings as points: how they are spread, and what keeps modalities apart."""
