"""Checkpoints, and how far one can be trusted."""
